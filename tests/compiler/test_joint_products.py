"""Products of the same rows in one dispatch: the same numbers as apart, and what is left apart."""

import dataclasses
import functools

import lowc
import numpy as np
import pytest
from lowc.compiler.analysis import analyse
from lowc.compiler.recipe import Recipe
from lowc.passes.forms import Form, Rule
from products import units

pytestmark = pytest.mark.slow

K, EPSILON = 72, 1e-5
W4A8 = Form("dequant", weights="i4", group=32, activations="i8", activation_scale="group")
W8A8 = Form("dequant", weights="i8", group=0, activations="i8", activation_scale="row")
LUT = Form("binary", planes=2, group=64, tables="i6", method="auto")
TOGETHER = "one dispatch with "


@functools.cache
def block(kind="plain"):
    """A block of a decoder without its attention; `kind` says what is changed."""
    import torch
    from torch import nn

    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(K) + 0.5)

        def forward(self, x):
            scaled = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON)
            return scaled * self.weight if kind == "weight last" else self.weight * scaled

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Norm(), Norm()
            for name, outputs in {"q": 96, "k": 40, "v": 40, "gate": 150, "up": 150}.items():
                self.add_module(name, nn.Linear(K, outputs, bias=kind == "biased" or name in "qv"))
            self.down = nn.Linear(150, K, bias=False)

        def forward(self, x):
            h = self.first(x)
            q, k = self.q(h), self.k(x + 1 if kind == "other rows" else h)
            v = self.v(h) * k.sum(-1, keepdim=True) if kind == "waits" else self.v(h)
            if kind == "waits":
                v = v + 1
            y = x + q[:, :K]
            g = self.second(y)
            z = y + self.down(nn.functional.silu(self.gate(g)) * self.up(g))
            return (q, k, v, z, h) if kind == "norm is read" else (q, k, v, z)

    torch.manual_seed(0)
    return Block().eval()


@functools.cache
def exported(kind="plain", rows=1):
    import torch

    return torch.export.export(block(kind), (torch.zeros(rows, K),))


def recipe(form, **others):
    rules = [Rule(name, other) for name, other in others.items()]
    return Recipe("test", (*rules, Rule("*", form)))


def together(found):
    """Return which products of a report are one dispatch, and for which the norm is in it."""
    rows = {row["name"]: row["lowering"] for row in found["matmuls"]}
    groups = {
        name: tuple(sorted([name, *text.partition(TOGETHER)[2].partition(";")[0].split(", ")]))
        for name, text in rows.items()
        if TOGETHER in text
    }
    return set(groups.values()), {name for name, text in rows.items() if "RMSNorm" in text}


QKV, MLP = ("k", "q", "v"), ("gate", "up")
ALL = {*QKV, *MLP}


@pytest.mark.parametrize("target", ["cpu", "cpu:haswell"])
@pytest.mark.parametrize(("form", "rows"), [(W4A8, 1), (W4A8, 3), (W8A8, 1), (LUT, 1)])
def test_the_same_numbers_as_apart(tmp_path, target, form, rows):
    one = lowc.compile(exported(rows=rows), recipe(form), target, output=tmp_path / "one.vmfb")
    groups, normed = together(one.report)
    # Without VBMI tables are made by a dispatch of their own, so these products are not joined.
    is_joined = form is not LUT or (target == "cpu" and units.here() == "avx512vbmi")
    assert (groups, normed) == (({QKV, MLP}, ALL) if is_joined else (set(), set()))
    apart = lowc.compile(
        exported(rows=rows), recipe(form), target, output=tmp_path / "apart.vmfb", kernels=False
    )
    x = np.random.default_rng(1).standard_normal((rows, K)).astype(np.float32)
    found, wanted = lowc.load(one)(x), lowc.load(apart)(x)
    for a, b in zip(found, wanted, strict=True):
        # A sum of squares in another order may round an activation to its neighbour.
        assert np.abs(a - b).max() <= 2e-3 * np.abs(b).max()


@pytest.mark.parametrize(("form", "rows"), [(W4A8, 1), (W8A8, 3)])
def test_biases_do_not_part_gate_and_up(tmp_path, form, rows):
    program = exported("biased", rows)
    one = lowc.compile(program, recipe(form), output=tmp_path / "one.vmfb")
    assert together(one.report) == ({QKV, MLP}, ALL)
    [up] = [row for row in one.report["matmuls"] if row["name"] == "up"]
    assert "bias" in up["lowering"]
    apart = lowc.compile(program, recipe(form), output=tmp_path / "apart.vmfb", kernels=False)
    x = np.random.default_rng(1).standard_normal((rows, K)).astype(np.float32)
    for a, b in zip(lowc.load(one)(x), lowc.load(apart)(x), strict=True):
        assert np.abs(a - b).max() <= 2e-3 * np.abs(b).max()


def test_norms_are_found_with_their_weight_on_either_side():
    groups, normed = together(analyse(exported("weight last"), recipe(W4A8)))
    assert (groups, normed) == ({QKV, MLP}, ALL)


def test_products_of_other_rows_stay_apart():
    groups, normed = together(analyse(exported("other rows"), recipe(W4A8)))
    assert groups == {("q", "v"), MLP}
    assert normed == {"q", "v", *MLP}


def test_a_norm_that_is_read_elsewhere_stays():
    groups, normed = together(analyse(exported("norm is read"), recipe(W4A8)))
    assert groups == {QKV, MLP}
    assert normed == set(MLP)


def test_products_of_other_forms_stay_apart():
    found = analyse(exported(), recipe(W4A8, k=W8A8, up=Form("exact")))
    groups, normed = together(found)
    assert groups == {("q", "v")}
    assert normed == set()  # others read what the norms make


def test_a_product_whose_epilogue_waits_for_another_one_stays_apart():
    groups, _ = together(analyse(exported("waits"), recipe(W4A8)))
    assert groups in ({("k", "q"), MLP}, {QKV, MLP})
    found = analyse(exported("waits"), recipe(W4A8))
    [row] = [row for row in found["matmuls"] if row["name"] == "v"]
    assert ("scale" in row["lowering"]) <= (("k", "q") in groups)


def test_many_rows_stay_apart():
    groups, normed = together(analyse(exported(rows=16), recipe(W4A8)))
    assert (groups, normed) == (set(), set())


def test_a_gpu_has_no_such_kernel():
    groups, normed = together(analyse(exported(), recipe(W4A8), "cuda"))
    assert (groups, normed) == (set(), set())


def test_no_more_products_than_there_are_bindings_for():
    import torch
    from torch import nn

    class Four(nn.Module):
        def __init__(self):
            super().__init__()
            self.all = nn.ModuleList(nn.Linear(64, 32) for _ in range(4))

        def forward(self, x, others):
            return [(linear(x) + a) * b for linear, (a, b) in zip(self.all, others, strict=True)]

    others = [(torch.ones(1, 32), torch.ones(1, 32)) for _ in range(4)]
    program = torch.export.export(Four().eval(), (torch.zeros(1, 64), others))
    form = dataclasses.replace(W4A8, scales="f16", symmetric=False)
    groups, _ = together(analyse(program, recipe(form)))
    assert groups == {("all.0", "all.1", "all.2")}  # all four would be 33 buffers


def test_a_norm_whose_rows_do_not_fit_the_stack_stays():
    import torch
    from torch import nn

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(3584) + 0.5)
            self.one, self.two = nn.Linear(3584, 32), nn.Linear(3584, 32)

        def forward(self, x):
            x = self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON))
            return self.one(x), self.two(x)

    for rows, normed in ((3, {"one", "two"}), (4, set())):
        program = torch.export.export(Wide().eval(), (torch.zeros(rows, 3584),))
        found = together(analyse(program, recipe(W4A8), "cpu:cascadelake"))
        assert found == ({("one", "two")}, normed)


def _gated(kind):
    """One product's result multiplies another's, and is read elsewhere too; or an odd norm."""
    import torch
    from torch import nn

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.g, self.u = nn.Linear(64, 96, bias=False), nn.Linear(64, 96, bias=False)

        def forward(self, x):
            if kind == "norm of all rows":  # 64 is a row's length, and the sum is of both rows
                square = x.reshape(1, 128).pow(2).sum(-1, keepdim=True) / 64
                x = x * torch.rsqrt(square + EPSILON) * torch.arange(1.0, 65.0)
                return self.g(x), self.u(x)
            gate = self.g(x)
            if kind == "viewed":
                gate = nn.functional.silu(gate).view(1, 4, 24)
                return gate, self.u(x).view(1, 4, 24) * gate, gate.sum(-1)
            return gate, self.u(x) * gate

    torch.manual_seed(0)
    return Gated().eval()


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("returned", (1, 1, 64)), ("viewed", (1, 64)), ("norm of all rows", (2, 64))],
)
def test_what_is_read_elsewhere_and_norms_of_other_lengths(tmp_path, kind, shape):
    import torch

    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    x[0] *= 5 if kind == "norm of all rows" else 1
    program = torch.export.export(_gated(kind), (torch.from_numpy(x),))
    one = lowc.compile(program, recipe(W4A8), output=tmp_path / "one.vmfb")
    apart = lowc.compile(program, recipe(W4A8), output=tmp_path / "apart.vmfb", kernels=False)
    groups, normed = together(one.report)
    assert (groups, normed) == ({("g", "u")}, set())
    for a, b in zip(lowc.load(one)(x), lowc.load(apart)(x), strict=True):
        assert np.abs(a - b).max() <= 2e-3 * np.abs(b).max()
