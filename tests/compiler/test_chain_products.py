"""Products of which each reads what the one before made: the same bits as apart, and no waiting for
what nobody does."""

import dataclasses
import functools
import threading

import lowc
import numpy as np
import pytest
from lowc.compiler import pipeline
from lowc.compiler.analysis import analyse
from lowc.compiler.recipe import Recipe
from lowc.passes.forms import Form, Rule
from lowc.passes.kernels import emit, executable
from lowc.passes.kernels.executable import MOST_BINDINGS
from lowc.passes.outline_kernels import OutlineKernels

pytestmark = pytest.mark.slow

K, HIDDEN, EPSILON = 96, 416, 1e-5
W4A8 = Form("dequant", weights="i4", group=32, activations="i8", activation_scale="group")
W8A8 = Form("dequant", weights="i8", group=0, activations="i8", activation_scale="row")
LUT = Form("binary", planes=2, group=32, tables="i6", method="auto")
LAYER = {"o": 1, "gate": 2, "up": 2, "down": 3, "q": 4, "k": 4, "v": 4}


def recipe(form, **others):
    rules = [Rule(name, other) for name, other in others.items()]
    return Recipe("test", (*rules, Rule("*", form)))


@functools.cache
def layer(rows=1, kind="plain"):
    """A layer of a decoder from its attention to the next one's; `kind` says what is changed."""
    import torch
    from torch import nn

    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(K) + 0.5)

        def forward(self, x):
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON))

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Norm(), Norm()
            sizes = {"o": (K, K), "gate": (K, HIDDEN), "up": (K, HIDDEN), "down": (HIDDEN, K),
                     "q": (K, K), "k": (K, 40), "v": (K, 40)}  # fmt: skip
            for name, (inputs, outputs) in sizes.items():
                self.add_module(name, nn.Linear(inputs, outputs, bias=name in ("q", "v")))

        def forward(self, mixed, x):
            x = x + self.o(mixed)
            turned = x.flip(-1) if kind == "read between" else None
            g = self.first(x)
            g = nn.functional.silu(self.gate(g)) * self.up(g)
            x = x + self.down(g)
            h = self.second(x)
            found = self.q(h), self.k(h), self.v(h), x
            return (*found, turned) if kind == "read between" else found

    torch.manual_seed(0)
    return torch.export.export(Layer().eval(), (torch.zeros(rows, K), torch.zeros(rows, K)))


@functools.cache
def row_of(count, outputs=64):
    """So many linear layers with an activation behind each."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers = [one for _ in range(count) for one in (nn.Linear(64, outputs), nn.GELU())]
    return torch.export.export(nn.Sequential(*layers).eval(), (torch.zeros(1, 64),))


def steps(found):
    """Return which step of how many each product is, by the report."""
    places = {}
    for row in found["matmuls"]:
        words = row["lowering"].partition("; step ")[2].split()
        if words:
            places[row["name"]] = int(words[0]), int(words[2])
    return places


def apart(monkeypatch):
    """Compile without chains from here on."""
    monkeypatch.setattr(pipeline, "OutlineKernels", functools.partial(OutlineKernels, chains=False))


def inputs(rows, seed=0, width=K):
    random = np.random.default_rng(seed)
    return [random.standard_normal((rows, width)).astype(np.float32) for _ in range(2)]


def same(one, other):
    return all((a == b).all() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("target", "form", "rows"),
    [("cpu", W4A8, 1), ("cpu", W8A8, 3), ("cpu", LUT, 1), ("cpu:haswell", W4A8, 1)],
)
def test_the_same_bits_as_apart(tmp_path, monkeypatch, target, form, rows):
    model = layer(rows)
    one = lowc.compile(model, recipe(form), target, output=tmp_path / "one.vmfb")
    apart(monkeypatch)
    other = lowc.compile(model, recipe(form), target, output=tmp_path / "other.vmfb")
    assert steps(other.report) == {}
    assert sorted(row["name"] for row in one.report["matmuls"]) == sorted(LAYER)
    if form is not LUT:  # whose tables a dispatch makes where there is no VBMI
        assert steps(one.report) == {name: (number, 4) for name, number in LAYER.items()}
    wanted = lowc.load(other, "cpu")
    for device, threads in (("cpu", 1), ("cpu", None), ("cpu-sync", None)):
        found = lowc.load(one, device, threads=threads)
        for seed in range(20):
            given = inputs(rows, seed)
            assert same(found(*given), wanted(*given))


@pytest.mark.parametrize("groups", [1, 3, 7, 40])
def test_workgroups_need_not_run_at_the_same_time(tmp_path, monkeypatch, groups):
    """On a device without threads they run one after another, of which none may wait for a later
    one; the last ones have no unit of their own."""
    wanted = lowc.load(lowc.compile(layer(), recipe(W4A8), output=tmp_path / "one.vmfb"), "cpu")
    monkeypatch.setattr(executable, "threads", lambda _: emit.index(groups))
    made = lowc.compile(layer(), recipe(W4A8), output=tmp_path / "many.vmfb")
    assert steps(made.report)
    for device in ("cpu-sync", "cpu"):
        found = lowc.load(made, device)
        for seed in range(20):
            given = inputs(1, seed)
            assert same(found(*given), wanted(*given))


def test_calls_at_the_same_time_have_counters_of_their_own(tmp_path):
    made = lowc.compile(layer(), recipe(W4A8), output=tmp_path / "one.vmfb")
    modules = [lowc.load(made, "cpu") for _ in range(4)]
    wanted = [modules[0](*inputs(1, seed)) for seed in range(8)]
    wrong = []

    def call(module):
        for turn in range(200):
            if not same(module(*inputs(1, turn % 8)), wanted[turn % 8]):
                wrong.append(turn)

    threads = [threading.Thread(target=call, args=(module,)) for module in modules]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_chain_ends_where_its_result_is_read_between():
    found = analyse(layer(kind="read between"), recipe(W4A8))
    later = {name: (number - 1, 3) for name, number in LAYER.items() if name != "o"}
    assert steps(found) == later
    rows = {row["name"]: row["lowering"] for row in found["matmuls"]}
    assert "a dispatch apart from o: o is read between" in rows["gate"]


def test_a_product_of_another_form_is_no_step():
    found = steps(analyse(layer(), recipe(W4A8, down=Form("exact"))))
    assert found == {"o": (1, 2), "gate": (2, 2), "up": (2, 2)}


def test_as_many_steps_as_a_dispatch_has_bindings_for(tmp_path, monkeypatch):
    # Codes, scales and bias of each step; rows, result, counters, and what only steps read.
    most = (MOST_BINDINGS - 4) // 3
    made = lowc.compile(row_of(most + 2), recipe(W4A8), output=tmp_path / "one.vmfb")
    counts = [count for _, count in steps(made.report).values()]
    assert sorted(counts) == [2, 2, *[most] * most]
    said = [row["lowering"] for row in made.report["matmuls"]]
    assert any(f"a dispatch has {MOST_BINDINGS} bindings at most" in text for text in said)
    apart(monkeypatch)
    other = lowc.compile(row_of(most + 2), recipe(W4A8), output=tmp_path / "other.vmfb")
    given = inputs(1, width=64)[:1]
    assert same([lowc.load(made, "cpu")(*given)], [lowc.load(other, "cpu")(*given)])


def test_as_many_steps_as_a_worker_has_stack_for():
    """Four rows of 3072, normed, and their records: a step more is 512 bytes more."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = (
                nn.Linear(64, 3072),
                nn.Linear(3072, 64),
                nn.Linear(64, 32),
            )
            self.weight = nn.Parameter(torch.rand(3072) + 0.5)

        def forward(self, x):
            x = self.one(x)
            x = self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON))
            return self.three(self.two(x))

    torch.manual_seed(0)
    model = torch.export.export(Net().eval(), (torch.zeros(4, 64),))
    found = analyse(model, recipe(W4A8), "cpu:cascadelake")
    assert steps(found) == {"one": (1, 2), "two": (2, 2)}
    rows = {row["name"]: row["lowering"] for row in found["matmuls"]}
    assert list(rows) == ["one", "two", "three"]  # in their order
    assert "it needs 66048 bytes of stack, of 65536" in rows["three"]
    assert "RMSNorm" in rows["two"]


HALVES = dataclasses.replace(W4A8, scales="f16")
ZEROS = dataclasses.replace(W4A8, symmetric=False)


@pytest.mark.parametrize(
    ("form", "rows", "width"),
    [
        (HALVES, 2, 64),
        (ZEROS, 4, 64),
        (dataclasses.replace(ZEROS, scales="f16"), 1, 72),
        (W8A8, 4, 72),
    ],
)
def test_rows_scales_zero_points_and_a_result_in_the_middle(
    tmp_path, monkeypatch, form, rows, width
):
    """Groups of 32 end at 64 and not at 72; the second of three steps is a result too."""
    import torch
    from torch import nn

    class Row(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = (nn.Linear(width, width) for _ in range(3))

        def forward(self, x):
            middle = nn.functional.gelu(self.two(nn.functional.gelu(self.one(x))))
            return self.three(middle), middle

    torch.manual_seed(0)
    model = torch.export.export(Row().eval(), (torch.zeros(rows, width),))
    made = lowc.compile(model, recipe(form), output=tmp_path / "one.vmfb")
    assert steps(made.report) == {"one": (1, 3), "two": (2, 3), "three": (3, 3)}
    apart(monkeypatch)
    other = lowc.compile(model, recipe(form), output=tmp_path / "other.vmfb")
    assert steps(other.report) == {}
    given = inputs(rows, width=width)[:1]
    found, wanted = (lowc.load(one, "cpu")(*given) for one in (made, other))
    assert np.abs(wanted[1]).max() > 0.1
    assert same(found, wanted)


def test_chains_within_each_other(tmp_path, monkeypatch):
    """Of two branches the one that begins first ends last."""
    import torch
    from torch import nn

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.one, self.other = (nn.Linear(64, 64) for _ in range(4))

        def forward(self, x, y):
            outer = nn.functional.gelu(self.first(x))
            inner = self.other(nn.functional.gelu(self.one(y)))
            return self.last(outer), inner

    torch.manual_seed(0)
    model = torch.export.export(Branches().eval(), (torch.zeros(1, 64), torch.zeros(1, 64)))
    made = lowc.compile(model, recipe(W4A8), output=tmp_path / "one.vmfb")
    pairs = {"first": (1, 2), "last": (2, 2), "one": (1, 2), "other": (2, 2)}
    assert steps(made.report) == pairs
    apart(monkeypatch)
    other = lowc.compile(model, recipe(W4A8), output=tmp_path / "other.vmfb")
    given = inputs(1, width=64)
    assert same(lowc.load(made, "cpu")(*given), lowc.load(other, "cpu")(*given))


def test_many_rows_are_no_chain():
    assert steps(analyse(layer(16), recipe(W4A8))) == {}


def test_a_gpu_has_no_chains():
    assert steps(analyse(layer(), recipe(W4A8), "cuda")) == {}
