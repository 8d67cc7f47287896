"""What models may contain: each feature from PyTorch to a running module, compared with PyTorch."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim
from zoo.comparison import (
    TOLERANCE,
    as_arrays,
    error,
    export,
    form_of,
    matmul_rows,
    rounded,
    run_and_compare,
    stored_parameters,
    with_rounded_weights,
)

import lowc
from lowc import UserError
from lowc.compiler.recipe import Recipe
from lowc.passes.forms import Form, Rule

pytestmark = pytest.mark.slow


def seeded(kind: type[nn.Module], *args: Any) -> nn.Module:
    torch.manual_seed(0)
    return kind(*args).eval().requires_grad_(False)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def load(model: nn.Module, *args: Any, recipe: Any = "f32", **kwargs: Any) -> lowc.Module:
    """Export with these inputs, compile and load."""
    return lowc.load(lowc.compile(export(model, args, kwargs), recipe))


def recipe_of(form: Form) -> Recipe:
    return Recipe("test", (Rule("*:*", Form()), Rule("*", form)))


def with_rounded(model: nn.Module, form: Form, axes: dict[str, int]) -> nn.Module:
    """Return a copy with the named parameters rounded along the given axis."""
    model = copy.deepcopy(model)
    for path, axis in axes.items():
        parent, _, name = path.rpartition(".")
        value = rounded(model.get_parameter(path), form, axis)
        setattr(model.get_submodule(parent), name, nn.Parameter(value, requires_grad=False))
    return model


# -- dynamic sizes ---------------------------------------------------------------------------------


class Rows(nn.Module):
    """Merges and splits dynamic dimensions on both sides of linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(70, 24), nn.Linear(24, 6)

    def forward(self, x, weight):
        batch, length, _ = x.shape
        hidden = torch.relu(self.first(x)) * weight[..., None]
        heads = hidden.view(batch, length, 4, 6).transpose(1, 2)
        flat = heads.reshape(batch * 4, length, 6).sum(-1)
        joined = heads.transpose(1, 2).reshape(-1, 24)
        return self.second(joined), flat, hidden.flatten(), hidden.reshape(batch, -1)


@cache
def rows_model(recipe: str) -> tuple[nn.Module, lowc.Module]:
    batch, length = Dim("batch", max=16), Dim("length", max=64)
    shapes = {"x": {0: batch, 1: length}, "weight": {0: batch, 1: length}}
    model = seeded(Rows)
    program = export(model, (randn(3, 5, 70), randn(3, 5)), None, shapes)
    return model, lowc.load(lowc.compile(program, recipe))


# Products are split at 4 rows: 1, 2, 4 of them on one side, 5 and more on the other.
@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (1, 4), (2, 2), (5, 1), (16, 64), (3, 7)])
@pytest.mark.parametrize("recipe", ["f32", "w4a16"])
def test_batch_and_length_are_dynamic(recipe, sizes):
    model, module = rows_model(recipe)
    reference = model if recipe == "f32" else with_rounded_weights(model, form_of(recipe))
    assert run_and_compare(module, reference, randn(*sizes, 70), randn(*sizes)) < TOLERANCE


def test_a_dynamic_number_of_rows_is_decided_at_run_time():
    _, module = rows_model("w4a16")
    assert "at run time" in {row["name"]: row for row in module.report["matmuls"]}["first"]["lowering"]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 3, 71), (2, 3)), "70"),
        (((2, 3, 70), (2, 4)), "3"),
        (((17, 3, 70), (17, 3)), "16"),
        (((2, 70), (2,)), "x"),
    ],
)
def test_a_shape_that_does_not_fit_is_named(shapes, message):
    _, module = rows_model("f32")
    with pytest.raises(UserError, match=message):
        module(*(np.zeros(shape, np.float32) for shape in shapes))


# -- nesting ---------------------------------------------------------------------------------------


class Pair(NamedTuple):
    left: Any
    right: Any


class Nested(nn.Module):
    """Dictionaries, tuples, named tuples, fixed values and keywords; the same output twice."""

    def forward(self, pair, options, *, scale, mode="sum", skip=None, times=1):
        left, (right, more) = pair
        total = left + right * times + more["deep"][0]
        if mode != "sum" or skip is not None:
            total = -total
        both = Pair(total, options["shift"])
        return {"total": total * scale, "both": both, "again": [total, total], "as is": left,
                "fixed": (None, 7)}  # fmt: skip


@cache
def nested_model() -> tuple[nn.Module, lowc.Module, tuple[Any, ...], dict[str, Any]]:
    args = (
        (randn(2, 3), (randn(2, 3) + 1, {"deep": [randn(3)]})),
        {"shift": torch.arange(3), "unused": randn(1)},
    )
    kwargs = {"scale": randn(1), "mode": "sum", "skip": None, "times": 3}
    model = seeded(Nested)
    return model, load(model, *args, **kwargs), args, kwargs


def test_nested_inputs_and_outputs():
    model, module, args, kwargs = nested_model()
    assert run_and_compare(module, model, *args, **kwargs) == 0
    out = module(*as_arrays(args), **as_arrays(kwargs))
    assert set(out) == {"total", "both", "again", "as is", "fixed"}
    assert out["both"]._fields == ("left", "right")
    assert out["fixed"] == (None, 7)
    assert isinstance(out["again"], list)


def test_positional_inputs_may_come_by_name_and_fixed_ones_not_at_all():
    model, module, args, kwargs = nested_model()
    pair, options = as_arrays(args)
    given = module(options=options, scale=kwargs["scale"].numpy(), pair=pair)
    assert error(given, model(*args, **kwargs)) == 0


def test_another_value_than_the_exported_one_is_refused():
    _, module, args, kwargs = nested_model()
    with pytest.raises(UserError, match="times"):
        module(*as_arrays(args), **as_arrays(kwargs | {"times": 4}))


# -- data types ------------------------------------------------------------------------------------


class Integers(nn.Module):
    def forward(self, a, b, small, byte, scalar):
        return (
            a // 3, a % 3, torch.where(b, a, -a), (a > 2) & b, ~b, small * 2, byte + 250, a.sum(),
            b.any(), scalar + 1, a.float() / scalar, a[:0],
        )  # fmt: skip


def test_integers_booleans_and_rank_0():
    inputs = (
        torch.arange(-5, 5), torch.arange(10) % 3 == 0, torch.arange(4, dtype=torch.int32),
        torch.arange(8, dtype=torch.uint8), torch.tensor(2.5),
    )  # fmt: skip
    model = seeded(Integers)
    assert run_and_compare(load(model, *inputs), model, *inputs) < TOLERANCE


class Mlp(nn.Module):
    """Two linear layers; K is 70 and 33."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(70, 33), nn.Linear(33, 8)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-12), ("float16", 4e-3), ("bfloat16", 3e-2)]
)
@pytest.mark.parametrize("recipe", ["f32", "w4a16"])
def test_models_of_other_floats(dtype, tolerance, recipe):
    kind = getattr(torch, dtype)
    model = seeded(Mlp).to(kind)
    x = randn(5, 70).to(kind)
    module = load(model, x, recipe=recipe)
    if recipe == "f32":
        assert run_and_compare(module, model, x) < tolerance
        return
    assert {row["form"] for row in module.report["matmuls"]} == {"dequant"}
    reference = with_rounded_weights(model, form_of(recipe))
    # Scales are f32, so the float64 model has weights of f32 precision.
    assert run_and_compare(module, reference, x) < max(tolerance, 1e-6)


# -- weights ---------------------------------------------------------------------------------------


class Products(nn.Module):
    """Every way to multiply by a weight.  `axes` says which axis of it is summed over."""

    axes = {  # noqa: RUF012
        "plain.weight": 1, "narrow.weight": 1, "odd.weight": 1, "single.weight": 1,
        "einsum": 1, "einsum_two": 1, "left": 1, "right": 0, "vector": 1, "batched": 1,
        "fused": 1, "twice.weight": 1, "attention.in_proj_weight": 1,
        "attention.out_proj.weight": 1, "head.weight": 1, "strided": 1, "multiplied": 1,
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(70, 12)
        self.narrow = nn.Linear(6, 4, bias=False)  # K below the group
        self.odd = nn.Linear(37, 5)
        self.single = nn.Linear(1, 3)
        self.einsum = nn.Parameter(torch.randn(8, 40))
        self.einsum_two = nn.Parameter(torch.randn(8, 40))
        self.left = nn.Parameter(torch.randn(9, 40))
        self.right = nn.Parameter(torch.randn(40, 9))
        self.vector = nn.Parameter(torch.randn(9, 40))
        self.batched = nn.Parameter(torch.randn(3, 40, 5))
        self.fused = nn.Parameter(torch.randn(24, 40))
        self.twice = nn.Linear(40, 40)
        self.attention = nn.MultiheadAttention(40, 4, batch_first=True)
        self.embedding = nn.Embedding(11, 40)
        self.head = nn.Linear(40, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.strided = nn.Parameter(torch.randn(40, 18)[:, ::2].t())
        self.multiplied = nn.Parameter(torch.randn(7, 40))
        self.added = self.multiplied

    def forward(self, x, ids):
        """x is [3, 2, 40], ids [3, 2]."""
        query, key, value = (F.linear(x, part) for part in self.fused.chunk(3))
        wide = torch.cat([x, x[..., :30]], -1)
        return {
            "plain": self.plain(wide),
            "narrow": self.narrow(x[..., :6]),
            "odd": self.odd(x[..., 3:]),
            "single": self.single(x[..., :1]),
            "einsum": torch.einsum("bij,kj->bik", x, self.einsum),
            "einsum_two": torch.einsum(
                "bihj,khj->bik", x.unflatten(2, (4, 10)), self.einsum_two.unflatten(1, (4, 10))
            ),
            "left": self.left @ x[0].t(),
            "right": x @ self.right,
            "vector": self.vector @ x[1, 1],
            "batched": torch.bmm(x, self.batched),
            "fused": F.scaled_dot_product_attention(query, key, value),
            "twice": self.twice(torch.tanh(self.twice(x))),
            "attention": self.attention(x, x, x)[0],
            "tied": self.head(self.embedding(ids)),
            "strided": x @ self.strided.t(),
            "both": F.linear(x, self.multiplied) + self.added.sum(),
            "constant": self.left @ self.right,
        }


RECIPES = {
    "f32": "f32",
    "w4a16": "w4a16",
    "w8a16": "w8a16",
    "i4, groups of 32": recipe_of(Form("dequant", "i4", 32)),
    "i8, zero point": recipe_of(Form("dequant", "i8", 16, symmetric=False)),
    "i4, one group": recipe_of(Form("dequant", "i4", 0)),
}
PRODUCT_INPUTS = (randn(3, 2, 40), torch.arange(6).reshape(3, 2))


@cache
def products(recipe: str) -> tuple[lowc.Artifact, dict[str, float]]:
    """Return what was compiled, and the error of each output."""
    model = seeded(Products)
    artifact = lowc.compile(export(model, PRODUCT_INPUTS), RECIPES[recipe])
    reference = model
    if recipe != "f32":
        reference = with_rounded(model, form_of(RECIPES[recipe]), Products.axes)
    got, wanted = lowc.load(artifact)(*as_arrays(PRODUCT_INPUTS)), reference(*PRODUCT_INPUTS)
    if recipe != "f32":
        # A product of two parameters is left as it is.
        wanted["constant"] = model.left @ model.right
    return artifact, {name: error(got[name], wanted[name]) for name in wanted}


@pytest.mark.parametrize("recipe", RECIPES)
def test_products_with_weights(recipe):
    errors = products(recipe)[1]
    assert {name: worst for name, worst in errors.items() if not worst < TOLERANCE} == {}


def test_every_product_with_a_weight_is_rounded():
    kept = {row["name"]: row["lowering"] for row in products("w4a16")[0].report["matmuls"]
            if row["form"] == "exact"}  # fmt: skip
    print(kept)
    assert not kept
