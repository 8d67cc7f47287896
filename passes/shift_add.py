"""Shifts of floats and signs of bits, as operations on scalars.

The NumPy definition is ``formats/powers.py``; what stands here builds the same arithmetic as IR.
Exponents are *fields*: the exponent plus 96, so that the field of a term is its low seven bits.
"""

from __future__ import annotations

from iree.compiler import ir
from iree.compiler.dialects import arith

from .additive import bits_of, integer, literal
from .formats import powers
from .formats.floats import F32

_U = arith.CmpIPredicate
_MANTISSA = F32.mantissa_bits
_SMALLEST = 1 << _MANTISSA
_INFINITY = 0xFF << _MANTISSA


def i32(value: int) -> ir.Value:
    """Return a constant of 32 bits, given as a pattern."""
    return literal(integer(32), value)


def flipped(value: ir.Value, word: ir.Value, position: ir.Value) -> ir.Value:
    """Return the f32 with its sign turned where bit `position` (an index) of `word` is 0."""
    last = arith.constant(ir.IndexType.get(), 31)
    up = arith.index_castui(integer(32), arith.subi(last, position))
    kept = arith.andi(arith.shli(word, up), i32(F32.sign_mask))
    turned = arith.xori(arith.xori(bits_of(value), kept), i32(F32.sign_mask))
    return arith.bitcast(value.type, turned)


def scale(value: ir.Value, field: ir.Value) -> ir.Value:
    """Return an f32 times ``2^(field - 96)``, for fields 0…223: an addition to its exponent.

    The sum of a magnitude and a field fits 32 bits unsigned, so that underflow and overflow are
    tests of the sum before the bias is subtracted.
    """
    bits = bits_of(value)
    magnitude = arith.andi(bits, i32(F32.magnitude_mask))
    bias = powers.EXPONENT_BIAS << _MANTISSA
    total = arith.addi(magnitude, arith.shli(field, i32(_MANTISSA)))
    moved = arith.subi(arith.minui(total, i32(bias + _INFINITY)), i32(bias))
    is_zero = arith.ori(
        arith.cmpi(_U.ult, total, i32(bias + _SMALLEST)),
        arith.cmpi(_U.ult, magnitude, i32(_SMALLEST)),
    )
    moved = arith.select(is_zero, i32(0), moved)
    is_special = arith.cmpi(_U.uge, magnitude, i32(_INFINITY))
    moved = arith.select(is_special, magnitude, moved)
    sign = arith.andi(bits, i32(F32.sign_mask))
    return arith.bitcast(value.type, arith.ori(sign, moved))


def shift(value: ir.Value, term: ir.Value) -> ir.Value:
    """Return the product of an f32 and a term, which an i32 holds."""
    moved = bits_of(scale(value, arith.andi(term, i32(powers.EXPONENT_MASK))))
    sign = arith.shli(arith.andi(term, i32(powers.SIGN_MASK)), i32(24))
    is_none = arith.cmpi(_U.eq, term, i32(0))
    return arith.bitcast(value.type, arith.select(is_none, i32(0), arith.xori(moved, sign)))


def term(word: ir.Value, number: int) -> ir.Value:
    """Return a byte of a word: one of the terms of a scale."""
    moved = arith.shrui(word, i32(8 * number)) if number else word
    return arith.andi(moved, i32(0xFF))
