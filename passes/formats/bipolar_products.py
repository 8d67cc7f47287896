"""Products of rows coded as bipolar integers: the definition of the form ``bipolar``.

A row of K activations becomes codes of n bits, odd numbers from -(2^n - 1) to 2^n - 1
(``bipolar.py``), times a scale of the row::

    r = (2^n - 1) / 2 / max |x|        at least 2^-126, but 0 where all are 0
    u = clamp(floor(x r) + 2^(n-1)),   v = 2 u - (2^n - 1)
    s = max |x| / (2^n - 1)

With one bit u is the sign, 1 from zero upwards, and s is the mean: ``1 / K`` times the sum of |x|,
or times the largest f32 if the sum is more.  A product adds nothing but counts::

    y[m, n] = s[m] t[n] (K (2^n - 1)^2 - 2 sum over planes i, j of 2^(i+j) popcount(u[i] xor w[j]))

`scales` ``f32`` multiply twice, in this order; those of ``power`` are rounded to the nearest power
of two in the logarithm, from 2^-96 to 2^127, and shift (``powers.scale``).  All is in f32; sums of
magnitudes are from the first to the last.  A row with NaN or infinity gives NaN, and no other does.
(IREE's threads take subnormal numbers for zeros; nothing else differs.)

Source: the sign quantiser of ShiftAddViT (arXiv 2306.06446, *MatAdd*), with the scale of
XNOR-Net (arXiv 1603.05279); more planes as in APT-LLM (arXiv 2409.17870).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import bipolar, powers

Float = NDArray[np.float32]

WORD = 32
# Mantissas from here on are nearer to the next power of two, in the logarithm.
HALFWAY = 0x3504F4
SPECIAL = 0xFF  # the field of a scale that is NaN
INFINITY = 0x7F800000
LARGEST, SMALLEST = np.finfo(np.float32).max, np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Rows:
    """Rows in planes: codes ``[..., K]`` from 0 to 2^bits - 1, and scales ``[...]``."""

    codes: NDArray[np.int32]
    scales: Float


def encode(x: NDArray[Any], bits: int) -> Rows:
    """Code rows ``[..., K]`` in `bits` planes."""
    values = np.asarray(x, np.float32)
    patterns = values.view(np.uint32) & np.uint32(0x7FFFFFFF)
    # As integers NaN > infinity > every number.
    highest = patterns.max(axis=-1, initial=0)
    is_finite = highest < INFINITY
    with np.errstate(all="ignore"):
        if bits == 1:
            codes, scales = (~(values < 0)).astype(np.int32), _means(values)
        else:
            codes, scales = _steps(values, highest.view(np.float32), bits)
    scales = np.where(is_finite, scales, np.float32(np.nan)).astype(np.float32)
    return Rows(codes, scales)


def _means(values: Float) -> Float:
    """Return the mean magnitudes of rows, none infinite."""
    total = np.zeros(values.shape[:-1], np.float32)
    for k in range(values.shape[-1]):
        total = total + np.abs(values[..., k])
    return np.fmin(total, LARGEST) * np.float32(1 / values.shape[-1])


def _steps(values: Float, highest: Float, bits: int) -> tuple[NDArray[np.int32], Float]:
    """Return codes and scales of rows with these largest magnitudes."""
    largest, half = bipolar.largest(bits), np.float32(1 << (bits - 1))
    reach = np.fmax(np.float32(largest / 2) / highest, SMALLEST)
    reach = np.where(highest > 0, reach, np.float32(0))
    steps = np.floor(values * reach[..., None])
    codes = np.fmin(np.fmax(steps, -half), half - 1).astype(np.int32) + (1 << (bits - 1))
    return codes, highest * np.float32(1 / largest)


def fields(scales: Float) -> NDArray[np.int32]:
    """Return the exponents of scales as powers of two, plus 96; :data:`SPECIAL` for NaN."""
    bits = scales.view(np.int32)
    exponent = (bits + ((1 << 23) - HALFWAY)) >> 23
    found = np.maximum(exponent - (127 - powers.EXPONENT_BIAS), 0)
    return np.where(np.isnan(scales), SPECIAL, found).astype(np.int32)


def pack_bits(codes: NDArray[np.int32], bits: int) -> NDArray[np.uint32]:
    """Return codes ``[N, K]`` as words ``[N, bits, ceil(K / 32)]``, K filled up with 0."""
    missing = -codes.shape[-1] % WORD
    full = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, missing)])
    return np.ascontiguousarray(bipolar.planes(full, bits)).view("<u4")


def pack_panels(rows: Rows, bits: int, scales: str, columns: int) -> NDArray[np.uint32]:
    """Return coded rows ``[N, K]`` as kernels read them: ``[panels, words * bits + 1, columns]``.

    Words, their planes, and a last row of scales, f32 or fields.  Of one plane the bits are turned:
    1 is below zero.  What fills up N is 0.
    """
    words = pack_bits(1 - rows.codes if bits == 1 else rows.codes, bits)
    n, _, count = words.shape
    panels = -(-n // columns)
    full = np.zeros((panels * columns, count * bits + 1), np.uint32)
    full[:n, :-1] = words.transpose(0, 2, 1).reshape(n, -1)
    last = rows.scales if scales == "f32" else fields(rows.scales)
    full[:n, -1] = np.ascontiguousarray(last).view(np.uint32)
    return np.ascontiguousarray(full.reshape(panels, columns, -1).transpose(0, 2, 1))


def product(x: Rows, y: Rows, bits: int, scales: str) -> Float:
    """Return ``[..., M, N]`` of rows ``[..., M, K]`` and ``[..., N, K]``."""
    wide = [bipolar.from_unsigned(rows.codes, bits) for rows in (x, y)]
    sums = (wide[0] @ np.swapaxes(wide[1], -1, -2)).astype(np.int32).astype(np.float32)
    left, right = x.scales[..., :, None], y.scales[..., None, :]
    if scales == "f32":
        with np.errstate(all="ignore"):
            found: Float = sums * left * right
        return found
    moved, is_nan = sums, np.zeros(sums.shape, np.bool_)
    for one in (left, right):
        field = fields(one)
        moved = powers.scale(moved, field.astype(np.int64) - powers.EXPONENT_BIAS)
        is_nan = is_nan | (field == SPECIAL)
    return np.where(is_nan, np.float32(np.nan), moved).astype(np.float32)
