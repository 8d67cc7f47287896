"""Float formats as bit patterns: what carries the operands and sums of ``lmul`` and ``pam``.

A pattern of W bits is a sign, E bits of exponent and M bits of mantissa; the magnitude is all but
the sign.  Exponent field 0 means zero or a subnormal number.  With infinity (f32, bf16, f16,
f8E5M2) an exponent field of all ones is infinity or NaN, as in IEEE 754; without (f8E4M3FN) it is a
number, except the last pattern, which is NaN.

Source: IEEE 754; the eight-bit formats are those of arXiv 2209.05433.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float32]
Bits = NDArray[np.unsignedinteger[Any]]

_DTYPES: dict[str, Any] = {
    "f32": np.float32,
    "bf16": ml_dtypes.bfloat16,
    "f16": np.float16,
    "f8E4M3FN": ml_dtypes.float8_e4m3fn,
    "f8E5M2": ml_dtypes.float8_e5m2,
}
_BITS_DTYPES: dict[int, Any] = {8: np.uint8, 16: np.uint16, 32: np.uint32}


@dataclass(frozen=True)
class FloatFormat:
    """A format of `width` bits: sign, `exponent_bits`, `mantissa_bits`."""

    name: str
    width: int
    exponent_bits: int
    mantissa_bits: int
    has_infinity: bool

    @property
    def bias(self) -> int:
        """What is subtracted from the exponent field."""
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def one(self) -> int:
        """The pattern of 1, ``bias << M``."""
        return self.bias << self.mantissa_bits

    @property
    def sign_mask(self) -> int:
        """The sign bit."""
        return 1 << (self.width - 1)

    @property
    def magnitude_mask(self) -> int:
        """All bits but the sign."""
        return self.sign_mask - 1

    @property
    def smallest_normal(self) -> int:
        """The pattern of the smallest number with a leading 1: exponent field 1, mantissa 0."""
        return 1 << self.mantissa_bits

    @property
    def infinity_pattern(self) -> int:
        """The first pattern with an exponent of all ones: infinity, where the format has one."""
        return ((1 << self.exponent_bits) - 1) << self.mantissa_bits

    @property
    def largest(self) -> int:
        """The pattern of the largest finite number; greater magnitudes are infinity or NaN."""
        return self.infinity_pattern - 1 if self.has_infinity else self.magnitude_mask - 1

    @property
    def ceiling(self) -> int:
        """What overflow becomes: infinity, or the largest number where there is none."""
        return self.infinity_pattern if self.has_infinity else self.largest

    @property
    def nan_pattern(self) -> int:
        """The canonical NaN: quiet, positive, no payload."""
        if not self.has_infinity:
            return self.magnitude_mask
        return self.infinity_pattern | 1 << (self.mantissa_bits - 1)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy type of its values; those of eight bits and bf16 are of ``ml_dtypes``."""
        return np.dtype(_DTYPES[self.name])

    @property
    def bits_dtype(self) -> np.dtype[Any]:
        """The NumPy type of its patterns: uint8, uint16 or uint32."""
        return np.dtype(_BITS_DTYPES[self.width])


F32 = FloatFormat("f32", 32, 8, 23, True)
BF16 = FloatFormat("bf16", 16, 8, 7, True)
F16 = FloatFormat("f16", 16, 5, 10, True)
F8E4M3FN = FloatFormat("f8E4M3FN", 8, 4, 3, False)
F8E5M2 = FloatFormat("f8E5M2", 8, 5, 2, True)
FORMATS: dict[str, FloatFormat] = {fmt.name: fmt for fmt in (F32, BF16, F16, F8E4M3FN, F8E5M2)}


def bits_of(values: ArrayLike, fmt: FloatFormat) -> Bits:
    """Return the patterns of `values`, rounded to `fmt` where they are not of its type.

    Values of another type are taken as f32, then rounded to nearest, ties to even, with subnormal
    numbers.  Overflow becomes infinity; without infinity it becomes ± the largest number, and so
    does an infinite value.  NaN stays a NaN, of any payload.
    """
    array = np.asarray(values)
    if array.dtype != fmt.dtype:
        numbers = array.astype(np.float32)
        if not fmt.has_infinity:
            top = float(value_of(fmt.largest, fmt))
            numbers = np.clip(numbers, -top, top)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            array = np.asarray(numbers).astype(fmt.dtype)
    return array.view(fmt.bits_dtype)


def value_of(bits: ArrayLike, fmt: FloatFormat) -> Float:
    """Return the values of patterns as f32, which holds those of every format exactly."""
    values = np.asarray(bits, fmt.bits_dtype).view(fmt.dtype)
    return np.asarray(values.astype(np.float32, copy=False))


def round_to(values: ArrayLike, fmt: FloatFormat) -> Float:
    """Return f32 `values` rounded to `fmt` as :func:`bits_of` does, in f32 again."""
    return value_of(bits_of(values, fmt), fmt)
