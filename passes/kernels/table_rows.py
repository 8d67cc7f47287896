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
    for_trits : bool
        Whether the kernel looks up four ternary weights at once.
    """

    m: int | None
    k: int
    format: TableFormat
    isa: Isa
    by_four: bool = False
    has_sums: bool = False
    for_trits: bool = False

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
    def copied(self) -> int:
        """Elements of the last span, filled up to whole vectors; 0 if it is as long as others."""
        span, lanes = self.format.span, self.isa.lanes
        return -(-span // lanes) * lanes if self.k % span else 0

    @property
    def making_bytes(self) -> int:
        """Bytes on the stack that making records takes."""
        return 4 * (self.format.span + self.copied)

    @property
    def span_chunk(self) -> int:
        """Spans of a workgroup."""
        return min(self.spans, max(1, QUADS // self.quads))

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        m = "d" if self.m is None else str(self.m)
        kind = ("f" if self.by_four else "") + ("o" if self.has_sums else "")
        kind += "t" if self.for_trits else ""
        return f"tables{kind}_{m}x{self.k}i{self.format.bits}s{self.format.span}v{self.isa.lanes}"

    @property
    def translation(self) -> str:
        """How IREE goes on from the kernel's body."""
        return "#iree_codegen.translation_info<pipeline = #iree_cpu.pipeline<Default>>"

    def grid(self, m: ir.Value) -> list[ir.Value]:
        """Return the workgroups along x, y and z."""
        return [emit.index(-(-self.spans // self.span_chunk)), m, emit.index(1)]

    def maker(self, source: ir.Value, target: ir.Value) -> Maker:
        """Return what builds records in `target` of rows of `source`."""
        return Maker(self, source, target)

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        m = emit.index(self.m) if self.m is not None else interface.constant(0)
        rows = self.m if self.m is not None else ir.ShapedType.get_dynamic_size()
        opened = [] if self.m is not None else [m]
        source = emit.buffer_type([rows, self.k], ir.F32Type.get())
        target = emit.buffer_type([rows, self.words], emit.integer(32))
        maker = self.maker(
            interface.buffer(0, source, opened, is_input=True),
            interface.buffer(1, target, opened, is_input=False),
        )
        first = arith.muli(interface.workgroup(0), emit.index(self.span_chunk))
        row = interface.workgroup(1)
        maker.spans(row, row, first, arith.addi(first, emit.index(self.span_chunk)))


class Maker:
    """Builds records in `target`, ``i32 [rows, words]``, of rows of `source`, ``f32 [rows, k]``."""

    def __init__(self, kernel: TableRows, source: ir.Value, target: ir.Value) -> None:
        self.kernel, self.source, self.target = kernel, source, target
        self.f32, self.i32 = ir.F32Type.get(), emit.integer(32)
        self.patterns = emit.vector_type(ENTRIES, self.i32)
        self.signs = [_signs(t) for t in range(QUAD)]
        self.scaled = emit.scratch([kernel.format.span], self.f32)
        if kernel.copied:
            self.copy = emit.scratch([kernel.copied], self.f32)

    def row(self, number: ir.Value, record: ir.Value) -> None:
        """Build the record of row `number`."""
        self.spans(number, record, emit.index(0), emit.index(self.kernel.spans))

    def spans(self, number: ir.Value, record: ir.Value, first: ir.Value, last: ir.Value) -> None:
        """Build a part of a record: the spans from `first` to `last`, as far as there are such."""
        kernel, span = self.kernel, self.kernel.format.span
        self.number, self.record = number, record
        whole = kernel.k // span

        def full(s: ir.Value) -> None:
            start = arith.muli(s, emit.index(span))

            def element(q: ir.Value, t: int) -> Place:
                first = arith.addi(start, arith.muli(q, emit.index(kernel.inputs)))
                return self.source, [self.number, arith.addi(first, emit.index(t))]

            self.span(s, element)

        emit.each(first, arith.minui(last, emit.index(whole)), 1, full)
        if kernel.k % span:
            is_here = arith.cmpi(arith.CmpIPredicate.ugt, last, emit.index(whole))
            with ir.InsertionPoint(scf.IfOp(is_here).then_block):
                self._rest(emit.index(whole), kernel.k % span)
                scf.YieldOp([])

    def _rest(self, s: ir.Value, length: int) -> None:
        """Build the tables of the last span, of which `length` elements exist, from a copy."""
        span, lanes, copy = self.kernel.format.span, self.kernel.isa.lanes, self.copy
        start = arith.muli(s, emit.index(span))

        def move(i: ir.Value) -> None:
            mask = emit.mask_of(lanes, arith.subi(emit.index(length), i))
            at = [self.number, arith.addi(start, i)]
            emit.store(emit.load(lanes, self.source, at, mask), copy, [i])

        emit.each(emit.index(0), emit.index(span), lanes, move)

        def element(q: ir.Value, t: int) -> Place:
            first = arith.muli(q, emit.index(self.kernel.inputs))
            return copy, [arith.addi(first, emit.index(t))]

        self.span(s, element)

    def span(self, s: ir.Value, element: Callable[[ir.Value, int], Place]) -> None:
        """Write the tables of a span and its scale; ``element(q, t)`` says where an input is."""
        largest = self._largest(element)
        self.rounded(s, largest, lambda inverse: self._tables(s, element, inverse))

    def _largest(self, element: Callable[[ir.Value, int], Place]) -> ir.Value:
        """Return the pattern of the largest entry of a span before it is rounded.

        In a table it is the one that adds the magnitudes of all four inputs: rounding is monotonic.
        Lanes of four neighbours turn, so that the first has their sum in the order of the table.
        """
        mask = emit.splat(ENTRIES, self.i32, MAGNITUDE_MASK)
        patterns = self.patterns

        def larger(q: ir.Value, most: ir.Value) -> Sequence[ir.Value]:
            bits = vector.bitcast(patterns, emit.load(ENTRIES, *element(q, 0)))
            x = vector.bitcast(emit.vector_type(ENTRIES, self.f32), arith.andi(bits, mask))
            total = x
            for t in range(1, QUAD):
                turned = [lane - lane % QUAD + (lane + t) % QUAD for lane in range(ENTRIES)]
                total = arith.addf(total, vector.shuffle(x, x, turned))
            return [arith.maxui(most, vector.bitcast(patterns, total))]

        zero, quads = emit.splat(ENTRIES, self.i32, 0), emit.index(self.kernel.quads)
        (most,) = emit.loop(emit.index(0), quads, emit.index(ENTRIES // QUAD), larger, [zero])
        first = vector.shuffle(most, most, list(range(0, ENTRIES, QUAD)))
        return vector.reduction(self.i32, vector.CombiningKind.MAXUI, first)

    def rounded(
        self, s: ir.Value, largest: ir.Value, tables: Callable[[ir.Value | None], None]
    ) -> None:
        """Store the scale of a span with entries up to the pattern `largest`, and its tables.

        ``tables(inverse)`` stores these, given the scale's inverse in all lanes, or None where all
        entries are 0.
        """
        scale, reciprocal, has_entries = self._scale(largest)
        at = arith.addi(emit.index(self.kernel.first_scale), s)
        emit.store_scalar(scale, self.target, [self.record, at])
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

    def _tables(
        self, s: ir.Value, element: Callable[[ir.Value, int], Place], inverse: ir.Value | None
    ) -> None:
        """Store the tables of span `s`, and the sum of their last entries."""
        kernel, together = self.kernel, self._together
        rounding = emit.splat(ENTRIES, self.f32, ROUNDING + kernel.bias)
        count = sum(map(len, together))
        if inverse is not None:
            self._scale_inputs(element, inverse)

        def tables(first: ir.Value, *sums: ir.Value) -> list[ir.Value]:
            place = arith.addi(arith.muli(s, emit.index(kernel.quads)), first)
            for numbers in together:
                found = [rounding] * len(numbers)
                if inverse is not None:
                    quads = [arith.addi(first, emit.index(number)) for number in numbers]
                    found = [arith.addf(self._entries(quad), rounding) for quad in quads]
                self.store_entries(found, arith.muli(place, emit.index(WORDS)))
                place = arith.addi(place, emit.index(len(numbers)))
                for bits in [vector.bitcast(self.patterns, entries) for entries in found]:
                    sums = tuple(arith.addi(total, bits) for total in sums)
            return list(sums)

        start, stop, step = emit.index(0), emit.index(kernel.quads), emit.index(count)
        if not kernel.has_sums:
            emit.loop(start, stop, step, tables)
            return
        # Whole numbers stand in the low bits of f32 above that of what was added to them.
        added = int(bits_of(ROUNDING, F32)) + kernel.bias
        (sums,) = emit.loop(start, stop, step, tables, [emit.splat(ENTRIES, self.i32, 0)])
        last = vector.extract(sums, [], [ENTRIES - 1])
        total = arith.subi(last, emit.wrapped(emit.integer(32), added * kernel.quads))
        place = arith.addi(emit.index(kernel.first_sum), s)
        emit.store_scalar(total, self.target, [self.record, place])

    @property
    def _together(self) -> list[list[int]]:
        """Which tables of some that follow each other are stored at once, in their order."""
        if self.kernel.for_trits:
            return [list(range(PER_WORD // 2))]
        if not self.kernel.by_four:
            return [[number] for number in range(PER_WORD // 2)]
        return [list(range(half, PER_WORD, 2)) for half in range(2)]

    def _scale_inputs(self, element: Callable[[ir.Value, int], Place], inverse: ir.Value) -> None:
        """Copy the inputs of a span, times a power of two.

        What is lost of small ones is far below half a step of the largest entry.
        """

        def move(q: ir.Value) -> None:
            x = emit.load(ENTRIES, *element(q, 0))
            at = arith.muli(q, emit.index(QUAD))
            emit.store(arith.mulf(x, inverse), self.scaled, [at])

        emit.each(emit.index(0), emit.index(self.kernel.quads), ENTRIES // QUAD, move)

    def _entries(self, quad: ir.Value) -> ir.Value:
        """Return the table of a quad of scaled inputs; a sign is turned, or multiplied by."""
        first = arith.muli(quad, emit.index(QUAD))
        places = [arith.addi(first, emit.index(t)) for t in range(QUAD)]
        x = [emit.broadcast_scalar(ENTRIES, self.scaled, [place]) for place in places]
        turned = [
            vector.bitcast(x[t].type, arith.xori(vector.bitcast(self.patterns, x[t]), _minus(t)))
            for t in range(2)
        ]
        table = arith.addf(*turned)
        for t in range(2, QUAD):
            table = vector.fma(x[t], self.signs[t], table)
        return table

    def store_entries(self, tables: Sequence[ir.Value], at: ir.Value) -> None:
        """Store the entries of tables, low bytes of f32, from word `at` of the record on."""
        bytes_ = emit.vector_type(4 * ENTRIES, emit.integer(8))
        parts = [vector.bitcast(bytes_, table) for table in tables]
        lowest = [4 * key for key in range(ENTRIES)]
        if len(parts) == 1:
            joined = vector.shuffle(parts[0], parts[0], lowest)
        else:
            both = lowest + [4 * ENTRIES + byte for byte in lowest]
            pairs = zip(parts[::2], parts[1::2], strict=True)
            joined = vector.shuffle(
                *(vector.shuffle(a, b, both) for a, b in pairs), list(range(4 * ENTRIES))
            )
        words = emit.vector_type(WORDS * len(parts), self.i32)
        emit.store(vector.bitcast(words, joined), self.target, [self.record, at])

    def _int(self, value: int) -> ir.Value:
        return arith.constant(self.i32, value)


def _minus(t: int) -> ir.Value:
    """Return the bit of a sign in the lanes of keys without bit `t`, 0 in the others."""
    i32 = emit.integer(32)
    attributes = [
        ir.IntegerAttr.get(i32, 0 if key >> t & 1 else -(1 << 31)) for key in range(ENTRIES)
    ]
    type_ = emit.vector_type(ENTRIES, i32)
    return arith.constant(type_, ir.DenseElementsAttr.get(attributes, type_))


def _signs(t: int) -> ir.Value:
    """Return +1 in the lanes of keys with bit `t`, -1 in the others."""
    type_ = emit.vector_type(ENTRIES, ir.F32Type.get())
    values = [1.0 if key >> t & 1 else -1.0 for key in range(ENTRIES)]
    attributes = [ir.FloatAttr.get(ir.F32Type.get(), value) for value in values]
    return arith.constant(type_, ir.DenseElementsAttr.get(attributes, type_))
