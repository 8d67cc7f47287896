"""Products by one integer addition (L-Mul, PAM), as operations on scalars.

The NumPy definition is ``formats/lmul.py`` and ``formats/pam.py``; what stands here builds the same
arithmetic as IR.  The bit patterns of two floats are added and a constant is subtracted: once
the bias of the exponent, less the offset of L-Mul.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith

from .formats.floats import FORMATS, FloatFormat, value_of
from .formats.lmul import clamp_bounds, constant
from .formats.stored import StoredFloat
from .forms import Form

_U = arith.CmpIPredicate


@dataclass(frozen=True)
class Addition:
    """One kind of product.

    Attributes
    ----------
    carrier : FloatFormat
        The format whose bit patterns are added.
    mantissa_bits : int
        Leading mantissa bits of an operand that are kept, at most the carrier's.
    constant : int
        What is subtracted from the sum of two patterns.
    """

    carrier: FloatFormat
    mantissa_bits: int
    constant: int

    @classmethod
    def of_form(cls, form: Form) -> Addition:
        """Return the product that `form` (``lmul`` or ``pam``) asks for.

        ``finite`` products of bf16 are added as f32, whose exponent is the same: only the zeros
        below the mantissa differ.
        """
        most = FORMATS[form.carrier].mantissa_bits
        kept = min(form.mantissa_bits or most, most)
        fmt = FORMATS["f32" if form.specials == "finite" else form.carrier]
        return cls(fmt, kept, constant(fmt, kept, offset=form.form == "lmul"))

    @property
    def magnitude_mask(self) -> int:
        """The bits of a magnitude that an operand keeps."""
        dropped = (1 << (self.carrier.mantissa_bits - self.mantissa_bits)) - 1
        return self.carrier.magnitude_mask & ~dropped

    @property
    def truncates(self) -> bool:
        """Whether an operand loses bits."""
        return self.mantissa_bits < self.carrier.mantissa_bits


def float_type(fmt: FloatFormat) -> ir.Type:
    """Return MLIR's type of a format."""
    return ir.Type.parse(fmt.name)


def integer(width: int) -> ir.Type:
    """Return the signless integer type of `width` bits."""
    return ir.IntegerType.get_signless(width)


def literal(type_: ir.Type, value: int) -> ir.Value:
    """Return an integer constant; `value` is a bit pattern, so the highest bit may be set."""
    width = type_.width
    signed = value - (1 << width) if value >> (width - 1) & 1 else value
    return arith.constant(type_, signed)


def bits_of(value: ir.Value) -> ir.Value:
    """Return the bit pattern of a float."""
    return arith.bitcast(integer(value.type.width), value)


def to_carrier(value: ir.Value, carrier: FloatFormat) -> ir.Value:
    """Extend a float to the carrier's type, or round it to nearest even."""
    type_ = float_type(carrier)
    if value.type == type_:
        return value
    if value.type.width < type_.width:
        return arith.extf(type_, value)
    if value.type.width > type_.width:
        return arith.truncf(type_, value if carrier.has_infinity else _cut(value, carrier))
    f32 = ir.F32Type.get()  # f16 and bf16, or the two f8: through f32
    return arith.truncf(type_, arith.extf(f32, value))


def _cut(value: ir.Value, fmt: FloatFormat) -> ir.Value:
    """Return a float cut to the largest number of a format without infinity."""
    top = float(value_of(fmt.largest, fmt))
    limits = [arith.constant(value.type, x) for x in (top, -top)]
    return arith.maximumf(arith.minimumf(value, limits[0]), limits[1])


def round_to(value: ir.Value, fmt: FloatFormat) -> ir.Value:
    """Return an f32 rounded to `fmt`, in f32 again; without infinity it is cut to the largest."""
    narrow = to_carrier(value, fmt)
    if fmt.name != "bf16":
        return to_carrier(narrow, FORMATS["f32"])
    # IREE 3.13 drops a rounding to bf16 that is extended at once: this extends by hand.
    wide = arith.extui(integer(32), bits_of(narrow))
    return arith.bitcast(value.type, arith.shli(wide, literal(integer(32), 16)))


def prepare(bits: ir.Value, product: Addition, *, less: int = 0) -> ir.Value:
    """Return the operand of a ``finite`` product: magnitude clamped and truncated, minus `less`.

    With the constant subtracted from one of the two operands, their sum is the product.
    """
    low, high = clamp_bounds(product.carrier)
    type_ = bits.type
    magnitude = arith.andi(bits, literal(type_, product.carrier.magnitude_mask))
    magnitude = arith.minui(arith.maxui(magnitude, literal(type_, low)), literal(type_, high))
    if product.truncates:
        magnitude = arith.andi(magnitude, literal(type_, product.magnitude_mask))
    sign = arith.andi(bits, literal(type_, product.carrier.sign_mask))
    whole = arith.ori(sign, magnitude)
    return arith.subi(whole, literal(type_, less)) if less else whole


def finite(a: ir.Value, b: ir.Value, product: Addition) -> ir.Value:
    """Return the bits of the ``finite`` product of two bit patterns of the carrier."""
    return arith.addi(prepare(a, product, less=product.constant), prepare(b, product))


def add_stored(pattern: ir.Value, weight: ir.Value, stored: StoredFloat) -> ir.Value:
    """Return the product of a prepared f32 pattern and a weight as it is stored (``iN``)."""
    i32 = integer(32)
    if stored.width == 32:
        return arith.addi(pattern, weight)
    if stored.width == 16:
        return arith.addi(pattern, arith.shli(arith.extui(i32, weight), literal(i32, 16)))
    fmt, f32 = FORMATS[stored.name], FORMATS["f32"]
    code = arith.extui(i32, weight)
    magnitude = arith.andi(code, literal(i32, fmt.magnitude_mask))
    sign = arith.shli(arith.andi(code, literal(i32, fmt.sign_mask)), literal(i32, 24))
    shift = f32.mantissa_bits - fmt.mantissa_bits
    moved = arith.addi(arith.shli(magnitude, literal(i32, shift)), literal(i32, rebias(stored)))
    total = arith.addi(pattern, arith.ori(sign, moved))
    is_zero = arith.cmpi(_U.eq, magnitude, literal(i32, 0))
    return arith.select(is_zero, literal(i32, 0), total)


def rebias(stored: StoredFloat) -> int:
    """Return what a narrow pattern, moved to f32's exponent, lacks to be f32's."""
    f32 = FORMATS["f32"]
    return (f32.bias - FORMATS[stored.name].bias) << f32.mantissa_bits


def full(a: ir.Value, b: ir.Value, product: Addition) -> ir.Value:
    """Return the bits of the ``full`` product of two bit patterns of the carrier.

    Calculated in 32 bits, which all targets have.  The sum of two magnitudes fits them unsigned, so
    that underflow and overflow are tests of the sum before the constant is subtracted.
    """
    fmt, i32 = product.carrier, integer(32)
    if fmt.width < 32:
        a, b = arith.extui(i32, a), arith.extui(i32, b)

    def bits(value: int) -> ir.Value:
        return literal(i32, value)

    def either(condition: arith.CmpIPredicate, limit: int) -> ir.Value:
        first, second = (arith.cmpi(condition, size, bits(limit)) for size in sizes)
        return arith.ori(first, second)

    sign = arith.andi(arith.xori(a, b), bits(fmt.sign_mask))
    sizes = [arith.andi(value, bits(fmt.magnitude_mask)) for value in (a, b)]
    kept = sizes
    if product.truncates:
        kept = [arith.andi(size, bits(product.magnitude_mask)) for size in sizes]
    zero = either(_U.ult, fmt.smallest_normal)
    total = arith.addi(*kept)
    above = arith.cmpi(_U.uge, total, bits(product.constant + fmt.ceiling))
    below = arith.cmpi(_U.ult, total, bits(product.constant + fmt.smallest_normal))
    result = arith.subi(total, bits(product.constant))
    result = arith.select(above, bits(fmt.ceiling), result)
    result = arith.select(arith.ori(below, zero), bits(0), result)
    is_nan = either(_U.ugt, fmt.ceiling)
    if fmt.has_infinity:
        infinite = either(_U.eq, fmt.infinity_pattern)
        result = arith.select(infinite, bits(fmt.infinity_pattern), result)
        is_nan = arith.ori(is_nan, arith.andi(infinite, zero))
    result = arith.select(is_nan, bits(fmt.nan_pattern), arith.ori(result, sign))
    return result if fmt.width == 32 else arith.trunci(integer(fmt.width), result)
