"""L-Mul, and all that piecewise affine multiplication shares with it: the definition.

A product is one addition of bit patterns, in a *carrier* format with M bits of mantissa (``|x|`` is
the pattern of x without its sign, all in integers of enough bits)::

    |r| = |a| + |b| - C      C = (bias << M) - (1 << (M - l(m)))      sign(r) = sign(a) ^ sign(b)

m is the number of leading mantissa bits that are kept of each operand; the others are masked to 0
before the addition, which truncates toward zero.  ``l(m) = m`` for m <= 3, 3 for m = 4, 4 above.
Without the offset (``C = bias << M``) it is the piecewise affine product of ``formats/pam.py``.
``1 * 1 = 1 + 2^-l(m)``: products by one are not exact.

**Specials "full"**, any carrier, in this order:

1. NaN in an operand gives the canonical NaN, with sign 0.
2. An exponent field of 0, zero or subnormal, counts as a zero with its sign.
3. Infinity times zero gives that NaN; infinity times anything else an infinity, signs xored.
4. A zero operand gives a zero, signs xored.
5. r below ``1 << M`` (exponent field 0 or less) is underflow: zero, signs xored.
6. r from the pattern of infinity up is overflow: infinity, signs xored.  Without infinity
   (f8E4M3FN), r above the largest number, 0x7E, is 0x7E, signs xored.

NaN is recognised before bits are masked, so a NaN with a short payload stays one.

**Specials "finite"**, carriers with 8 bits of exponent: each magnitude is clamped to
[2^-63, 2^63), as a pattern to [LOW, HIGH] of :func:`clamp_bounds`, then masked; nothing else is
done.  ``LOW + LOW - C`` is at least ``1 << M`` and ``HIGH + HIGH - C`` at most the largest number,
for every m, with the offset and without: r never wraps in the carrier's own width, and is always a
normal number.  Where both magnitudes are within [2^-63, 2^63), r equals that of "full" bit for bit.
At the edges:

* zero, a subnormal or a smaller number counts as ±2^-63, with its sign.  Where "full" has 0, the
  result is not 0 but ``|r| <= (1 + 2^-l(m)) * 2^-63 * max(|other|, 2^-63)`` (without offset
  ``2^-63 * max(|other|, 2^-63)``), with `other` cut to below 2^63;
* 2^63 and above, infinity and NaN count as HIGH, masked, with their sign: just below 2^63.

Source: "Addition is All You Need" (arXiv 2410.00907), in the integer form: where the mantissas
carry it differs from that paper's algebraic form, and its error is a third.  Masking and l(m) are
that paper's; the rules for specials and the clamps are ours.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import ArrayLike

from .floats import F32, FORMATS, Bits, Float, FloatFormat, bits_of, round_to, value_of

FINITE_EXPONENT = 63  # "finite" clamps magnitudes to [2^-63, 2^63)
_GRID = 1024  # points along each side of the numerical integral in `slope`


def offset_exponent(mantissa_bits: int) -> int:
    """Return l(m): the offset is ``2^-l(m)`` of the leading 1, for m >= 1 kept mantissa bits."""
    if mantissa_bits < 1:
        raise ValueError(f"{mantissa_bits} mantissa bits have no offset")
    if mantissa_bits <= 3:
        return mantissa_bits
    return 3 if mantissa_bits == 4 else 4


def constant(fmt: FloatFormat, mantissa_bits: int = 0, *, offset: bool = True) -> int:
    """Return C, what is subtracted from the sum of magnitudes in the carrier `fmt`.

    Parameters
    ----------
    mantissa_bits : int
        Kept bits of each operand, 0 for all that `fmt` has.
    offset : bool
        False gives the constant of the piecewise affine product, the pattern of 1.

    Raises
    ------
    ValueError
        When `fmt` has fewer mantissa bits.
    """
    kept = _kept(fmt, mantissa_bits)
    if not offset:
        return fmt.one
    return fmt.one - (1 << (fmt.mantissa_bits - offset_exponent(kept)))


def truncate(bits: Bits, fmt: FloatFormat, mantissa_bits: int = 0) -> Bits:
    """Mask all but the `mantissa_bits` leading mantissa bits (0 keeps all); NaN stays as it is."""
    dropped = fmt.mantissa_bits - _kept(fmt, mantissa_bits)
    mask = fmt.bits_dtype.type((1 << fmt.width) - (1 << dropped))
    is_nan = (bits & fmt.magnitude_mask) > fmt.ceiling
    return np.where(is_nan, bits, bits & mask)


def clamp_bounds(fmt: FloatFormat) -> tuple[int, int]:
    """Return LOW and HIGH, the patterns of 2^-63 and of the last number below 2^63.

    Raises
    ------
    ValueError
        When `fmt` has not 8 bits of exponent.
    """
    if fmt.exponent_bits != 8:
        raise ValueError(f"{fmt.name} has too short a range for finite specials")
    step = FINITE_EXPONENT << fmt.mantissa_bits
    return fmt.one - step, fmt.one + step - 1


def prepare_bits(
    bits: Bits, fmt: FloatFormat, mantissa_bits: int = 0, specials: str = "full"
) -> Bits:
    """Return operand patterns ready to be added: clamped if "finite", then truncated."""
    if specials == "full":
        return truncate(bits, fmt, mantissa_bits)
    if specials != "finite":
        raise ValueError(f"specials '{specials}' are unknown")
    kind = fmt.bits_dtype.type
    low, high = clamp_bounds(fmt)
    magnitude = np.clip(bits & kind(fmt.magnitude_mask), kind(low), kind(high))
    return truncate(bits & kind(fmt.sign_mask) | magnitude, fmt, mantissa_bits)


def prepare(
    values: ArrayLike, mantissa_bits: int = 0, specials: str = "finite", carrier: str = "f32"
) -> Bits:
    """Round f32 `values` to `carrier` (ties to even), then :func:`prepare_bits`.

    This is what a packed operand holds.
    """
    fmt = FORMATS[carrier]
    return prepare_bits(bits_of(values, fmt), fmt, mantissa_bits, specials)


def integer_product(a: Bits, b: Bits, fmt: FloatFormat, subtracted: int) -> Bits:
    """Multiply prepared patterns under the rules of "full"; `subtracted` is the constant C."""
    first, second = np.asarray(a, np.int64), np.asarray(b, np.int64)
    sign = (first ^ second) & fmt.sign_mask
    first, second = first & fmt.magnitude_mask, second & fmt.magnitude_mask
    is_zero = np.minimum(first, second) < fmt.smallest_normal
    greater = np.maximum(first, second)
    total = first + second - subtracted
    result = np.where(total < fmt.smallest_normal, 0, np.minimum(total, fmt.ceiling))
    result = sign | np.where(is_zero, 0, result)
    is_nan = greater > fmt.ceiling
    if fmt.has_infinity:
        is_infinite = greater == fmt.infinity_pattern
        result = np.where(is_infinite, sign | fmt.infinity_pattern, result)
        is_nan |= is_infinite & is_zero
    return np.where(is_nan, fmt.nan_pattern, result).astype(fmt.bits_dtype)


def finite_product(a: Bits, b: Bits, fmt: FloatFormat, subtracted: int) -> Bits:
    """Multiply patterns prepared with "finite": one sum in the carrier's own width, no rules."""
    kind = fmt.bits_dtype.type
    magnitude = kind(fmt.magnitude_mask)
    total = (a & magnitude) + (b & magnitude) - kind(subtracted)
    return np.asarray((a ^ b) & kind(fmt.sign_mask) | total)


def multiply_bits(
    a: Bits,
    b: Bits,
    fmt: FloatFormat,
    mantissa_bits: int = 0,
    specials: str = "full",
    *,
    offset: bool = True,
) -> Bits:
    """Multiply patterns of the carrier `fmt`, element by element: the op, with all its options."""
    subtracted = constant(fmt, mantissa_bits, offset=offset)
    first = prepare_bits(a, fmt, mantissa_bits, specials)
    second = prepare_bits(b, fmt, mantissa_bits, specials)
    product = integer_product if specials == "full" else finite_product
    return product(first, second, fmt, subtracted)


def lmul(
    a: ArrayLike,
    b: ArrayLike,
    fmt: FloatFormat = F32,
    mantissa_bits: int = 0,
    specials: str = "full",
) -> Float:
    """Return the L-Mul product of values, each rounded to `fmt` first, as f32."""
    return value_of(
        multiply_bits(bits_of(a, fmt), bits_of(b, fmt), fmt, mantissa_bits, specials), fmt
    )


def matmul(
    a: ArrayLike,
    b: ArrayLike,
    mantissa_bits: int = 0,
    specials: str = "finite",
    *,
    offset: bool = True,
    carrier: str = "f32",
    accumulate: str = "f32",
) -> Float:
    """Multiply matrices ``[..., M, K]`` and ``[..., K, N]`` (f32) into f32 ``[..., M, N]``.

    Operands are rounded to `carrier`, ties to even, and multiplied there.  The products are added
    as f32 in the order of k, from +0; with `accumulate` other than f32 the sum is rounded to that
    format after each addition, as :func:`.floats.bits_of` rounds: ties to even, subnormal numbers
    kept, overflow to infinity, and in f8E4M3FN to ±448.  A NaN in the sum has any payload and sign.

    Parameters
    ----------
    mantissa_bits : int
        Kept bits of each operand, 0 for all that `carrier` has.
    specials : str
        "finite" or "full"; "finite" needs the carrier f32 or bf16.
    offset : bool
        False for the piecewise affine product.
    carrier, accumulate : str
        Keys of :data:`.floats.FORMATS`.

    Raises
    ------
    ValueError
        When carrier, mantissa bits and specials do not go together.
    """
    fmt, kept_in = FORMATS[carrier], FORMATS[accumulate]
    subtracted = constant(fmt, mantissa_bits, offset=offset)
    first = prepare(a, mantissa_bits, specials, carrier)
    second = prepare(b, mantissa_bits, specials, carrier)
    product = integer_product if specials == "full" else finite_product
    batch = np.broadcast_shapes(first.shape[:-2], second.shape[:-2])
    total = np.zeros((*batch, first.shape[-2], second.shape[-1]), np.float32)
    for k in range(first.shape[-1]):
        terms = product(first[..., :, k, None], second[..., None, k, :], fmt, subtracted)
        with np.errstate(over="ignore", invalid="ignore"):
            total += value_of(terms, fmt)
        if kept_in is not F32:
            total = round_to(total, kept_in)
    return total


@functools.cache
def slope(
    mantissa_bits: int = 0, *, offset: bool = True, carrier: str = "f32", weight_bits: int = 0
) -> float:
    """Return the mean of approximate / exact product, the divisor of the gain correction.

    The operands are independent and uniform in their logarithm, as values are that spread over many
    octaves: for them this is the slope of the approximate product fitted to the exact one by least
    squares, and so for sums of such products.  That of normally distributed operands differs by
    less than 0.001, that of mantissas uniform in [1, 2) by 0.004 (full mantissa) to 0.01 (2 bits).
    The mean is the sum over the midpoints of a grid of 1024 x 1024 cells; every carry is in it.

    Operands are rounded to `carrier` first, as :func:`matmul` does, and one of them is truncated to
    `weight_bits` (0: all), as a weight is that is stored narrow; the exact product is that of the
    operands as they were.
    """
    fmt = FORMATS[carrier]
    side = np.exp2((np.arange(_GRID) + 0.5) / _GRID).astype(np.float32)
    bits = bits_of(side, fmt)
    weight = truncate(bits, fmt, min(weight_bits, fmt.mantissa_bits))
    found = multiply_bits(bits[:, None], weight[None, :], fmt, mantissa_bits, offset=offset)
    return float((value_of(found, fmt) / (side[:, None].astype(np.float64) * side)).mean())


def _kept(fmt: FloatFormat, mantissa_bits: int) -> int:
    """Return the number of kept mantissa bits, 0 read as all."""
    if not 0 <= mantissa_bits <= fmt.mantissa_bits:
        raise ValueError(f"{fmt.name} has {fmt.mantissa_bits} mantissa bits, not {mantissa_bits}")
    return mantissa_bits or fmt.mantissa_bits
