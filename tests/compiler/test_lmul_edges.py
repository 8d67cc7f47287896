"""Added products at the edges of what sizes and weights can be."""

from __future__ import annotations

import lowc
import numpy as np
import pytest
from lowc.compiler.recipe import Recipe
from lowc.passes.formats import lmul
from lowc.passes.forms import Form, Rule

pytestmark = pytest.mark.slow


def recipe(**options):
    return Recipe("test", (Rule("*", Form("lmul", **options)),))


def test_more_batches_than_sixteen_bits_count(tmp_path):
    """Workgroups are counted in 16 bits along z: nothing may be left out."""
    count = (1 << 16) + 4
    path = tmp_path / "batches.mlir"
    path.write_text(f"""
func.func @main(%a: tensor<{count}x2x2xf32>, %b: tensor<{count}x2x2xf32>) -> tensor<{count}x2x2xf32> {{
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<{count}x2x2xf32>
  %fill = linalg.fill ins(%zero : f32) outs(%e : tensor<{count}x2x2xf32>) -> tensor<{count}x2x2xf32>
  %y = linalg.batch_matmul ins(%a, %b : tensor<{count}x2x2xf32>, tensor<{count}x2x2xf32>)
      outs(%fill : tensor<{count}x2x2xf32>) -> tensor<{count}x2x2xf32>
  return %y : tensor<{count}x2x2xf32>
}}""")
    x, y = np.random.default_rng(0).standard_normal((2, count, 2, 2)).astype(np.float32)
    found = lowc.load(lowc.compile(path, recipe()))(x, y)
    assert np.array_equal(found, lmul.matmul(x, y))


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
    module = lowc.load(lowc.compile(exported, recipe()))
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
    for gain in (False, True):
        chosen = recipe(weights=weights, gain=gain)
        found = lowc.load(lowc.compile(torch.export.export(layer, (x,)), chosen))(x.numpy())
        errors[gain] = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert errors[True] < 0.9 * errors[False]
