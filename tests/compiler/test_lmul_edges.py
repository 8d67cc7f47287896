"""Added products at the edges of what sizes and weights can be."""

from __future__ import annotations

import lowc
import numpy as np
import pytest
from lowc.compiler.analysis import analyse
from lowc.compiler.recipe import Recipe
from lowc.errors import UserError
from lowc.passes.formats import lmul
from lowc.passes.forms import Form, Rule

pytestmark = pytest.mark.slow


def recipe(**options):
    return Recipe("test", (Rule("*", Form("lmul", **options)),))


def ran_a_kernel(row):
    """Whether the product of a report's row became a dispatch to a kernel of lowc's."""
    return row["tile"] is not None and "; kernel of" in row["lowering"]


def batches(folder, batch, m, n, k):
    """A file with a batch matmul of two activations."""
    a, b, c = (
        f"tensor<{batch}x{m}x{k}xf32>",
        f"tensor<{batch}x{k}x{n}xf32>",
        f"tensor<{batch}x{m}x{n}xf32>",
    )
    path = folder / "batches.mlir"
    path.write_text(f"""
func.func @main(%a: {a}, %b: {b}, %e: {c}) -> {c} {{
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%e : {c}) -> {c}
  %y = linalg.batch_matmul ins(%a, %b : {a}, {b}) outs(%fill : {c}) -> {c}
  return %y : {c}
}}""")
    return path


def test_more_batches_than_sixteen_bits_count(tmp_path):
    """Workgroups are counted in 16 bits along z: nothing may be left out."""
    count = (1 << 16) + 4
    artifact = lowc.compile(batches(tmp_path, count, 2, 2, 2), recipe())
    assert ran_a_kernel(artifact.report["matmuls"][0])
    x, y = np.random.default_rng(0).standard_normal((2, count, 2, 2)).astype(np.float32)
    found = lowc.load(artifact)(x, y, np.zeros_like(x))
    assert np.array_equal(found, lmul.matmul(x, y))


@pytest.mark.parametrize("target", ["vulkan", "cuda"])
@pytest.mark.parametrize(
    ("sizes", "has_kernel"),
    [
        ((65535, 2, 2, 2), True),
        ((65536, 2, 2, 2), False),
        ((1, 65535 * 64, 40, 2), True),  # 8 rows of threads, of 8 rows each
        ((1, 65535 * 64 + 1, 40, 2), False),
        ((1, 2, 65535 * 64, 2), True),  # 8 columns of threads, of 2 vectors of 4 each
        ((1, 2, 65535 * 64 + 1, 2), False),
        (("?", 2, 2, 2), True),
    ],
    ids=str,
)
def test_what_a_gpu_can_start(target, sizes, has_kernel, tmp_path):
    """What is compared with the limit is what is launched."""
    (row,) = analyse(batches(tmp_path, *sizes), recipe(), target)["matmuls"]
    assert (row["tile"] is not None) == has_kernel
    refused = "stock code generation (a GPU starts at most 65535 workgroups along one axis)"
    assert (refused in row["lowering"]) != has_kernel
    assert row["lowering"].endswith("for at most 65535 batches") == (sizes[0] == "?")


def test_empty_and_cast_weights():
    """No rows at all; and a weight that the model itself rounds to fp8."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(20, 7))

        def forward(self, none, x):
            rounded = self.weight.to(torch.float8_e4m3fn).to(torch.float32)
            return none @ self.weight, x @ rounded

    torch.manual_seed(0)
    model = Model()
    x = torch.randn(3, 20)
    exported = torch.export.export(model, (torch.zeros(0, 20), x))
    artifact = lowc.compile(exported, recipe())
    empty, cast = artifact.report["matmuls"]
    assert empty["lowering"].endswith("stock code generation (one of its sizes is 0)")
    assert ran_a_kernel(cast)
    module = lowc.load(artifact)
    nothing, found = module(np.zeros((0, 20), np.float32), x.numpy())
    assert nothing.shape == (0, 7)
    weight = model.weight.detach().to(torch.float8_e4m3fn).to(torch.float32).numpy()
    assert np.array_equal(found, lmul.matmul(x.numpy(), weight))


@pytest.mark.parametrize("weights", ["f8E4M3FN", "f8E5M2"])
def test_the_gain_knows_how_weights_are_stored(weights):
    """Truncated weights shorten the products: the slope is that of both operands."""
    import torch

    torch.manual_seed(0)
    layer = torch.nn.Linear(256, 32, bias=False)
    x = torch.randn(16, 256)
    exact = layer(x).detach().numpy()
    errors = {}
    kept = {"f8E4M3FN": 3, "f8E5M2": 2}[weights]
    for gain in (False, True):
        chosen = recipe(weights=weights, gain=gain)
        artifact = lowc.compile(torch.export.export(layer, (x,)), chosen)
        (row,) = artifact.report["matmuls"]
        assert f"weight as {weights} ({kept} bits)" in row["lowering"] and ran_a_kernel(row)
        found = lowc.load(artifact)(x.numpy())
        errors[gain] = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert errors[True] < 0.9 * errors[False]


@pytest.mark.parametrize("weights", ["", "bf16", "f8E5M2"])
def test_a_weight_with_nan_is_refused_by_name(weights):
    """A clamped NaN would be a large number."""
    import torch

    layer = torch.nn.Linear(8, 4, bias=False)
    layer.weight.data[1, 2] = torch.nan
    exported = torch.export.export(layer, (torch.ones(2, 8),))
    with pytest.raises(UserError) as caught:
        lowc.compile(exported, recipe(weights=weights))
    assert caught.value.what == "the weight cannot be stored anew: the weight holds NaN"
    assert caught.value.where == "parameter 'weight'"


def test_infinite_weights_are_clamped():
    import torch

    layer = torch.nn.Linear(8, 4, bias=False)
    layer.weight.data[1, 2], layer.weight.data[2, 3] = torch.inf, -torch.inf
    x = torch.ones(2, 8)
    found = lowc.load(lowc.compile(torch.export.export(layer, (x,)), recipe()))(x.numpy())
    assert np.array_equal(found, lmul.matmul(x.numpy(), layer.weight.detach().numpy().T))
    assert (found[:, 1] > 2.0**62).all() and (found[:, 2] < -(2.0**62)).all()


def test_what_is_not_stored_says_why():
    """`weights` is about a weight: with two of them, or none, the product is added all the same."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one = torch.nn.Parameter(torch.randn(6, 20))
            self.other = torch.nn.Parameter(torch.randn(20, 7))

        def forward(self, x, y):
            return self.one @ self.other, x @ y

    exported = torch.export.export(Model(), (torch.randn(5, 20), torch.randn(20, 7)))
    rows = analyse(exported, recipe(weights="f8E4M3FN"))["matmuls"]
    assert {row["form"] for row in rows} == {"lmul"}
    said = sorted(row["lowering"].partition(";")[0].partition("finite specials")[2] for row in rows)
    assert said == ["", ", nothing stored as f8E4M3FN: both operands are parameters"]
