"""Operators that torch-mlir lowers in no case, or not in all, calculated from others.

Entries of the table in ``decompositions.py``.  Each is called with tensors that have sizes and
strides but no numbers; a size may be dynamic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table as of_pytorch

# PyTorch takes these apart itself when it is asked to.
GROUPED = "grouped_mm_fallback"  # of transformers
_PYTORCHS = (torch.ops.aten.addmv.default, torch.ops.aten.dist.default)


class NotCalculated(ValueError):
    """An operator in a case that nothing here calculates; `hint` is what to write instead."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


def rare_operators() -> dict[Any, Callable[..., Any]]:
    """Return operator → function that calculates it from simpler ones."""
    aten: Any = torch.ops.aten
    table: dict[Any, Callable[..., Any]] = {
        aten.as_strided.default: as_strided,
        aten.isfinite.default: is_finite,
        aten.bitwise_xor.Scalar: exclusive_or,
        aten.bitwise_or.Scalar: inclusive_or,
        aten.fmod.Scalar: remainder_of_scalar,
        aten.pow.Tensor_Scalar: power,
        aten._cdist_forward.default: distances,  # noqa: SLF001
        aten.searchsorted.Tensor: positions,
        aten._grouped_mm.default: experts,  # noqa: SLF001
        aten.topk.default: largest,
        aten.sort.stable: stable_sort,
        aten.histc.default: histogram,
        aten.log10.default: log10,
        aten.upsample_nearest1d.vec: nearest,
        aten.upsample_nearest2d.vec: nearest,
        aten.upsample_nearest3d.vec: nearest,
    }
    if hasattr(torch.ops.transformers, GROUPED):
        # Only where somebody has defined it: transformers, imported later, could not any more.
        table[grouped_product_of_transformers()] = experts
    return table | {operator: of_pytorch[operator] for operator in _PYTORCHS}


def as_strided(
    tensor: Tensor, size: list[int], stride: list[int], storage_offset: int | None = None
) -> Tensor:
    """Look the elements up where `tensor` has them in memory.

    torch-mlir takes every tensor for a contiguous one that begins its storage, which one that was
    transposed or sliced is not, and takes no dynamic sizes.  Pooling an image to one pixel makes
    such a view, of all elements in their order.

    Raises
    ------
    NotCalculated
        When elements beside those of `tensor` may be read, or ones that it has twice.
    """
    offset = 0 if storage_offset is None else storage_offset - tensor.storage_offset()
    same = len(size) == tensor.dim() and all(
        given == own and (own == 1 or step == own_step)
        for given, own, step, own_step in zip(
            size, tensor.shape, stride, tensor.stride(), strict=True
        )
    )
    if same and offset == 0:
        return tensor.clone()
    order = sorted(range(tensor.dim()), key=lambda axis: (-tensor.stride(axis), axis))
    flat = tensor.permute(order)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if not flat.is_contiguous() or offset < 0 or last >= tensor.numel():
        raise NotCalculated(
            "as_strided reads elements that its tensor does not have",
            "use reshape, an index or unfold instead",
        )
    places = torch.full((), offset, dtype=torch.int64)
    for axis, (length, step) in enumerate(zip(size, stride, strict=True)):
        along = [1] * len(size)
        along[axis] = length
        places = places + (torch.arange(length) * step).reshape(along)
    return flat.reshape(-1)[places]


def is_finite(tensor: Tensor) -> Tensor:
    """Whether each element is neither infinite nor NaN."""
    if not tensor.is_floating_point():
        return torch.ones_like(tensor, dtype=torch.bool)
    return tensor.abs() < math.inf


def exclusive_or(tensor: Tensor, number: int) -> Tensor:
    """``^`` with a number; torch-mlir has it with a tensor only."""
    return torch.bitwise_xor(*_promoted(tensor, number))


def inclusive_or(tensor: Tensor, number: int) -> Tensor:
    """``|`` with a number; torch-mlir has it with a tensor only."""
    return torch.bitwise_or(*_promoted(tensor, number))


def _promoted(tensor: Tensor, number: float) -> tuple[Tensor, Tensor]:
    """Return both in the type of their result: booleans with a whole number are int64."""
    dtype = torch.result_type(tensor, number)
    return tensor.to(dtype), torch.full((), number, dtype=dtype)


def remainder_of_scalar(tensor: Tensor, divisor: float) -> Tensor:
    """``fmod`` by a number; torch-mlir has it by a tensor only."""
    return torch.fmod(*_promoted(tensor, divisor))


def power(tensor: Tensor, exponent: float) -> Tensor:
    """Powers of integers by a small whole exponent; all others are left to torch-mlir."""
    if tensor.is_floating_point() or not isinstance(exponent, int) or not 0 <= exponent <= 16:
        return NotImplemented
    tensor = tensor.to(torch.result_type(tensor, exponent))
    result = torch.ones_like(tensor)
    for _ in range(exponent):
        result = result * tensor
    return result


def distances(left: Tensor, right: Tensor, p: float, compute_mode: int | None) -> Tensor:
    """``cdist``: distances ``[..., P, R]`` between rows ``[..., P, M]`` and ``[..., R, M]``."""
    del compute_mode  # by products or by differences: these are differences
    return torch.linalg.vector_norm(left.unsqueeze(-2) - right.unsqueeze(-3), p, -1)


def positions(
    ordered: Tensor,
    values: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """``searchsorted``: how many elements of the last axis of `ordered` are before each value."""
    if sorter is not None:
        ordered = ordered.gather(-1, sorter)
    if ordered.dim() > 1:
        ordered = ordered.unsqueeze(-2)
    wide = values.unsqueeze(-1)
    # NaN is behind all numbers, and less than none.
    behind = ordered > wide if right or side == "right" else ordered >= wide
    return (~behind).sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


def grouped_product_of_transformers() -> Any:
    """Return the operator by which ``transformers`` multiplies experts, defined if it is not yet.

    Exported mixtures of experts call it unless they are told otherwise.  It is Python there, which
    nothing here runs: what it gives is :func:`experts`.
    """
    if not hasattr(torch.ops.transformers, GROUPED):
        name = f"transformers::{GROUPED}"
        torch.library.define(name, "(Tensor input, Tensor weight, Tensor offs) -> Tensor")
        torch.library.impl(name, "CPU", experts)
        torch.library.register_fake(
            name, lambda rows, weights, _: rows.new_empty(rows.shape[0], weights.shape[2])
        )
    return torch.ops.transformers.grouped_mm_fallback.default


def experts(
    rows: Tensor,
    weights: Tensor,
    ends: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Multiply sorted rows ``[S, K]``, each by the matrix ``[E, K, N]`` of the group it is in.

    `ends` ``[E]`` counts the rows up to the end of each group; rows behind the last one give zeros.
    Every row is multiplied by every matrix: a product with a weight, which a recipe can round,
    instead of a copy of a matrix for each row.
    """
    if ends is None or bias is not None or rows.dim() != 2 or weights.dim() != 3:
        return NotImplemented
    count = weights.shape[0]
    products = torch.matmul(rows.unsqueeze(0), weights)
    group = (torch.arange(rows.shape[0]).unsqueeze(-1) >= ends).sum(-1)
    chosen = torch.arange(count).unsqueeze(-1) == group
    zero = torch.zeros((), dtype=products.dtype)
    result = torch.where(chosen.unsqueeze(-1), products, zero).sum(0)
    return result if out_dtype is None else result.to(out_dtype)


def largest(
    tensor: Tensor,
    k: int,
    dim: int = -1,
    largest: bool = True,
    sorted: bool = True,  # noqa: A002
) -> tuple[Tensor, Tensor]:
    """``topk`` in order, which torch-mlir has, where any order would do."""
    if sorted:
        return NotImplemented
    values, places = torch.topk(tensor, k, dim, largest)
    return values, places


def stable_sort(
    tensor: Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Tensor, Tensor]:
    """``sort``, which a pass makes stable wherever it stands."""
    del stable
    values, places = torch.ops.aten.sort.default(tensor, dim, descending)
    return values, places


def histogram(tensor: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:  # noqa: A002
    """``histc``: how many elements fall into each of `bins` equal parts of ``[min, max]``."""
    if min == max:  # PyTorch looks for the limits in the numbers
        return NotImplemented
    flat = tensor.reshape(-1, 1)
    # In PyTorch's order: a number on an edge may fall on its other side in another one.
    place = ((flat - min) * bins / (max - min)).floor().clamp(max=bins - 1)
    inside = (flat >= min) & (flat <= max)
    return ((place == torch.arange(bins)) & inside).sum(0).to(tensor.dtype)


def log10(tensor: Tensor) -> Tensor:
    """Logarithm to the base of 10; IREE would call a function of C that it has not."""
    return torch.log(tensor.float() if not tensor.is_floating_point() else tensor) / math.log(10)


def nearest(
    image: Tensor, output_size: list[int] | None, scale_factors: list[float] | None
) -> Tensor:
    """Repeat every pixel along dynamic sizes, where the scales are whole numbers.

    PyTorch calculates the size of the result in floats, which torch-mlir has no counterpart of.
    """
    sizes = image.shape[2:]
    if scale_factors is None or all(isinstance(size, int) for size in sizes):
        return NotImplemented
    if any(scale != int(scale) for scale in scale_factors):
        return NotImplemented
    for axis, scale in enumerate(scale_factors, 2):
        image = image.repeat_interleave(int(scale), axis)
    return image
