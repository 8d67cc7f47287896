"""Products with powers of two on vectors, by integer additions and all rules of the definition.

The definition is :func:`..formats.powers.shift`; a term has its sign and its exponent field where
an f32 has them, which :func:`unpacked` makes of a byte.
"""

from __future__ import annotations

from iree.compiler import ir
from iree.compiler.dialects import arith

from ..formats.floats import F32
from ..formats.powers import EXPONENT_BIAS, EXPONENT_MASK
from . import emit

MANTISSA = F32.mantissa_bits
BIAS = EXPONENT_BIAS << MANTISSA  # what the field of a term has too much
SMALLEST = 1 << MANTISSA  # pattern of the smallest normal number
INFINITY = 0xFF << MANTISSA
FIELD = EXPONENT_MASK << MANTISSA
_U = arith.CmpIPredicate


def unpacked(words: ir.Value, byte: int, lanes: int) -> ir.Value:
    """Return the term in a byte of each word (0 the lowest): ``sign << 31 | field << 23``."""
    up = 8 * (3 - byte)
    raised = arith.shli(words, bits(lanes, up)) if up else words
    # The sign moves down with the field; its copy is masked.
    moved = arith.shrsi(raised, bits(lanes, 1))
    return arith.andi(moved, bits(lanes, F32.sign_mask | FIELD))


def is_zero(term: ir.Value, lanes: int) -> ir.Value:
    """Return where a term stands for 0."""
    return arith.cmpi(_U.eq, arith.andi(term, bits(lanes, FIELD)), bits(lanes, 0))


def shifted(x: ir.Value, term: ir.Value, lanes: int) -> ir.Value:
    """Return the pattern of the product of the f32 with pattern `x` and a term that is not 0."""
    moved = scaled(x, arith.andi(term, bits(lanes, FIELD)), lanes)
    return arith.xori(moved, arith.andi(term, bits(lanes, F32.sign_mask)))


def scaled(x: ir.Value, field: ir.Value, lanes: int) -> ir.Value:
    """Return the pattern of an f32 times ``2^(f - 96)``; `field` is ``f << 23``, f up to 255.

    The sum of a magnitude and a field fits 32 bits unsigned.
    """
    magnitude = arith.andi(x, bits(lanes, F32.magnitude_mask))
    total = arith.addi(magnitude, field)
    moved = arith.subi(arith.minui(total, bits(lanes, BIAS + INFINITY)), bits(lanes, BIAS))
    vanishes = arith.ori(
        arith.cmpi(_U.ult, total, bits(lanes, BIAS + SMALLEST)),
        arith.cmpi(_U.ult, magnitude, bits(lanes, SMALLEST)),
    )
    moved = arith.select(vanishes, bits(lanes, 0), moved)
    is_special = arith.cmpi(_U.uge, magnitude, bits(lanes, INFINITY))
    moved = arith.select(is_special, magnitude, moved)
    return arith.ori(arith.andi(x, bits(lanes, F32.sign_mask)), moved)


def bits(lanes: int, pattern: int) -> ir.Value:
    """Return a vector of one pattern."""
    return emit.splat(lanes, emit.integer(32), pattern & 0xFFFFFFFF)
