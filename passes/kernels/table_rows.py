"""Tables of sums of activations: the dispatch before a product by look-up.

A row becomes a record of words of 32 bits, which one dispatch writes and the next reads::

    tables, 16 bytes for each quad: entries with 2^(bits-1) added, so that none is negative
    scales, f32: a power of two for each span; NaN where the span holds NaN or infinity
    sums, i32, where they are asked for: of the entries 15 of a span, that is of its activations

Tables for kernels that look up four quads at once have nothing added, and those of the even quads
of eight come first (:func:`..formats.sign_panels.places`).

The definition is :func:`..formats.tables.quantize`.  A table is one vector of 16 f32, an entry in
each lane; multiplying by a sign is exact, so a fused multiply-add rounds as an addition does.
Adding 1.5 * 2^23 rounds an f32 to an integer, to even where it lies between two, and leaves it in
the low bits; what is added to entries is even, and is part of that number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith, scf, vector

from ..formats.activations import MAGNITUDE_MASK
from ..formats.floats import F32, bits_of
from ..formats.sign_panels import PER_WORD
from ..formats.tables import ENTRIES, QUAD, SMALLEST_MAXIMUM, TableFormat
from . import emit
from .executable import Interface
from .tiles import Isa

QUADS = 512  # of a workgroup, at most: a few microseconds
WORDS = ENTRIES // 4  # of a table
MANTISSA_BITS = 23
EXPONENT_BIAS = 127
INFINITY = 0x7F800000
NAN = 0x7FC00000
ROUNDING = 1.5 * 2.0**MANTISSA_BITS
Place = tuple[ir.Value, list[ir.Value]]  # a buffer, and indices
SMALLEST = int(bits_of(SMALLEST_MAXIMUM, F32))  # compared as a pattern


@dataclass(frozen=True)
class TableRows:
    """``f32 [m, k]`` → records ``i32 [m, words]``.

    Attributes
    ----------
    m : int or None
        Rows; None where they are known only at run time.
    k : int
        Length of a row.
    format : TableFormat
        Bits of an entry, and inputs that share a scale.
    isa : Isa
        The vector unit.
    by_four : bool
        Whether the kernel looks up four quads at once: spans are then whole words of 32.
    has_sums : bool
        Whether there are sums of activations.
    """

    m: int | None
    k: int
    format: TableFormat
    isa: Isa
    by_four: bool = False
    has_sums: bool = False

    @property
    def inputs(self) -> int:
        """Of a table."""
        return QUAD

    @property
    def table_words(self) -> int:
        """Words of a table."""
        return WORDS

    @property
    def spans(self) -> int:
        """How many scales a row has."""
        return -(-self.k // self.format.span)

    @property
    def quads(self) -> int:
        """Tables of a span."""
        return self.format.span // self.inputs

    @property
    def bias(self) -> int:
        """What is added to entries."""
        return 0 if self.by_four else 1 << (self.format.bits - 1)

    @property
    def folded(self) -> int:
        """How many entries a byte can hold the sum of."""
        return 256 >> self.format.bits

    @property
    def first_scale(self) -> int:
        """The word of a record where the scales begin."""
        return self.spans * self.quads * self.table_words

    @property
    def first_sum(self) -> int:
        """The word of a record where the sums begin."""
        return self.first_scale + self.spans

    @property
    def words(self) -> int:
        """Words of a record: whole cache lines, so that all begin on one."""
        return -(-(self.first_sum + self.spans * self.has_sums) // 16) * 16

    @property
    def span_chunk(self) -> int:
        """Spans of a workgroup."""
        return min(self.spans, max(1, QUADS // self.quads))

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        m = "d" if self.m is None else str(self.m)
        kind = ("f" if self.by_four else "") + ("o" if self.has_sums else "")
        return f"tables{kind}_{m}x{self.k}i{self.format.bits}s{self.format.span}v{self.isa.lanes}"

    @property
    def translation(self) -> str:
        """How IREE goes on from the kernel's body."""
        return "#iree_codegen.translation_info<pipeline = #iree_cpu.pipeline<Default>>"

    def grid(self, m: ir.Value) -> list[ir.Value]:
        """Return the workgroups along x, y and z."""
        return [emit.index(-(-self.spans // self.span_chunk)), m, emit.index(1)]

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        Body(self, interface).emit()


class Body:
    """The function of one kernel while it is being built."""

    def __init__(self, kernel: TableRows, interface: Interface) -> None:
        self.kernel = kernel
        self.f32, self.i32 = ir.F32Type.get(), emit.integer(32)
        known = kernel.m is not None
        m = emit.index(kernel.m) if kernel.m is not None else interface.constant(0)
        rows = kernel.m if kernel.m is not None else ir.ShapedType.get_dynamic_size()
        opened = [] if known else [m]
        source = emit.buffer_type([rows, kernel.k], self.f32)
        target = emit.buffer_type([rows, kernel.words], self.i32)
        self.source = interface.buffer(0, source, opened, is_input=True)
        self.target = interface.buffer(1, target, opened, is_input=False)
        self.first = arith.muli(interface.workgroup(0), emit.index(kernel.span_chunk))
        self.row = interface.workgroup(1)
        self.floats = emit.scratch([kernel.quads, ENTRIES], self.f32)
        self.signs = [_signs(t) for t in range(QUAD)]

    def emit(self) -> None:
        """Build the loops at the current place."""
        kernel, span = self.kernel, self.kernel.format.span
        whole = kernel.k // span
        last = arith.addi(self.first, emit.index(kernel.span_chunk))

        def full(s: ir.Value) -> None:
            start = arith.muli(s, emit.index(span))

            def element(q: ir.Value, t: int) -> Place:
                first = arith.addi(start, arith.muli(q, emit.index(kernel.inputs)))
                return self.source, [self.row, arith.addi(first, emit.index(t))]

            self.span(s, element)

        emit.each(self.first, arith.minui(last, emit.index(whole)), 1, full)
        if kernel.k % span:
            is_here = arith.cmpi(arith.CmpIPredicate.ugt, last, emit.index(whole))
            with ir.InsertionPoint(scf.IfOp(is_here).then_block):
                self._rest(emit.index(whole), kernel.k % span)
                scf.YieldOp([])

    def _rest(self, s: ir.Value, length: int) -> None:
        """Build the tables of the last span, of which `length` elements exist, from a copy."""
        span, lanes = self.kernel.format.span, self.kernel.isa.lanes
        copy = emit.scratch([-(-span // lanes) * lanes], self.f32)
        start = arith.muli(s, emit.index(span))

        def move(i: ir.Value) -> None:
            mask = emit.mask_of(lanes, arith.subi(emit.index(length), i))
            at = [self.row, arith.addi(start, i)]
            emit.store(emit.load(lanes, self.source, at, mask), copy, [i])

        emit.each(emit.index(0), emit.index(span), lanes, move)

        def element(q: ir.Value, t: int) -> Place:
            first = arith.muli(q, emit.index(self.kernel.inputs))
            return copy, [arith.addi(first, emit.index(t))]

        self.span(s, element)

    def span(self, s: ir.Value, element: Callable[[ir.Value, int], Place]) -> None:
        """Write the tables of a span and its scale; ``element(q, t)`` says where an input is."""
        quads = emit.index(self.kernel.quads)
        zero = emit.splat(ENTRIES, self.i32, 0)
        rounding = emit.splat(ENTRIES, self.f32, ROUNDING + self.kernel.bias)

        def sums(q: ir.Value, most: ir.Value) -> Sequence[ir.Value]:
            inputs = [emit.broadcast_scalar(ENTRIES, *element(q, t)) for t in range(QUAD)]
            table = arith.mulf(inputs[0], self.signs[0])
            for x, signs in zip(inputs[1:], self.signs[1:], strict=True):
                table = vector.fma(x, signs, table)
            emit.store(table, self.floats, [q, emit.index(0)])
            bits = vector.bitcast(zero.type, table)
            magnitude = arith.andi(bits, emit.splat(ENTRIES, self.i32, MAGNITUDE_MASK))
            return [arith.maxui(most, magnitude)]

        (most,) = emit.loop(emit.index(0), quads, emit.index(1), sums, [zero])
        largest = vector.reduction(self.i32, vector.CombiningKind.MAXUI, most)

        def tables(inverse: ir.Value | None) -> None:
            if inverse is None:
                self._tables(s, lambda q: rounding)
            else:
                self._tables(s, lambda q: vector.fma(self._floats(q), inverse, rounding))

        self.rounded(s, largest, tables)

    def rounded(
        self, s: ir.Value, largest: ir.Value, tables: Callable[[ir.Value | None], None]
    ) -> None:
        """Store the scale of a span with entries up to the pattern `largest`, and its tables.

        ``tables(inverse)`` stores these, given the scale's inverse in all lanes, or None where all
        entries are 0.
        """
        scale, reciprocal, has_entries = self._scale(largest)
        at = arith.addi(emit.index(self.kernel.first_scale), s)
        emit.store_scalar(scale, self.target, [self.row, at])
        choice = scf.IfOp(has_entries, has_else=True)
        with ir.InsertionPoint(choice.then_block):
            tables(vector.broadcast(emit.vector_type(ENTRIES, self.f32), reciprocal))
            scf.YieldOp([])
        with ir.InsertionPoint(choice.else_block):
            tables(None)
            scf.YieldOp([])

    def _scale(self, largest: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Return 2^e as a pattern, 2^-e, and whether entries can be other than 0."""
        bits, largest_entry = self.kernel.format.bits, self.kernel.format.largest
        mantissa = arith.andi(largest, self._int((1 << MANTISSA_BITS) - 1))
        # amax = m 2^x with m in [1/2, 1) fits L 2^e, e = x - (bits - 1), if m <= L / 2^(bits-1).
        most = (largest_entry << (MANTISSA_BITS + 2 - bits)) - (1 << MANTISSA_BITS)
        is_more = arith.cmpi(arith.CmpIPredicate.ugt, mantissa, self._int(most))
        field = arith.shrui(largest, self._int(MANTISSA_BITS))
        field = arith.subi(field, self._int(bits - 2))
        field = arith.addi(field, arith.extui(self.i32, is_more))
        shift = self._int(MANTISSA_BITS)
        inverse = arith.shli(arith.subi(self._int(2 * EXPONENT_BIAS), field), shift)
        is_small = arith.cmpi(arith.CmpIPredicate.ult, largest, self._int(SMALLEST))
        is_broken = arith.cmpi(arith.CmpIPredicate.uge, largest, self._int(INFINITY))
        scale = arith.select(is_small, self._int(0), arith.shli(field, shift))
        scale = arith.select(is_broken, self._int(NAN), scale)
        true = arith.constant(emit.integer(1), 1)
        has_entries = arith.xori(arith.ori(is_small, is_broken), true)
        return scale, arith.bitcast(self.f32, inverse), has_entries

    def _floats(self, q: ir.Value) -> ir.Value:
        found: ir.Value = emit.load(ENTRIES, self.floats, [q, emit.index(0)])
        return found

    def _tables(self, s: ir.Value, entries: Callable[[ir.Value], ir.Value]) -> None:
        """Store the tables of span `s`, and their sum; entries are low bytes of f32."""
        kernel = self.kernel
        first = arith.muli(s, emit.index(kernel.quads * WORDS))

        def table(q: ir.Value, *sums: ir.Value) -> list[ir.Value]:
            found = entries(q)
            self.store_entries(
                found, arith.addi(first, arith.muli(self._place(q), emit.index(WORDS)))
            )
            bits = emit.vector_type(ENTRIES, self.i32)
            return [arith.addi(total, vector.bitcast(bits, found)) for total in sums]

        quads = emit.index(kernel.quads)
        if not kernel.has_sums:
            emit.loop(emit.index(0), quads, emit.index(1), table)
            return
        # Whole numbers stand in the low bits of f32 above that of what was added to them.
        added = int(bits_of(ROUNDING, F32)) + kernel.bias
        zero = emit.splat(ENTRIES, self.i32, 0)
        (sums,) = emit.loop(emit.index(0), quads, emit.index(1), table, [zero])
        last = vector.extract(sums, [], [ENTRIES - 1])
        total = arith.subi(last, emit.wrapped(emit.integer(32), added * kernel.quads))
        place = arith.addi(emit.index(kernel.first_sum), s)
        emit.store_scalar(total, self.target, [self.row, place])

    def store_entries(self, found: ir.Value, at: ir.Value) -> None:
        """Store 16 entries, the low bytes of f32, from word `at` of the record on."""
        data = vector.bitcast(emit.vector_type(4 * ENTRIES, emit.integer(8)), found)
        lowest = vector.shuffle(data, data, [4 * key for key in range(ENTRIES)])
        words = vector.bitcast(emit.vector_type(WORDS, self.i32), lowest)
        emit.store(words, self.target, [self.row, at])

    def _place(self, q: ir.Value) -> ir.Value:
        """Return where in its span the table of quad `q` stands."""
        if not self.kernel.by_four:
            return q
        within = arith.remui(q, emit.index(PER_WORD))
        half = arith.muli(arith.remui(q, emit.index(2)), emit.index(PER_WORD // 2))
        place = arith.addi(half, arith.divui(within, emit.index(2)))
        return arith.addi(arith.subi(q, within), place)

    def _int(self, value: int) -> ir.Value:
        return arith.constant(self.i32, value)


def _signs(t: int) -> ir.Value:
    """Return +1 in the lanes of keys with bit `t`, -1 in the others."""
    type_ = emit.vector_type(ENTRIES, ir.F32Type.get())
    values = [1.0 if key >> t & 1 else -1.0 for key in range(ENTRIES)]
    attributes = [ir.FloatAttr.get(ir.F32Type.get(), value) for value in values]
    return arith.constant(type_, ir.DenseElementsAttr.get(attributes, type_))
