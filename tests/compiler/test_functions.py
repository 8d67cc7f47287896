"""Functions of single numbers, where torch-mlir or IREE alone is far from PyTorch."""

from __future__ import annotations

import lowc
import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Functions(nn.Module):
    """Sines and cosines of angles, and GELU by a hyperbolic tangent."""

    def forward(self, angles, x):
        """Both are f32."""
        return (
            torch.sin(angles), torch.cos(angles),
            functional.gelu(x, approximate="tanh"), functional.gelu(x),
        )  # fmt: skip


def test_functions_are_as_exact_as_f32_allows():
    # Positions of long texts are angles of a rotary embedding.
    angles = torch.cat([torch.linspace(-10, 10, 999), torch.arange(0.0, 131_072.0, 61.0)])
    x = torch.linspace(-12, 12, 1001)
    module = lowc.load(lowc.compile(torch.export.export(Functions(), (angles, x))))
    found = [np.asarray(y, np.float64) for y in module(angles.numpy(), x.numpy())]
    wanted = [y.numpy() for y in Functions()(angles.double(), x.double())]
    worst = [np.abs(a - b).max() for a, b in zip(found, wanted, strict=True)]
    assert all(lost < bound for lost, bound in zip(worst, (5e-7, 5e-7, 1e-6, 1e-6), strict=True)), (
        worst
    )


def test_angles_that_are_no_numbers_give_none():
    angles = torch.tensor([np.inf, -np.inf, np.nan, 0.0])
    x = torch.tensor([np.inf, -np.inf, np.nan, 0.0])
    module = lowc.load(lowc.compile(torch.export.export(Functions(), (angles, x))))
    found = module(angles.numpy(), x.numpy())
    # PyTorch's vectors have NaN for GELU of infinity by erf.
    for got, wanted in zip(found[:3], Functions()(angles, x), strict=False):
        np.testing.assert_array_equal(np.isnan(got), wanted.isnan().numpy())
    assert found[0][3] == 0 and found[1][3] == 1 and found[2][0] == found[3][0] == np.inf


def test_gelu_of_short_floats_is_calculated_in_f32():
    x = torch.linspace(-6, 6, 301).to(torch.bfloat16)
    module = lowc.load(lowc.compile(torch.export.export(nn.GELU("tanh"), (x,))))
    wanted = functional.gelu(x.float(), approximate="tanh").numpy()
    found = np.asarray(
        module(x.float().numpy().astype(module.manifest.inputs[0].dtype)), np.float32
    )
    assert (np.abs(found - wanted) <= 0.01 * np.abs(wanted) + 1e-6).all()
