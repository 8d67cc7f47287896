"""Activations in 8 bits with a scale per row or per group, and their products with integer weights.

A row ``x[…, K]`` of f32 is cut along K into the G groups of g of the weight it meets, the last one
filled up with zeros; a *scale group* is one of them, or the whole row.  In each scale group:

* ``p = max (bits(x) & 0x7fffffff)`` as unsigned integers, so that NaN wins over infinity and that
  over numbers; ``amax`` is the f32 whose bits are p;
* below 2^-120, ``s = 0`` and ``r = 0``; else ``s = amax / 127`` and ``r = 127 / amax``;
* ``q = RNE(x * r)`` as a signed byte in -127…127, and 0 where ``x * r`` is NaN.

All in f32, each operation rounded once.  Infinity in a group makes s infinite and every q 0, NaN
makes s NaN: 0 times either is NaN, which is what the sum becomes.

The sum over one group is exact in i32, ``D[m, n, g] = sum (c - z) * q`` with the weight's codes c
and zero points z.  Scales come after it, once per group (MixPE, arXiv 2411.16158):

* a scale per group: ``y[m, n] = sum_g f32(D) * (sw[n, g] * sx[m, g])``;
* a scale per row: ``y[m, n] = (sum_g f32(D) * sw[n, g]) * sx[m]``,

in f32, in the order of g; whether a multiplication and an addition round once or twice is open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .integer import Quantized

Float = NDArray[np.float32]

MAGNITUDE_MASK = 0x7FFFFFFF
LARGEST = 127  # of a code; -128 is not used
SMALLEST_MAXIMUM = 2.0**-120  # of a scale group; 127 / amax must be finite
_MAX_SUM = 2**31 - 1


@dataclass(frozen=True)
class Activations:
    """Codes ``[…, G, g]`` (i8) and scales: f32 ``[…, G]``, or ``[…]`` with a scale per row."""

    codes: NDArray[np.int8]
    scales: Float

    @property
    def has_row_scale(self) -> bool:
        """Whether a row has one scale."""
        return self.scales.ndim < self.codes.ndim - 1


def longest_group(highest: int) -> int:
    """Return how many products a sum in i32 surely holds, of codes that differ from z that much."""
    return _MAX_SUM // (LARGEST * highest)


def quantize(x: Float, group: int, *, per_row: bool) -> Activations:
    """Round the rows ``[…, K]`` to 8 bits, with a scale per row or per `group`."""
    x = np.asarray(x, np.float32)
    groups = -(-x.shape[-1] // group)
    missing = groups * group - x.shape[-1]
    grouped = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    grouped = grouped.reshape(*x.shape[:-1], groups, group)
    axes = (-2, -1) if per_row else (-1,)
    bits = grouped.view(np.uint32) & np.uint32(MAGNITUDE_MASK)
    amax = bits.max(axis=axes, initial=0).view(np.float32)
    is_small = amax < np.float32(SMALLEST_MAXIMUM)
    divisor = np.where(is_small, np.float32(1), amax)
    zero, largest = np.float32(0), np.float32(LARGEST)
    scales = np.where(is_small, zero, divisor / largest)
    reciprocals = np.where(is_small, zero, largest / divisor)
    with np.errstate(invalid="ignore"):
        values = grouped * np.expand_dims(reciprocals, axes)
    codes = np.rint(np.where(np.isnan(values), zero, values)).astype(np.int8)
    return Activations(codes, scales.astype(np.float32))


def sums(x: Activations, weight: Quantized) -> NDArray[np.int32]:
    """Return D ``[…, N, G]`` for activations ``[…, G, g]`` and a weight ``[N, G, g]``."""
    codes = weight.codes.astype(np.int64)
    if weight.zeros is not None:
        codes -= weight.zeros.astype(np.int64)[..., None]
    exact = np.einsum("...gk,ngk->...ng", x.codes.astype(np.int64), codes)
    return exact.astype(np.int32)


def product(x: Activations, weight: Quantized) -> NDArray[np.float64]:
    """Return y ``[…, N]`` with the scales applied in f64: what f32 rounds, in its own ways."""
    exact = sums(x, weight).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return _scaled(exact, x, weight)


def rounding(x: Activations, weight: Quantized) -> NDArray[np.float64]:
    """Return a bound ``[…, N]`` on the distance of an f32 result from :func:`product`.

    A term is rounded when D becomes f32 and at two multiplications, a sum of G terms at most G
    times, and a row's scale once more; results below the normal numbers may be lost.  The bound is
    infinite where a product of scales or a sum may overflow: then the result need not be a number.
    Factors of rows (:mod:`.half_scales`) may be multiplied with in the end.
    """
    factors = np.float64(1) if weight.factors is None else weight.factors.astype(np.float64)
    least, most = np.maximum(factors, 1), np.maximum(1 / factors, 1)
    terms = weight.scales.shape[-1] + 5
    exact = np.abs(sums(x, weight).astype(np.float64))
    with np.errstate(invalid="ignore"):
        magnitude = _scaled(exact, x, weight)
        if x.has_row_scale:
            largest = (exact * weight.scales).sum(axis=-1)
        else:
            largest = (weight.scales * x.scales.astype(np.float64)[..., None, :]).max(axis=-1)
        bound = magnitude * terms * 2.0**-23 + terms * 2.0**-126 * least
        overflows = np.maximum(magnitude, largest) * most > np.finfo(np.float32).max / 2
    return np.where(overflows, np.inf, bound)


def _scaled(exact: NDArray[np.float64], x: Activations, weight: Quantized) -> Any:
    scales = x.scales.astype(np.float64)
    if x.has_row_scale:
        return (exact * weight.scales).sum(axis=-1) * scales[..., None]
    return (exact * weight.scales * scales[..., None, :]).sum(axis=-1)
