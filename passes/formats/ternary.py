"""Ternary weights: -1, 0 and 1 times one scale for the whole tensor, 2 bits or 1.6 bits each.

For a weight ``w`` of any shape, all in f32::

    a = max(mean |w|, 1e-5),    q = clip(RNE(w / a), -1, 1),    w ~ q * a

so that a product needs additions and subtractions only, and one multiplication at the end.  The
mean is over the WHOLE tensor, and a half is rounded to 0, the even one.  The mean is taken in f64
and rounded to f32 once.

In the kernels of binary codes q is half the sum of two signs (:func:`as_planes`).

Two packings of rows ``[…, K]``:

* 2 bits: byte i holds weights ``4 i + t`` at bit ``2 t``, as ``q + 1``; K is filled up with 0;
* 5 trits: byte i holds weights ``5 i + t`` as ``sum over t of (q + 1) 3^t``, filled up likewise.

Source: BitLinear of MatMul-free LM (arXiv 2406.02528), which has it from BitNet b1.58
(arXiv 2402.17764).  They multiply by ``1 / a``; dividing rounds once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import powers
from .binary_codes import BinaryCodes, Coded

SMALLEST_SCALE = 1e-5
PER_BYTE = {"bits": 4, "trits": 5}
_BASE = {"bits": 4, "trits": 3}


@dataclass(frozen=True)
class Ternary:
    """Codes ``i8 [..., K]`` in -1…1 and the scale of all of them."""

    codes: NDArray[np.int8]
    scale: np.float32


def quantize(weight: NDArray[np.float32]) -> Ternary:
    """Round a weight of any shape.

    Raises
    ------
    ValueError
        When the weight is empty, or holds NaN or infinity.
    """
    scale = scale_of(weight)
    return Ternary(round_by(np.asarray(weight, np.float32), scale), scale)


def scale_of(weight: NDArray[Any]) -> np.float32:
    """Return the scale of a whole weight; raises ValueError as :func:`quantize` does."""
    weight = np.asarray(weight, np.float32)
    if not weight.size:
        raise ValueError("the weight is empty")
    if not np.isfinite(weight).all():
        raise ValueError("the weight holds NaN or infinity")
    return np.float32(max(np.abs(weight).mean(dtype=np.float64), SMALLEST_SCALE))


def round_by(weight: NDArray[np.float32], scale: np.float32) -> NDArray[np.int8]:
    """Return the codes of a part of a weight with that `scale`."""
    with np.errstate(over="ignore"):
        return np.clip(np.rint(weight / scale), -1, 1).astype(np.int8)


def as_planes(codes: NDArray[np.int8], fmt: BinaryCodes) -> Coded:
    """Return codes ``[N, K]`` as two planes of signs: half of the sum of both, all terms 2^-1.

    ``1`` is two plus signs, ``-1`` none, and ``0`` one in the first plane.
    """
    n, k = codes.shape
    along_n, along_k = fmt.blocks(n, k)
    signs = np.ones((n, 2, along_k * fmt.group), np.bool_)
    signs[:, 0, :k], signs[:, 1, :k] = codes >= 0, codes > 0
    half = powers.project(0.5, 1)
    return Coded(signs, np.broadcast_to(half, (along_n, along_k, 2, 1)).copy())


def dequantize(ternary: Ternary) -> NDArray[np.float32]:
    """Return the weight that the codes stand for."""
    return ternary.codes.astype(np.float32) * ternary.scale


def bits_per_weight(k: int, packing: str) -> float:
    """Return the stored bits per weight of rows of `k`, what fills them up counted."""
    return 8 * -(-k // PER_BYTE[packing]) / k


def pack(codes: NDArray[np.int8], packing: str) -> NDArray[np.uint8]:
    """Return codes ``[..., K]`` as bytes ``[..., ceil(K / 4)]`` (`bits`) or ``/ 5`` (`trits`)."""
    count, k = PER_BYTE[packing], codes.shape[-1]
    full = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, -k % count)])
    digits = (full + 1).astype(np.uint8).reshape(*codes.shape[:-1], -1, count)
    powers = (_BASE[packing] ** np.arange(count)).astype(np.uint8)
    return (digits * powers).sum(axis=-1, dtype=np.uint8)


def unpack(data: NDArray[np.uint8], k: int, packing: str) -> NDArray[np.int8]:
    """Undo :func:`pack`: codes ``[..., k]``."""
    powers = (_BASE[packing] ** np.arange(PER_BYTE[packing])).astype(np.uint8)
    digits = data[..., None] // powers % np.uint8(_BASE[packing])
    return digits.reshape(*data.shape[:-1], -1)[..., :k].astype(np.int8) - np.int8(1)


def product(x: NDArray[np.float32], ternary: Ternary) -> NDArray[np.float64]:
    """Return ``x [..., K]`` times a weight ``[N, K]`` in f64: differences, then the scale."""
    wide, zero = np.asarray(x, np.float64)[..., None, :], 0.0
    plus = np.where(ternary.codes > 0, wide, zero).sum(axis=-1)
    minus = np.where(ternary.codes < 0, wide, zero).sum(axis=-1)
    result: NDArray[np.float64] = (plus - minus) * np.float64(ternary.scale)
    return result
