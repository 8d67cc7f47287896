"""Sorts: places of equal elements and of NaN are PyTorch's, and no sort disturbs another."""

from __future__ import annotations

import lowc
import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim


class Sorts(nn.Module):
    """Two tensors, each sorted in both orders, along both axes."""

    def forward(self, x):
        """x is ``[n, 3]``."""
        found = []
        for values in (x, x * 2 + 1):
            for axis in (0, 1):
                for descending in (False, True):
                    found += torch.sort(values, stable=True, dim=axis, descending=descending)
        return (*found, x + 1)


class PlainSorts(Sorts):
    """The same as models have it: PyTorch says nothing of equal elements then."""

    def forward(self, x):
        """x is ``[n, 3]``."""
        found = []
        for values in (x, x * 2 + 1):
            for axis in (0, 1):
                for descending in (False, True):
                    found += torch.sort(values, dim=axis, descending=descending)
        return (*found, x + 1)


@pytest.mark.parametrize("is_dynamic", [False, True])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_equal_elements_stay_in_their_order(dtype, is_dynamic):
    x = torch.randint(0, 3, (20, 3), generator=torch.Generator().manual_seed(0)).to(dtype)
    if dtype.is_floating_point:
        x[3, 1], x[4, 1], x[5, 0], x[6, 2] = torch.nan, torch.nan, torch.inf, -torch.inf
    shapes = ({0: Dim("n", max=64)},) if is_dynamic else None
    module = lowc.load(lowc.compile(torch.export.export(PlainSorts(), (x,), dynamic_shapes=shapes)))
    for found, wanted in zip(module(x.numpy()), Sorts()(x), strict=True):
        np.testing.assert_array_equal(found, wanted.numpy())


class Constants(nn.Module):
    """Tensors that depend on a size alone, written to by slices and sorts."""

    def forward(self, x):
        """x is ``[n, 5]``."""
        one, other = torch.zeros_like(x).clone(), torch.zeros_like(x).clone()
        one[:, :1] = x[:, :1]
        other[:, 2:4] = x[:, 1:3]
        counts = torch.arange(5.0).expand_as(x) + torch.zeros_like(x)
        down, up = counts.sort(1, descending=True).values, counts.sort(1).values
        return one, other, torch.zeros_like(x), down, counts, up


def test_what_depends_on_a_size_alone_is_written_to_apart():
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    shapes = ({0: Dim("n", min=5, max=99)},)
    module = lowc.load(lowc.compile(torch.export.export(Constants(), (x,), dynamic_shapes=shapes)))
    for found, wanted in zip(module(x.numpy()), Constants()(x), strict=True):
        np.testing.assert_array_equal(found, wanted.numpy())
