"""Products with binary-coded weights by look-up in tables: built as linalg, and recognised again.

The numbers are those of ``formats/tables.py``.  With result dimensions r0 …, spans S of K and quads
Q of a span, a product is these operations, of which the last is the matmul for reports and
kernels::

    T = tables                        [x dims, quads of K, 16]   f32
    p = max of magnitude patterns     [x dims, S]                i32
    e = fields of exponents           [x dims, S]                i32
    t = entries                       [x dims, S, Q, 16]         i8
    P = sums of looked up entries     [r0 …, S, planes]          i32
    F = P shifted by e                [r0 …, S, planes]          f32
    G = sum over the spans of a group [r0 …, G, planes]          f32, where there are several
    Y = sum over G, planes of these shifted by the terms of a scale   f32

T to t depend on the activation alone: products that share it share them (``cse``).

A field is the exponent plus 96 (``shift_add.py``).  A span with NaN or infinity has the field 255;
one that is below the smallest maximum has that of 1, with which all its entries are 0.
"""

from dataclasses import dataclass
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith, linalg, tensor

from . import additive, annotations, build, shift_add, signed_sums
from .base import Refusal
from .binary_weights import Cut, Plan
from .contraction import defining, dims_of, indexing_maps, unshaped
from .formats import activations, powers, tables
from .formats.binary_codes import WORD
from .formats.floats import F32, bits_of
from .formats.tables import ENTRIES, QUAD
from .matrices import Matrices
from .shift_add import i32

KIND = "tables"  # in the facts of ``lowc.product``
_BROKEN = 0xFF  # the field of a span with NaN or infinity
_U = arith.CmpIPredicate
_MANTISSA = F32.mantissa_bits
_QUADS = WORD // QUAD  # keys in a word
# 1.5 * 2^23: the sum with a number below 2^22 has its nearest integer, ties to even, as last bits.
_ROUNDING = float(3 << 22)


@dataclass(frozen=True)
class TableProduct:
    """A product of this kind as a kernel needs to know it.

    Attributes
    ----------
    op : operation
        The last of its operations, whose result is f32 and the product's.
    activation : Value
        The f32 activation, K not filled up; loop K is its ``summed`` one.
    signs : Value
        The sign words ``[rows…, planes, words]`` as they are loaded.
    matrices : Matrices
        Which loops are batch, rows, columns and K, numbered as in `op`: result dimensions first,
        K last.
    entry_bits, span : int
        The format of the tables.
    planes, group, outputs, terms : int
        That of the weight; `outputs` is N where all outputs share scales.
    symmetric : bool or None
        Of integers: whether they have no zero points.  None for binary codes, whose planes have
        scales of their own.
    """

    op: Any
    activation: ir.Value
    signs: ir.Value
    matrices: Matrices
    entry_bits: int
    span: int
    planes: int
    group: int
    outputs: int
    terms: int
    symmetric: bool | None = None


def match(op: Any) -> TableProduct | Refusal:
    """Describe what :func:`rewrite` built, by its last operation.  Changes nothing."""
    facts = annotations.product_facts(op)
    if facts.pop("kind", None) != KIND:
        return Refusal("it is no product by look-up")
    scaled = scaled_sums(op, facts)
    return describe(op, facts, scaled, defining(unshaped(scaled.operands[0])))


def scaled_sums(op: Any, facts: dict[str, Any]) -> Any:
    """Return the operation that shifts the sums of spans, by the last one of a product."""
    scaled = defining(unshaped(op.operands[0]))
    if facts["group"] > facts["span"]:
        scaled = defining(unshaped(scaled.operands[0]))
    return scaled


def describe(
    op: Any, facts: dict[str, Any], scaled: Any, looked_up: Any, inside: int = 2
) -> TableProduct:
    """Describe a product by its last operation, that which shifts, and that which looks up.

    `facts` are what is known of it besides, and K.  The weight has `inside` dimensions behind rows.
    """
    k = len(build.shape_of(op.results[0]))
    maxima = defining(defining(unshaped(scaled.operands[1])).operands[0])
    floats = defining(unshaped(maxima.operands[0]))
    # One reshape cuts it into quads; what is before that belongs to the model, reshapes and pads.
    activation = defining(floats.operands[0]).operands[0]
    # Loops of units of a group, if there are any, are behind that of K.
    rows = [loop for loop in dims_of(indexing_maps(scaled)[1]) if loop <= k]
    size = facts.pop("k")
    if build.shape_of(activation)[rows.index(k)] != size:
        activation = defining(activation).operands[0]
    signs = unshaped(looked_up.operands[0])
    columns = dims_of(indexing_maps(looked_up)[0])[: len(build.shape_of(signs)) - inside]
    sizes = [*build.shape_of(op.results[0]), size]
    matrices = Matrices.of_weight(rows, columns, sizes)
    return TableProduct(op, activation, signs, matrices, **facts)


def rewrite(module: ir.Module, plan: Plan, *, entry_width: int = 8) -> Any:
    """Build the product before the old operation, and replace it; return the last operation.

    Entries are stored in `entry_width` bits: 8, or 32 for targets that cannot look up bytes.
    """
    op = plan.found.contraction.op
    with ir.InsertionPoint(op), op.location:
        cut = Cut(plan)
        entries, fields = tables_of(cut, entry_width)
        sums = looked_up(module, cut, entries)
        made = signed_sums.shifted(module, cut, _scaled(cut, sums, fields))
    return signed_sums.replace(module, plan, made, KIND)


# -- what depends on the activation ----------------------------------------------------------------


def tables_of(cut: Cut, entry_width: int) -> tuple[ir.Value, ir.Value]:
    """Return t ``[x dims, S, Q, 16]`` in `entry_width` bits, and e ``[x dims, S]``."""
    floats = _float_tables(cut)
    fields = fields_of(cut, floats)
    return entries_of(cut, floats, fields, entry_width), fields


def _float_tables(cut: Cut) -> ir.Value:
    """Return T, with a dimension for spans: ``[x dims, S, Q, 16]``."""
    axis, rank = cut.axis, len(cut.x_dims) + 1
    value = build.expand_last(cut.activation(), cut.plan.words * _QUADS, QUAD, axis)
    key, inner = axis + 1, rank
    shape = build.shape_of(value)
    sizes = build.dynamic_sizes(value)
    shape[key] = ENTRIES
    f32 = ir.F32Type.get()
    maps = [
        build.dims_map(rank + 1, [inner if d == key else d for d in range(rank)]),
        build.dims_map(rank + 1, range(rank)),
    ]
    kinds = ["parallel"] * rank + ["reduction"]

    def body(x: ir.Value, total: ir.Value) -> ir.Value:
        word = arith.index_castui(ir.IntegerType.get_signless(32), build.loop_index(key))
        return arith.addf(total, shift_add.flipped(x, word, build.loop_index(inner)))

    made = build.generic([value], build.zeros(shape, f32, sizes), maps, kinds, body)
    return build.expand_last(prepared(made), cut.plan.units, cut.plan.span // QUAD, axis)


def fields_of(cut: Cut, floats: ir.Value) -> ir.Value:
    """Return e ``[x dims, S]``, from the largest magnitude of a span."""
    rank, inside = len(cut.x_dims) + 2, (cut.axis + 1, cut.axis + 2)
    kept = [d for d in range(rank) if d not in inside]
    shape = build.shape_of(floats)
    type_ = ir.IntegerType.get_signless(32)
    empty = build.empty([shape[d] for d in kept], type_, build.dynamic_sizes(floats))
    zero = linalg.fill(i32(0), outs=[empty])
    maps = [build.identity_map(rank), build.dims_map(rank, kept)]
    kinds = ["reduction" if d in inside else "parallel" for d in range(rank)]

    def larger(value: ir.Value, most: ir.Value) -> ir.Value:
        bits = arith.bitcast(type_, value)
        return arith.maxui(arith.andi(bits, i32(activations.MAGNITUDE_MASK)), most)

    maxima = prepared(build.generic([floats], zero, maps, kinds, larger))
    # L = 1.f * 2^x: an exponent goes up by one where the mantissa is larger than f.
    largest = int(bits_of(tables.TableFormat(cut.plan.entry_bits).largest, F32))
    mask = (1 << _MANTISSA) - 1
    round_up = mask - (largest & mask)
    bias = powers.EXPONENT_BIAS - (largest >> _MANTISSA)
    small = int(bits_of(tables.SMALLEST_MAXIMUM, F32))

    def field(pattern: ir.Value, _out: ir.Value) -> ir.Value:
        exponent = arith.shrui(arith.addi(pattern, i32(round_up)), i32(_MANTISSA))
        found = arith.addi(exponent, arith.constant(type_, bias))
        is_small = arith.cmpi(_U.ult, pattern, i32(small))
        found = arith.select(is_small, i32(powers.EXPONENT_BIAS), found)
        is_broken = arith.cmpi(_U.uge, pattern, i32(_BROKEN << _MANTISSA))
        return arith.select(is_broken, i32(_BROKEN), found)

    return prepared(build.elementwise([maxima], type_, field))


def entries_of(cut: Cut, floats: ir.Value, fields: ir.Value, width: int) -> ir.Value:
    """Return t ``[x dims, S, Q, 16]``."""
    rank, inside = len(cut.x_dims) + 2, (cut.axis + 1, cut.axis + 2)
    kept = [d for d in range(rank) if d not in inside]
    maps = [build.identity_map(rank), build.dims_map(rank, kept)]
    type_ = ir.IntegerType.get_signless(width)

    def entry(value: ir.Value, field: ir.Value, _out: ir.Value) -> ir.Value:
        bits = additive.bits_of(value)
        magnitude = arith.andi(bits, i32(F32.magnitude_mask))
        down = arith.subi(field, i32(powers.EXPONENT_BIAS))
        moved = arith.subi(magnitude, arith.shli(down, i32(_MANTISSA)))
        sign = arith.andi(bits, i32(F32.sign_mask))
        scaled = arith.ori(arith.maxsi(moved, i32(0)), sign)
        rounding = arith.constant(value.type, _ROUNDING)
        rounded = arith.addf(arith.bitcast(value.type, scaled), rounding)
        code = arith.subi(additive.bits_of(rounded), i32(int(bits_of(_ROUNDING, F32))))
        return code if width == WORD else arith.trunci(type_, code)

    return prepared(build.elementwise([floats, fields], type_, entry, maps))


def prepared(made: Any) -> ir.Value:
    """Mark an operation that prepares the activation; return its result."""
    annotations.set_text(made.operation, annotations.PREPARED, KIND)
    result: ir.Value = made.result
    return result


# -- what depends on the weight too ----------------------------------------------------------------


def looked_up(module: ir.Module, cut: Cut, entries: ir.Value) -> ir.Value:
    """Return P ``[r0 …, S, planes]``.

    A word of signs is read once, and the keys in it are taken out one after the other.
    """
    plan, init = cut.plan, cut.plan.found.contraction.init
    words, word_loops = cut.signs(module)
    loops = cut.inner
    shape = [*build.shape_of(init), *cut.unit_sizes, plan.form.planes]
    type_ = ir.IntegerType.get_signless(32)
    zero = linalg.fill(i32(0), outs=[build.empty(shape, type_, build.dynamic_sizes(init))])
    maps = [build.dims_map(loops, word_loops), build.dims_map(loops, range(cut.plane + 1))]
    kinds = ["parallel" if loop <= cut.plane else "reduction" for loop in range(loops)]

    def body(word: ir.Value, total: ir.Value) -> ir.Value:
        span = build.loop_index(cut.unit_loops[0])
        if cut.has_parts:
            outer = arith.muli(span, build.index(WORD // plan.span))
            span = arith.addi(outer, build.loop_index(cut.unit_loops[1]))
        for quad in range(min(_QUADS, plan.span // QUAD)):
            place = build.index(quad)
            if cut.word_loops:
                before = arith.muli(build.loop_index(cut.word_loops[0]), build.index(_QUADS))
                place = arith.addi(before, place)
            bit = arith.index_castui(type_, cut.bit(build.index(quad * QUAD)))
            key = arith.andi(arith.shrui(word, bit), i32(ENTRIES - 1))
            key = arith.index_castui(ir.IndexType.get(), key)
            at = [
                index
                for d in cut.x_dims
                for index in ([span, place, key] if d == cut.k else [build.loop_index(d)])
            ]
            total = arith.addi(total, extended(tensor.extract(entries, at)))
        return total

    return cut.joined(cut.is_part(build.generic([words], zero, maps, kinds, body)).result)


def _scaled(cut: Cut, sums: ir.Value, fields: ir.Value) -> ir.Value:
    """Return F ``[r0 …, S, planes]``."""
    rank = cut.k + 2
    maps = [build.identity_map(rank), build.dims_map(rank, cut.x_dims)]

    def body(total: ir.Value, field: ir.Value, _out: ir.Value) -> ir.Value:
        return shifted_sum(total, field)

    return cut.is_part(build.elementwise([sums, fields], ir.F32Type.get(), body, maps)).result


def shifted_sum(total: ir.Value, field: ir.Value) -> ir.Value:
    """Return an integer sum of entries as f32, shifted by the exponent of its span."""
    f32 = ir.F32Type.get()
    moved = shift_add.scale(arith.sitofp(f32, total), field)
    is_broken = arith.cmpi(_U.eq, field, i32(_BROKEN))
    return arith.select(is_broken, arith.constant(f32, float("nan")), moved)


def extended(value: ir.Value) -> ir.Value:
    """Return an integer in 32 bits, its sign kept."""
    type_ = ir.IntegerType.get_signless(32)
    return value if value.type == type_ else arith.extsi(type_, value)
