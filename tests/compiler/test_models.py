"""What models may contain: each feature from PyTorch to a running module, compared with PyTorch."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, NamedTuple

import lowc
import numpy as np
import pytest
import torch
from lowc import UserError
from lowc.compiler.recipe import Recipe
from lowc.passes.forms import Form, Rule
from torch import nn
from torch.export import Dim
from torch.nn import functional
from torch.utils import _pytree
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
    rows = {row["name"]: row for row in module.report["matmuls"]}
    assert "codes in registers up to 4 rows, else" in rows["first"]["lowering"]


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


_pytree._register_namedtuple(Pair, serialized_type_name="test_models.Pair")


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
    assert run_and_compare(module, model, *args, **kwargs) < 1e-6
    out = module(*as_arrays(args), **as_arrays(kwargs))
    assert set(out) == {"total", "both", "again", "as is", "fixed"}
    assert out["both"]._fields == ("left", "right")
    assert out["fixed"] == (None, 7)
    assert isinstance(out["again"], list)


def test_positional_inputs_may_come_by_name_and_fixed_ones_not_at_all():
    model, module, args, kwargs = nested_model()
    pair, options = as_arrays(args)
    given = module(options=options, scale=kwargs["scale"].numpy(), pair=pair)
    assert error(given, model(*args, **kwargs)) < 1e-6


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


INTEGERS = (
    torch.arange(-5, 5), torch.arange(10) % 3 == 0, torch.arange(4, dtype=torch.int32),
    torch.arange(8, dtype=torch.uint8), torch.tensor(2.5),
)  # fmt: skip


def test_integers_booleans_and_rank_0():
    model = seeded(Integers)
    artifact = lowc.compile(export(model, INTEGERS))
    assert artifact.files == [artifact.path]  # without parameters there is no second file
    assert run_and_compare(lowc.load(artifact), model, *INTEGERS) < TOLERANCE


class Mlp(nn.Module):
    """Two linear layers; K is 70 and 33."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(70, 33), nn.Linear(33, 8)

    def forward(self, x):
        return self.second(
            functional.silu(self.first(x)) if x.dtype != torch.float64 else self.first(x)
        )


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
    assert run_and_compare(module, reference, x) < tolerance


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
        query, key, value = (functional.linear(x, part) for part in self.fused.chunk(3))
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
            "fused": functional.scaled_dot_product_attention(query, key, value),
            "twice": self.twice(torch.tanh(self.twice(x))),
            "attention": self.attention(x, x, x)[0],
            "tied": self.head(self.embedding(ids)),
            "strided": x @ self.strided.t(),
            "both": functional.linear(x, self.multiplied) + self.added.sum(),
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
    rows = matmul_rows(products("w4a16")[0])
    kept = {name: row["lowering"] for name, row in rows.items() if row["form"] == "exact"}
    # Two inside of each attention, one of two parameters, and a K of 1, which would only grow.
    products_of_two = ["attention:pv", "attention:qk", "main:0", "main:1", "main:2"]
    assert sorted(kept) == [*products_of_two, "single"]
    assert "too short" in kept["single"]
    rounded_ones = {name for name, row in rows.items() if row["form"] == "dequant"}
    assert {"plain", "head", "twice", "twice#1", "attention", "vector", "batched"} <= rounded_ones


def test_a_tied_weight_is_stored_once():
    stored = stored_parameters(products("f32")[0])
    assert len([key for key in stored if key in ("embedding.weight", "head.weight")]) == 1
    assert len([key for key in stored if key in ("multiplied", "added")]) == 1
    assert len([key for key in stored if key.startswith("twice.")]) == 2  # weight and bias


def test_a_weight_that_two_layers_share_is_rounded_once():
    stored = stored_parameters(products("w4a16")[0])
    assert len([key for key in stored if key.startswith("twice.weight")]) == 3
    assert not [key for key in stored if key == "twice.weight"]
    # The embedding goes on reading floats, the head reads codes.
    assert len([key for key in stored if key in ("embedding.weight", "head.weight")]) == 1


# -- other operators -------------------------------------------------------------------------------


class Layers(nn.Module):
    """Layers that no pass rewrites."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, bias=False)
        self.transposed = nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1)
        self.dilated = nn.Conv1d(3, 4, 3, dilation=2, padding="same")
        self.groups = nn.GroupNorm(2, 8)
        self.embedding = nn.Embedding(11, 6, padding_idx=0)
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.gru = nn.GRU(6, 5, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, pixels, ids):
        """pixels is [2, 3, 10, 10], ids [2, 4]."""
        image = functional.relu(self.norm(self.conv(pixels)))
        words = self.embedding(ids)
        order = torch.argsort(words[..., 0], dim=-1)
        return {
            "conv": image,
            "depthwise": self.depthwise(image),
            "transposed": self.transposed(image),
            "dilated": self.dilated(pixels[:, :, 0]),
            "max pool": functional.max_pool2d(pixels, 3, 2, 1),
            "average pool": functional.avg_pool2d(pixels, 3, 2, 1),
            "pool of all": functional.avg_pool2d(pixels, 64, ceil_mode=True),
            "adaptive pool": functional.adaptive_avg_pool2d(pixels, (3, 4)),
            "nearest": functional.interpolate(pixels, scale_factor=2, mode="nearest"),
            "bilinear": functional.interpolate(
                pixels, size=(7, 13), mode="bilinear", align_corners=False
            ),
            "group norm": self.groups(image),
            "layer norm": functional.layer_norm(words, (6,)),
            "variance": torch.var(words, dim=(1, 2)),
            "lstm": self.lstm(words),
            "gru": self.gru(words)[0],
            "look-up": words[torch.arange(2), ids.argmax(-1)],
            "gather": words.gather(1, order[..., None].expand(-1, -1, 6)),
            "scatter": words.scatter(1, order[..., None], 3.0),
            "top": tuple(torch.topk(words, 2)),
            "sums": words.cumsum(1),
            "padded": functional.pad(words, (1, 2), mode="reflect"),
            "constant": words[..., :3] * torch.tensor([1.0, 2.0, 3.0]),
            "softmax": torch.softmax(words, -1) + torch.erf(words) + torch.tanh(words),
        }


@cache
def layer_errors() -> tuple[lowc.Artifact, dict[str, float]]:
    model = seeded(Layers)
    inputs = (randn(2, 3, 10, 10), torch.tensor([[1, 2, 3, 4], [9, 7, 5, 8]]))
    artifact = lowc.compile(export(model, inputs), "f32")
    got, wanted = lowc.load(artifact)(*as_arrays(inputs)), model(*inputs)
    return artifact, {name: error(got[name], wanted[name]) for name in wanted}


def test_other_layers_are_exact():
    assert {name: worst for name, worst in layer_errors()[1].items() if not worst < 1e-5} == {}


class Masked(nn.Module):
    def forward(self, query, key, value, mask):
        """All [2, 3, 5, 8], the mask [5, 5]; with it as booleans too, the first row hidden."""
        hidden = torch.zeros(5, 5, dtype=torch.bool)
        hidden[1:] = True
        attend = functional.scaled_dot_product_attention
        return attend(query, key, value, mask), attend(query, key, value, hidden)


def test_rows_that_are_masked_as_a_whole_are_zero():
    mask = torch.zeros(5, 5)
    mask[0], mask[1, 2:], mask[2, 3], mask[3, 0] = -torch.inf, -torch.inf, torch.nan, -1e30
    inputs = *(randn(2, 3, 5, 8) for _ in range(3)), mask
    model = seeded(Masked)
    found, hidden = map(np.asarray, load(model, *inputs)(*as_arrays(inputs)))
    wanted = [part.numpy() for part in model(*inputs)]
    assert not found[:, :, 0].any() and np.isnan(found[:, :, 2]).all()
    np.testing.assert_allclose(found, wanted[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(hidden, wanted[1], rtol=0, atol=1e-6)


def test_an_operator_that_cannot_be_lowered_is_named():
    class Spectrum(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag = nn.EmbeddingBag(9, 5)

        def forward(self, ids):
            return self.bag(ids)

    program = export(Spectrum(), (torch.zeros(2, 3, dtype=torch.int64),))
    with pytest.raises(UserError, match=r"module 'bag'.*embedding_bag"):
        lowc.compile(program)


# -- state -----------------------------------------------------------------------------------------


class State(nn.Module):
    """Buffers of all kinds, some of which each call changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.arange(4.0))
        self.register_buffer("hidden", torch.arange(4.0) + 1, persistent=False)
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("average", torch.ones(4), persistent=False)
        self.register_buffer("twin", torch.zeros(4))
        self.register_buffer("cache", torch.zeros(2, 8, 4))
        self.constant = torch.tensor([2.0, 3.0, 4.0, 5.0])

    def forward(self, x, position):
        """x is [2, 4], position [1]."""
        self.count += 1
        self.average.mul_(0.5).add_(x.mean(0))
        self.cache.index_copy_(1, position, x[:, None])
        self.cache[:, 6:] = x[:, None] * 2
        self.twin[1:3] = x[0, :2]
        total = x * self.shift + self.hidden * self.constant
        return total, self.count.clone(), self.cache.sum(1), self.average * 2, self.twin + 0


@cache
def state_artifact() -> lowc.Artifact:
    program = export(seeded(State), (randn(2, 4), torch.tensor([0])))
    return lowc.compile(program, "f32")


def test_mutated_buffers_are_state_until_reset():
    artifact = state_artifact()
    before = artifact.parameters_path.read_bytes()
    module, model = lowc.load(artifact), seeded(State)
    for _ in range(2):
        for step in range(3):
            inputs = (randn(2, 4) + step, torch.tensor([step]))
            assert run_and_compare(module, model, *inputs) < TOLERANCE
        module.reset()
        model = seeded(State)
    assert artifact.parameters_path.read_bytes() == before


def test_two_modules_of_one_file_have_their_own_state():
    first, second = lowc.load(state_artifact()), lowc.load(state_artifact())
    inputs = as_arrays((randn(2, 4), torch.tensor([0])))
    assert [int(first(*inputs)[1]) for _ in range(3)] == [4, 5, 6]
    assert int(second(*inputs)[1]) == 4


def test_persistent_and_other_buffers_and_constants_are_stored():
    stored = set(stored_parameters(state_artifact()))
    assert {"shift", "hidden", "count", "average", "twin", "cache"} <= stored


def test_an_input_that_pytorch_writes_to_is_left_alone_and_noted():
    class Writes(nn.Module):
        def forward(self, x):
            x.add_(1)
            return x * 2

    artifact = lowc.compile(export(Writes(), (randn(2, 3),)))
    x = randn(2, 3).numpy().copy()
    given = x.copy()
    np.testing.assert_allclose(lowc.load(artifact)(x), (given + 1) * 2, rtol=1e-6)
    np.testing.assert_array_equal(x, given)
    assert any("'x'" in note for note in artifact.report["notes"])


@pytest.mark.parametrize("recipe", ["f32", "w4a16"])
def test_a_llama_with_a_cache_decodes_like_pytorch(recipe):
    import transformers
    from transformers.integrations.executorch import TorchExportableModuleWithStaticCache

    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, max_position_embeddings=16, use_cache=True,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    llama = transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
    llama.generation_config.cache_implementation = "static"
    llama.generation_config.cache_config = {"batch_size": 1, "max_cache_len": 12}

    def step(model):
        return TorchExportableModuleWithStaticCache(model, batch_size=1, max_cache_len=12)

    keywords = {"input_ids": torch.tensor([[5]]), "cache_position": torch.tensor([0])}
    program = export(step(copy.deepcopy(llama)), (), keywords, strict=True)
    module = lowc.load(lowc.compile(program, recipe))
    rounded_llama = with_rounded_weights(llama, form_of(recipe)) if recipe != "f32" else llama
    for _ in range(2):
        reference, token, decoded = step(copy.deepcopy(rounded_llama)), torch.tensor([[5]]), []
        for position in range(6):
            inputs = {"input_ids": token, "cache_position": torch.tensor([position])}
            with torch.no_grad():
                wanted = reference(**inputs)
            assert error(module(**as_arrays(inputs)), wanted) < TOLERANCE
            token = wanted.argmax(-1)
            decoded.append(int(token))
        assert len(set(decoded)) > 1
        module.reset()
