"""How PyTorch's operators are taken apart before torch-mlir sees them.

torch-mlir's own table with a few entries changed.  Runs only in the importer's process.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import (
    compute_elementwise_output_logical_to_physical_perm,
    get_computation_dtype,
)
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch_mlir.extras.fx_decomp_util import get_decomposition_table

from .rare_operators import rare_operators


def decomposition_table() -> dict[Any, Callable[..., Any]]:
    """Return operator → function that calculates it from simpler ones."""
    table = dict(get_decomposition_table())
    # As a sum of products it would not be seen to be a product with a weight.
    table.pop(torch.ops.aten.mv.default, None)
    table.update(rare_operators())
    table[torch.ops.aten.index.Tensor] = index
    table[torch.ops.aten.roll.default] = roll
    table[torch.ops.aten.gelu.default] = gelu
    table[torch.ops.aten.constant_pad_nd.default] = constant_pad
    table[torch.ops.aten.avg_pool2d.default] = average_pool
    table[torch.ops.aten.var_mean.correction] = variance_and_mean
    table[torch.ops.aten.var.correction] = lambda *args, **kw: variance_and_mean(*args, **kw)[0]
    table[torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default] = attention
    table[torch.ops.aten._safe_softmax.default] = safe_softmax
    return table


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """GELU by a hyperbolic tangent, as Gemma and SigLIP have it; that by erf is left to torch-mlir.

    torch-mlir has 0.797724 for the root of 2 / pi, so that results are off by 5e-5.
    """
    if approximate != "tanh":
        return NotImplemented
    wide = x.to(get_computation_dtype(x.dtype))
    inner = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide.pow(3))
    return (0.5 * wide * (1 + torch.tanh(inner))).to(x.dtype)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention ``[B, H, L, E]`` with its result laid out in memory like `query`.

    That is the layout which the operator itself has in an exported graph, so that a ``view`` of
    the result which was possible there is possible here.  PyTorch's own decomposition always
    gives ``[L, B, H, E]``: views of it then fail, or turn the next linear layer into a batched
    product with as many copies of the weight.
    """
    result, weights = torch.ops.aten._scaled_dot_product_attention_math.default(
        query, key, value, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal,
        dropout_mask=None, scale=scale, enable_gqa=query.size(1) != key.size(1),
    )  # fmt: skip
    order, _ = compute_elementwise_output_logical_to_physical_perm(query)
    back = [order.index(axis) for axis in range(len(order))]
    return result.permute(order).contiguous().permute(back), weights


def safe_softmax(scores: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Softmax along `dim`; rows that are masked as a whole become zeros.

    Such a row has the largest element -inf.  PyTorch's decomposition asks every element instead: a
    tensor of booleans as large as the scores, and a pass over each of them.  Here the largest
    element and the sum of such a row are mended: IREE 3.13 knows a plain softmax when it sees one,
    and then calculates each exponential twice.
    """
    wide = scores if dtype is None else scores.to(dtype)
    largest = wide.amax(dim, keepdim=True)
    is_masked = largest == -math.inf
    powers = torch.exp(wide - torch.where(is_masked, torch.zeros((), dtype=wide.dtype), largest))
    total = powers.sum(dim, keepdim=True)
    return powers / torch.where(is_masked, torch.ones((), dtype=wide.dtype), total)


def variance_and_mean(
    tensor: Tensor,
    dim: list[int] | None = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> tuple[Tensor, Tensor]:
    """Variance in two passes, in the tensor's own type (f32 for a shorter one), as PyTorch does.

    torch-mlir's version calculates in f64, for each LayerNorm: twice the memory, half the speed,
    and more stack than a worker has; many GPUs have no f64 at all.
    """
    if not tensor.is_floating_point():
        return NotImplemented
    axes = dim or list(range(tensor.dim()))
    wide = tensor.to(get_computation_dtype(tensor.dtype))
    count = math.prod(tensor.shape[axis] for axis in axes)
    mean = wide.mean(axes, keepdim=True)
    centred = wide - mean
    total = (centred * centred).sum(axes, keepdim=keepdim)
    # A whole number: a dynamic size less a float would be a float, which torch-mlir has not.
    lost = 1 if correction is None else correction
    variance = total / _not_negative(count - (int(lost) if lost == int(lost) else lost), wide.dtype)
    if not keepdim:
        mean = mean.squeeze(axes)
    return variance.to(tensor.dtype), mean.to(tensor.dtype)


def _not_negative(freedom: Any, dtype: torch.dtype) -> Any:
    """Return a number, or zero in its place: a tensor if a dynamic size may be too small."""
    if statically_known_true(freedom >= 0):
        return freedom
    if isinstance(freedom, int | float):
        return 0
    return torch.full((), freedom, dtype=dtype).clamp(min=0)


def average_pool(
    image: Tensor,
    kernel_size: list[int],
    stride: list[int] | None = None,
    padding: list[int] | None = None,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Return the mean of an image that is smaller than the window (EfficientNet's pooling).

    torch-mlir pads it by one too many.  Every other pooling is left to it.
    """
    sizes = image.shape[-2:]
    windows = [kernel_size[0], kernel_size[-1]]
    is_static = all(isinstance(size, int) for size in sizes)
    if not ceil_mode or any(padding or ()) or divisor_override or not is_static:
        return NotImplemented
    if any(size > window for size, window in zip(sizes, windows, strict=True)):
        return NotImplemented
    return image.mean([-2, -1], keepdim=True)


def index(tensor: Tensor, indices: list[Tensor | None]) -> Tensor:
    """``tensor[i, j]`` with `i` and `j` of one dynamic shape, as a look-up with a single index.

    torch-mlir cannot tell whether one of two dynamic sizes is to be broadcast, and refuses them.
    Everything else is left to it.
    """
    used = [axis for axis, part in enumerate(indices) if part is not None]
    given = [part for part in indices if part is not None]
    first, last = used[0], used[-1]
    if not _is_ambiguous(given) or used != list(range(first, last + 1)):
        return NotImplemented
    flat = torch.zeros((), dtype=torch.int64)
    for axis, part in zip(used, given, strict=True):
        size = tensor.shape[axis]
        flat = flat * size + torch.where(part < 0, part + size, part)
    merged = tensor.flatten(first, last)
    return torch.ops.aten.index.Tensor(merged, [*[None] * first, flat])


def roll(tensor: Tensor, shifts: list[int], dims: list[int] | None = None) -> Tensor:
    """Move elements along dimensions; what leaves at one end comes back at the other.

    torch-mlir shifts by more than the dimension is long as if it were longer, and gives something
    else in silence.
    """
    if not dims:
        return roll(tensor.flatten(), shifts, [0]).reshape(tensor.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        size = tensor.shape[dim]
        if size == 0:
            return tensor.clone()
        if isinstance(size, int) and isinstance(shift, int):
            first = -shift % size  # the place of the element that comes first
            parts = [tensor.narrow(dim, first, size - first), tensor.narrow(dim, 0, first)]
            tensor = torch.cat(parts, dim)
        else:
            places = torch.remainder(torch.arange(size) - shift, size)
            tensor = tensor.index_select(dim, places)
    return tensor


def constant_pad(tensor: Tensor, pad: list[Any], value: float = 0) -> Tensor:
    """Put a value around a tensor, or cut from it where `pad`, which begins behind, is negative.

    torch-mlir makes a ``tensor.pad`` of that, which then writes beside its memory.  Of a count that
    is known when the model runs, every element is looked up, or is the value.
    """
    if all(statically_known_true(count >= 0) for count in pad):
        return NotImplemented
    grown = [0] * len(pad)
    for number, (low, high) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        dim = tensor.dim() - 1 - number
        size = tensor.shape[dim]
        if isinstance(low, int) and isinstance(high, int):
            first, last = max(-low, 0), max(-high, 0)
            tensor = tensor.narrow(dim, first, size - first - last)
            grown[2 * number : 2 * number + 2] = max(low, 0), max(high, 0)
            continue
        places = torch.arange(size + low + high) - low
        is_inside = torch.logical_and(places >= 0, places < size)
        found = tensor.index_select(dim, torch.remainder(places, size))
        shape = [-1 if axis == dim else 1 for axis in range(tensor.dim())]
        outside = torch.full((), value, dtype=tensor.dtype)
        tensor = torch.where(is_inside.reshape(shape), found, outside)
    return torch.constant_pad_nd(tensor, grown, value) if any(grown) else tensor.clone()


def _is_ambiguous(indices: list[Tensor]) -> bool:
    if any(part.dtype in (torch.bool, torch.uint8) for part in indices):  # masks
        return False
    dynamic = Counter(
        axis - part.dim()
        for part in indices
        for axis, size in enumerate(part.shape)
        if not isinstance(size, int)
    )
    return max(dynamic.values(), default=0) > 1
