"""Products of two activations in planes of signs: the definition of the form ``bipolar``.

A row of K activations becomes codes of n bits, odd numbers from -(2^n - 1) to 2^n - 1
(``bipolar.py``), times a scale of the row::

    r = (2^n - 1) / (2 max |x|)        0 where all are 0
    u = clamp(floor(x r) + 2^(n-1)),   v = 2 u - (2^n - 1)
    s = max |x| / (2^n - 1),           for one bit the mean: sum |x| * (1 / K)

With one bit that is the sign: +1 from zero upwards.  A product adds nothing but counts::

    y[m, n] = s[m] t[n] (K (2^n - 1)^2 - 2 sum over planes i, j of 2^(i+j) popcount(u[i] xor w[j]))

`scales` ``f32`` multiply twice, in this order; those of ``power`` are rounded to the nearest power
of two in the logarithm, from 2^-96 to 2^127, and shift (``powers.scale``).  All is in f32; sums of
magnitudes are from the first to the last.  A row with NaN or infinity gives NaN.  (IREE's threads
take subnormal numbers for zeros; nothing else differs.)

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


@dataclass(frozen=True)
class Rows:
    """Rows in planes: codes ``[..., K]`` from 0 to 2^bits - 1, and scales ``[...]``."""

    codes: NDArray[np.int32]
    scales: Float


def encode(x: NDArray[Any], bits: int) -> Rows:
    """Code rows ``[..., K]`` in `bits` planes."""
    values = np.asarray(x, np.float32)
    largest = np.float32(bipolar.largest(bits))
    with np.errstate(all="ignore"):
        highest = np.fmax.reduce(np.abs(values), axis=-1, initial=np.float32(0))
        reach = np.where(highest > 0, largest / (highest + highest), np.float32(0))
        steps = np.floor(values * reach[..., None])
        half = np.float32(1 << (bits - 1))
        codes = np.fmin(np.fmax(steps, -half), half - 1).astype(np.int32) + (1 << (bits - 1))
        total = np.zeros(values.shape[:-1], np.float32)
        for k in range(values.shape[-1]):
            total = total + np.abs(values[..., k])
        scales = highest * np.float32(1 / largest)
        if bits == 1:
            scales = total * np.float32(1 / values.shape[-1])
        scales = np.where(total < np.inf, scales, np.float32(np.nan)).astype(np.float32)
    return Rows(codes, scales)


def fields(scales: Float) -> NDArray[np.int32]:
    """Return the exponents of scales as powers of two, plus 96; :data:`SPECIAL` for NaN."""
    bits = scales.view(np.int32)
    exponent = (bits + ((1 << 23) - HALFWAY)) >> 23
    found = np.maximum(exponent - (127 - powers.EXPONENT_BIAS), 0)
    return np.where(np.isnan(scales), SPECIAL, found).astype(np.int32)


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
