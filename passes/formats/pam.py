"""Piecewise affine arithmetic: the definition, in integer operations on bit patterns.

For ``x = 2^E (1 + F)`` with F in [0, 1) the two functions all else is made of are
``log2(x) = E + F`` and ``exp2(t) = 2^floor(t) * (1 + t - floor(t))``.  With M bits of mantissa and
``one = bias << M``, the pattern of 1::

    product      |a| + |b| - one                  division     |a| - |b| + one
    square root  (|x| >> 1) + (one >> 1)          log2         (|x| - one) * 2^-M, in floats
    exp2         floor(t * 2^M) + one

Product and division xor the signs; the product never exceeds ``|ab|`` and is exact where an operand
is a power of two; division undoes it exactly, absent underflow and overflow.  The square root loses
the lowest bit of the pattern.  ``log2`` is E + F added in f32, rounded once, ties to even, and then
to the format, which for those of 16 and 8 bits is the only rounding.  ``exp2`` shifts the
significand of t, two's complement, so its exact value is rounded toward zero to M bits.
``exp(x) = exp2(product(x, log2 e))`` and ``log(x) = division(log2(x), log2 e)``, with log2 e
rounded to the format.

The product has the rules and the clamps of ``formats/lmul.py`` and every format; the others have
the formats with infinity, and these rules.  NaN gives the canonical NaN (sign 0), and so does what
is undefined.  An exponent field of 0, zero or subnormal, counts as zero with its sign (so a square
root of a negative subnormal is -0).  A result with exponent field 0 or less is a zero, one from
infinity up an infinity.  Signs are xored in the product and the division, also those of zeros and
infinities.

========  ======================================================================
division  0/0 and ∞/∞ = NaN; x/0 = ±∞, also ∞/0; 0/x = ±0; x/∞ = ±0; ∞/x = ±∞
sqrt      ±0 = ±0; x < 0 and -∞ = NaN; +∞ = +∞
log2      ±0 = -∞; x < 0 and -∞ = NaN; +∞ = +∞; 1 = +0
exp2      ±0 = 1; -∞ and below 1 - bias = +0; +∞ and from bias + 1 = +∞
exp, log  what their parts give: exp(-∞) = +0, exp(±0) = 1, log(±0) = -∞, log(1) = +0
========  ======================================================================

Source: "Multiplication-Free Transformer Training via Piecewise Affine Operations" (arXiv
2305.17190) after Mogami (arXiv 2012.03458).  That paper's log2 ignores the sign; the rules for
specials are ours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import lmul
from .floats import F32, Bits, Float, FloatFormat, bits_of, value_of

LOG2_E = float(np.log2(np.e))
_Patterns = NDArray[np.int64]


def product(
    a: ArrayLike,
    b: ArrayLike,
    fmt: FloatFormat = F32,
    mantissa_bits: int = 0,
    specials: str = "full",
) -> Float:
    """Return the product of values, each rounded to `fmt` first, as f32."""
    found = lmul.multiply_bits(
        bits_of(a, fmt), bits_of(b, fmt), fmt, mantissa_bits, specials, offset=False
    )
    return value_of(found, fmt)


def division(a: ArrayLike, b: ArrayLike, fmt: FloatFormat = F32) -> Float:
    """Return a / b, each rounded to `fmt` first, as f32."""
    return value_of(division_bits(bits_of(a, fmt), bits_of(b, fmt), fmt), fmt)


def square_root(x: ArrayLike, fmt: FloatFormat = F32) -> Float:
    """Return the square root of x, rounded to `fmt` first, as f32."""
    return value_of(square_root_bits(bits_of(x, fmt), fmt), fmt)


def log2(x: ArrayLike, fmt: FloatFormat = F32) -> Float:
    """Return the logarithm to base 2 of x, rounded to `fmt` first, as f32."""
    return value_of(log2_bits(bits_of(x, fmt), fmt), fmt)


def exp2(x: ArrayLike, fmt: FloatFormat = F32) -> Float:
    """Return 2 to the power of x, rounded to `fmt` first, as f32."""
    return value_of(exp2_bits(bits_of(x, fmt), fmt), fmt)


def exp(x: ArrayLike, fmt: FloatFormat = F32) -> Float:
    """Return e to the power of x, rounded to `fmt` first, as f32."""
    return exp2(product(x, LOG2_E, fmt), fmt)


def log(x: ArrayLike, fmt: FloatFormat = F32) -> Float:
    """Return the natural logarithm of x, rounded to `fmt` first, as f32."""
    return division(log2(x, fmt), LOG2_E, fmt)


def division_bits(a: Bits, b: Bits, fmt: FloatFormat = F32) -> Bits:
    """Divide patterns of `fmt`."""
    _check(fmt)
    sign = (np.asarray(a, np.int64) ^ np.asarray(b, np.int64)) & fmt.sign_mask
    above, below = _magnitude(a, fmt), _magnitude(b, fmt)
    is_zero, by_zero = above == 0, below == 0
    infinite, by_infinite = above == fmt.infinity_pattern, below == fmt.infinity_pattern
    result = _in_range(above - below + fmt.one, fmt)
    result = np.where(is_zero | by_infinite, 0, result)
    result = sign | np.where(infinite | by_zero, fmt.infinity_pattern, result)
    undefined = _is_nan(above, fmt) | _is_nan(below, fmt)
    undefined |= (is_zero & by_zero) | (infinite & by_infinite)
    return np.where(undefined, fmt.nan_pattern, result).astype(fmt.bits_dtype)


def square_root_bits(x: Bits, fmt: FloatFormat = F32) -> Bits:
    """Take the square root of patterns of `fmt`."""
    _check(fmt)
    magnitude, sign = _magnitude(x, fmt), np.asarray(x, np.int64) & fmt.sign_mask
    result = (magnitude >> 1) + (fmt.one >> 1)
    result = np.where(magnitude == 0, sign, result)
    result = np.where(magnitude == fmt.infinity_pattern, fmt.infinity_pattern, result)
    undefined = _is_nan(magnitude, fmt) | ((sign != 0) & (magnitude != 0))
    return np.where(undefined, fmt.nan_pattern, result).astype(fmt.bits_dtype)


def log2_bits(x: Bits, fmt: FloatFormat = F32) -> Bits:
    """Take the logarithm to base 2 of patterns of `fmt`."""
    _check(fmt)
    magnitude, sign = _magnitude(x, fmt), np.asarray(x, np.int64) & fmt.sign_mask
    # The conversion rounds as E + F in f32 does, and the power of two scales without rounding.
    value = (magnitude - fmt.one).astype(np.float32) * np.float32(2.0**-fmt.mantissa_bits)
    result = np.asarray(bits_of(value, fmt), np.int64)
    result = np.where(magnitude == 0, fmt.sign_mask | fmt.infinity_pattern, result)
    result = np.where(magnitude == fmt.infinity_pattern, fmt.infinity_pattern, result)
    undefined = _is_nan(magnitude, fmt) | ((sign != 0) & (magnitude != 0))
    return np.where(undefined, fmt.nan_pattern, result).astype(fmt.bits_dtype)


def exp2_bits(x: Bits, fmt: FloatFormat = F32) -> Bits:
    """Raise 2 to the power of patterns of `fmt`."""
    _check(fmt)
    magnitude, sign = _magnitude(x, fmt), np.asarray(x, np.int64) & fmt.sign_mask
    leading = fmt.smallest_normal
    significand = np.where(magnitude == 0, 0, magnitude & (leading - 1) | leading)
    significand = np.where(sign != 0, -significand, significand)
    exponent = (magnitude >> fmt.mantissa_bits) - fmt.bias
    # Beyond these shifts nothing changes: all is out of range, or nothing is left but the sign.
    left = np.clip(exponent, 0, fmt.exponent_bits)
    right = np.clip(-exponent, 0, fmt.mantissa_bits + 1)
    result = _in_range((significand << left >> right) + fmt.one, fmt)
    undefined = _is_nan(magnitude, fmt)
    return np.where(undefined, fmt.nan_pattern, result).astype(fmt.bits_dtype)


def _check(fmt: FloatFormat) -> None:
    if not fmt.has_infinity:
        raise ValueError(f"{fmt.name} has no infinity: it has the product only")


def _magnitude(bits: Bits, fmt: FloatFormat) -> _Patterns:
    """Magnitudes as signed integers, subnormal ones 0."""
    magnitude = np.asarray(bits, np.int64) & fmt.magnitude_mask
    return np.where(magnitude < fmt.smallest_normal, 0, magnitude)


def _is_nan(magnitude: _Patterns, fmt: FloatFormat) -> NDArray[np.bool_]:
    return magnitude > fmt.infinity_pattern


def _in_range(total: _Patterns, fmt: FloatFormat) -> _Patterns:
    """Underflow to 0 and overflow to infinity."""
    return np.where(total < fmt.smallest_normal, 0, np.minimum(total, fmt.infinity_pattern))
