"""Elements that are cut out, joined, turned and rolled are where PyTorch has them."""

import random

import lowc
import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim


def compared(model, folder, inputs, dynamic_shapes=None):
    """Compile `model` for the first of `inputs`; return what differs, as (input, output)."""
    program = torch.export.export(model.eval(), (inputs[0],), dynamic_shapes=dynamic_shapes)
    module = lowc.load(lowc.compile(program, output=folder / "moved.vmfb"))
    return [
        (tuple(x.shape), place)
        for x in inputs
        for place, (got, wanted) in enumerate(zip(module(x.numpy()), model(x), strict=True))
        if not np.array_equal(got, wanted.numpy())
    ]


def same(x):
    return x


class Joins(nn.Module):
    """Joins of two or three slices, each negated, turned or as it is; `seed` says which."""

    def __init__(self, seed, count):
        super().__init__()
        draw = random.Random(seed)
        kinds = [same, same, same, torch.neg, torch.neg, torch.neg, lambda x: -x.abs().flip(-1)]
        self.joins = [
            (draw.choice([-1, -1, -1, 0, 1]),
             [(draw.choice(["low", "high", "even", "odd", "whole", "inside"]), draw.choice(kinds))
              for _ in range(draw.choice([2, 2, 2, 3]))])
            for _ in range(count)
        ]  # fmt: skip

    def forward(self, x):
        return tuple(
            torch.cat([kind(_slice(x, which, dim)) for which, kind in parts], dim)
            for dim, parts in self.joins
        )


def _slice(x, which, dim):
    half = x.shape[dim] // 2
    part = {
        "low": slice(0, half), "high": slice(half, 2 * half), "inside": slice(1, 1 + half),
        "even": slice(0, 2 * half, 2), "odd": slice(1, 2 * half, 2), "whole": slice(None),
    }[which]  # fmt: skip
    return x[(slice(None),) * (dim % x.dim()) + (part,)]


def test_joins_of_slices_are_as_they_were_written(tmp_path):
    x = torch.randn(4, 6, 8)
    assert compared(Joins(4, 20), tmp_path, [x]) == []


class Rotaries(nn.Module):
    def forward(self, x):
        """x is [b, 4, 8], of a size that is known, or [b, 4, s]."""
        half = x.shape[-1] // 2
        low, high = x[..., :half], x[..., half:]
        written = x.clone()
        written[..., :half], written[..., half:] = -low, high
        return (
            torch.cat([-high, low], -1), torch.cat([-low, high], -1), torch.cat([-high, high], -1),
            torch.cat([-x[..., 1:], x[..., :1]], -1), torch.cat([low, -high], -1), written,
            torch.cat([-x[..., 1::2], x[..., ::2]], -1), torch.cat([-low, x], -1),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("unknown", "dtype"), [((), torch.float32), ((0,), torch.float16), ((2,), torch.float32)]
)
def test_only_what_is_a_rotary_embedding_is_taken_for_one(unknown, dtype, tmp_path):
    inputs = [torch.randn(3, 4, 8), torch.randn(5, 4, 8), torch.randn(3, 4, 12)]
    inputs = [x.to(dtype) for x in inputs]
    shapes = {"x": {0: Dim("b", max=9)} if 0 in unknown else {2: 2 * Dim("s", max=99)}}
    fitting = [x for x in inputs if all(x.shape[d] == inputs[0].shape[d] or d in unknown
                                        for d in range(3))]  # fmt: skip
    assert compared(Rotaries(), tmp_path, fitting, shapes if unknown else None) == []


TRANSPOSED = """
func.func @main(%x: tensor<8x16xf32>) -> (tensor<8x16xf32>, tensor<8x16xf32>) {
  %low = tensor.extract_slice %x[0, 0] [8, 8] [1, 1] : tensor<8x16xf32> to tensor<8x8xf32>
  %high = tensor.extract_slice %x[0, 8] [8, 8] [1, 1] : tensor<8x16xf32> to tensor<8x8xf32>
  %e = tensor.empty() : tensor<8x8xf32>
  %n = linalg.generic {
      indexing_maps = [affine_map<(i, j) -> (j, i)>, affine_map<(i, j) -> (i, j)>],
      iterator_types = ["parallel", "parallel"]}
      ins(%high : tensor<8x8xf32>) outs(%e : tensor<8x8xf32>) {
  ^bb0(%in: f32, %out: f32):
    %m = arith.negf %in : f32
    linalg.yield %m : f32
  } -> tensor<8x8xf32>
  %j = tensor.concat dim(1) %n, %low
      : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x16xf32>
  %a = tensor.empty() : tensor<8x16xf32>
  %b = tensor.insert_slice %n into %a[0, 0] [8, 8] [1, 1] : tensor<8x8xf32> into tensor<8x16xf32>
  %k = tensor.insert_slice %low into %b[0, 8] [8, 8] [1, 1]
      : tensor<8x8xf32> into tensor<8x16xf32>
  return %j, %k : tensor<8x16xf32>, tensor<8x16xf32>
}
"""


def test_a_half_that_is_read_across_stays_so(tmp_path):
    (tmp_path / "m.mlir").write_text(TRANSPOSED)
    module = lowc.load(lowc.compile(tmp_path / "m.mlir", output=tmp_path / "m.vmfb"))
    x = np.random.default_rng(0).standard_normal((8, 16)).astype("float32")
    wanted = np.concatenate([-x[:, 8:].T, x[:, :8]], 1)
    for got in module(x):
        np.testing.assert_array_equal(got, wanted)


class Rolls(nn.Module):
    def forward(self, x):
        """x is [b, s, 5]."""
        return (
            x.roll(7, -1), x.roll(-6, 2), x.roll(5, 2), x.roll((9, -1, 11), (0, 1, 2)), x.roll(8),
            x.roll(-x.shape[1] - 1, 1),
        )  # fmt: skip


@pytest.mark.parametrize("is_dynamic", [False, True])
def test_rolls_go_around_more_than_once(is_dynamic, tmp_path):
    shapes = {"x": {0: Dim("b", max=9), 1: Dim("s", max=99)}} if is_dynamic else None
    inputs = [torch.randn(2, 3, 5), *([torch.randn(4, 2, 5)] if is_dynamic else [])]
    assert compared(Rolls(), tmp_path, inputs, shapes) == []


class Pads(nn.Module):
    def forward(self, x):
        """x is [b, 6, 8]."""
        pad = nn.functional.pad
        return (
            pad(x, [-1, -2]), pad(x, [-3, 2, 1, -4], value=1.5), pad(x, [0, 0, -6, 1]),
            pad(x, [1, 2, 0, 3]), pad(x, [-1, 0, 0, 0, 1, 0]), pad(x, [0, 0]), pad(x, [-8, 0]),
        )  # fmt: skip


@pytest.mark.parametrize("is_dynamic", [False, True])
def test_padding_of_less_than_nothing_cuts(is_dynamic, tmp_path):
    inputs = [torch.randn(2, 6, 8), *([torch.randn(3, 6, 8)] if is_dynamic else [])]
    shapes = {"x": {0: Dim("b", max=9)}} if is_dynamic else None
    assert compared(Pads(), tmp_path, inputs, shapes) == []


class PadsToTen(nn.Module):
    def forward(self, x):
        """x is [2, s]: it is filled up to ten, or cut."""
        return (nn.functional.pad(x, [0, 10 - x.shape[1]], value=2.5),)


@pytest.mark.parametrize("first", [4, 14])
def test_whether_padding_cuts_may_be_known_late(first, tmp_path):
    inputs = [torch.randn(2, size) for size in (first, 3, 10, 16)]
    shapes = {"x": {1: Dim("s", min=2, max=20)}}
    assert compared(PadsToTen(), tmp_path, inputs, shapes) == []
