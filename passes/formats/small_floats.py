"""Weights as floats of 4 or 8 bits with one scale per group: the definition.

A weight ``w[..., K]`` is cut along K into groups as in ``integer.py``.  A format is a list of
values; ``s = max|w| / top`` with top the largest of them, and a code stands for the value nearest
to ``w / s``.  Its value is ``value[code] * s``: one rounded multiplication.  All in f32; a group of
zeros has ``s = 0`` and codes of +0.

* ``f8E4M3FN``, ``f8E5M2`` (arXiv 2209.05433) and ``f4E2M1`` (OCP Microscaling Formats 1.0, without
  its shared exponent): patterns of a sign, exponent and mantissa with subnormal numbers.  Nearest,
  ties to even; top is 448, 57344 and 6.
* ``nf4``: the 16 values that QLoRA (arXiv 2305.14314) takes from the quantiles of the normal
  distribution, from -1 to 1, as its authors' code has them.  Ties go down.

The shorter last group is padded with codes of +0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from . import half_scales
from .integer import Float, Quantized, grouped

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


@dataclass(frozen=True)
class Minifloat:
    """A float format in which a value is calculated from its pattern.

    ``top`` is the largest number; patterns above it are infinity and NaN, which no weight has.
    """

    name: str
    bits: int
    mantissa_bits: int
    top: float
    dtype: Any

    @property
    def bias(self) -> int:
        """What is subtracted from the exponent field."""
        return (1 << (self.bits - 2 - self.mantissa_bits)) - 1

    def encode(self, values: Float) -> NDArray[np.uint8]:
        """Return the patterns of f32 `values` of at most ``top``."""
        return values.astype(self.dtype).view(np.uint8)

    def decode(self, codes: NDArray[np.uint8]) -> Float:
        """Return the values of patterns."""
        return codes.view(self.dtype).astype(np.float32)


@dataclass(frozen=True)
class Table:
    """A format whose values stand in an ascending list; a code is a place in it."""

    name: str
    bits: int
    values: tuple[float, ...]
    top: float = 1.0

    @property
    def zero(self) -> int:
        """The code of 0."""
        return self.values.index(0.0)

    def encode(self, values: Float) -> NDArray[np.uint8]:
        """Return the places of the nearest values."""
        table = np.array(self.values, np.float32)
        middles = (table[1:] + table[:-1]) * np.float32(0.5)
        return np.searchsorted(middles, values, side="left").astype(np.uint8)

    def decode(self, codes: NDArray[np.uint8]) -> Float:
        """Return the values at places."""
        return np.array(self.values, np.float32)[codes]


SmallFloat = Minifloat | Table
SMALL_FLOATS: dict[str, SmallFloat] = {
    fmt.name: fmt
    for fmt in (
        Minifloat("f8E4M3FN", 8, 3, 448.0, ml_dtypes.float8_e4m3fn),
        Minifloat("f8E5M2", 8, 2, 57344.0, ml_dtypes.float8_e5m2),
        Minifloat("f4E2M1", 4, 1, 6.0, ml_dtypes.float4_e2m1fn),
        Table("nf4", 4, NF4),
    )
}


def quantize(weight: Float, fmt: SmallFloat, group: int, scales: str = "f32") -> Quantized:
    """Round `weight` ``[..., K]`` (f32): codes ``[..., G, g]`` (u8), scales ``[..., G]``, no zeros.

    `scales` are ``f32``, or ``f16`` (:mod:`.half_scales`).

    Raises
    ------
    ValueError
        When the weight holds NaN or infinity.
    """
    if not np.isfinite(weight).all():
        raise ValueError("the weight holds NaN or infinity")
    cut = grouped(np.asarray(weight, np.float32), group)
    top = np.float32(fmt.top)
    found, factors = np.abs(cut).max(axis=-1) / top, None
    if scales == "f16":
        factors = half_scales.factors_of(weight)
        found = half_scales.rounded(found, factors[..., None])
    # A scale of few bits, or no normal number, is rounded so far that w / s may exceed the top.
    divided = cut / np.where(found == 0, np.float32(1), found)[..., None]
    codes = fmt.encode(np.clip(divided, -top, top))
    return Quantized(np.where(found[..., None] == 0, _zero(fmt), codes), found, None, factors)


def dequantize(quantized: Quantized, fmt: SmallFloat, k: int) -> Float:
    """Return the value of the codes as f32 ``[..., K]``, the padding of the last group dropped."""
    values = fmt.decode(quantized.codes.astype(np.uint8)) * quantized.scales[..., None]
    return np.ascontiguousarray(values.reshape(*values.shape[:-2], -1)[..., :k])


def _zero(fmt: SmallFloat) -> np.uint8:
    return np.uint8(fmt.zero if isinstance(fmt, Table) else 0)
