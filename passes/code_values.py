"""What a stored code of a weight means, as operations on scalars in f32.

The definitions are ``formats/integer.py`` and ``formats/small_floats.py``.
"""

from __future__ import annotations

from iree.compiler import ir
from iree.compiler.dialects import arith

from .formats.small_floats import SMALL_FLOATS, Minifloat, Table
from .forms import Form


def code_value(code: ir.Value, zero: ir.Value | None, form: Form) -> ir.Value:
    """Return the f32 that `code` stands for before its scale: of integers, ``code - zero``."""
    if form.has_integer_weights:
        return integer_value(code, zero)
    fmt = SMALL_FLOATS[form.weights]
    code = _unsigned(code)
    return _looked_up(code, fmt) if isinstance(fmt, Table) else _decoded(code, fmt)


def integer_value(code: ir.Value, zero: ir.Value | None) -> ir.Value:
    """Return ``f32(code - zero)``: signed codes without a zero point, unsigned ones with."""
    f32 = ir.F32Type.get()
    if zero is None:
        return arith.sitofp(f32, code)
    return arith.sitofp(f32, arith.subi(_unsigned(code), _unsigned(zero)))


def code_of_word(word: ir.Value, width: int, position: ir.Value, *, signed: bool) -> ir.Value:
    """Return code `position` of an i32 that holds several, lowest bits first, as i32."""
    i32 = word.type
    bits = arith.muli(position, arith.constant(ir.IndexType.get(), width))
    shift = arith.index_cast(i32, bits)
    if not signed:
        return arith.andi(arith.shrui(word, shift), arith.constant(i32, 2**width - 1))
    top = arith.constant(i32, 32 - width)
    return arith.shrsi(arith.shli(word, arith.subi(top, shift)), top)


def _unsigned(value: ir.Value) -> ir.Value:
    i32 = ir.IntegerType.get_signless(32)
    return value if value.type == i32 else arith.extui(i32, value)


def _decoded(code: ir.Value, fmt: Minifloat) -> ir.Value:
    """Move exponent and mantissa to where f32 has them; exact, also where f32 flushes subnormals.

    A subnormal pattern has no leading 1.  It is read as if it had, one binade up, and that 1 is
    subtracted again.
    """
    i32, f32 = code.type, ir.F32Type.get()
    magnitude = arith.andi(code, arith.constant(i32, (1 << (fmt.bits - 1)) - 1))
    is_subnormal = arith.cmpi(
        arith.CmpIPredicate.ult, magnitude, arith.constant(i32, 1 << fmt.mantissa_bits)
    )
    leading = arith.select(
        is_subnormal,
        arith.constant(i32, 128 - fmt.bias << 23),
        arith.constant(i32, 127 - fmt.bias << 23),
    )
    moved = arith.shli(magnitude, arith.constant(i32, 23 - fmt.mantissa_bits))
    too_much = arith.select(
        is_subnormal, arith.constant(f32, 2.0 ** (1 - fmt.bias)), arith.constant(f32, 0.0)
    )
    value = arith.subf(arith.bitcast(f32, arith.addi(moved, leading)), too_much)
    sign = arith.shli(arith.shrui(code, arith.constant(i32, fmt.bits - 1)), arith.constant(i32, 31))
    return arith.bitcast(f32, arith.ori(arith.bitcast(i32, value), sign))


def _looked_up(code: ir.Value, fmt: Table) -> ir.Value:
    """Choose among the values bit by bit: vectors have selections everywhere, look-ups not."""
    i32 = code.type
    values = [arith.constant(ir.F32Type.get(), value) for value in fmt.values]
    for bit in range(fmt.bits):
        is_set = arith.cmpi(
            arith.CmpIPredicate.ne,
            arith.andi(code, arith.constant(i32, 1 << bit)),
            arith.constant(i32, 0),
        )
        pairs = zip(values[::2], values[1::2], strict=True)
        values = [arith.select(is_set, high, low) for low, high in pairs]
    return values[0]
