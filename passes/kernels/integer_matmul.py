"""A matmul of few-bit integer weights and 8-bit activations for CPUs.

The loops, from the outside: workgroups over batches, chunks of rows and groups of panels; blocks of
rows; panels of columns; groups of K; and chunks of K, with a tile of rows x columns of
integer sums in registers::

    for m in rows step tile.rows:
      for p in panels:                                     // or some of them side by side
        for g in groups:                                   // one scale each
          for chunk in group:
            for quad in chunk:                             // unrolled: codes come out of words
              sum[r, v] += code[v] . broadcast(activation[m + r, quad])
          sum[r, v] -= zero[v] * activation_sum[m + r, g]
          total[r, v] += f32(sum[r, v]) * scale[p, g, v]   // in a scratch buffer

The integer sums are exact: each is over one group, and a group is at most as long as
:func:`..formats.activations.longest_group` says; ``lowc-quantize-activations`` refuses longer ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith, vector

from . import emit
from .epilogue import Epilogue, finish_rows
from .executable import Interface
from .integer_dot import Accumulator, IntegerDot
from .integer_rows import IntegerRows
from .tiles import AHEAD_BYTES, STREAMED_ROWS, Tile, panels_together


@dataclass(frozen=True)
class IntegerMatmul:
    """``C[batch, m, n] = sum over g of D[batch, m, n, g] * scales``, ``D`` exact in i32.

    Bindings: records of the rows (:class:`.integer_rows.IntegerRows`), panels of codes and scales
    of the weight (:func:`..formats.panels.pack_panels`), its zeros unless `symmetric`, and C.

    Attributes
    ----------
    batch : int
        How many weights there are; rows of each follow one another.
    m, n : int or None, int
        Rows of each, None where they are known only at run time, and columns.
    rows : IntegerRows
        The records: K, groups, where scales and sums stand.
    symmetric : bool
        Whether the zero point is the middle of the codes everywhere.
    tile : Tile
        Register tile and cut of the work; its `k_block` is not used.
    epilogue : Epilogue or None
        What is done to the scaled sums before they are stored; its inputs are bound before C.
    """

    batch: int
    m: int | None
    n: int
    rows: IntegerRows
    symmetric: bool
    tile: Tile
    epilogue: Epilogue | None = None

    @property
    def dot(self) -> IntegerDot:
        """How codes and activations are multiplied."""
        return self.rows.dot

    @property
    def panels(self) -> int:
        """Panels of columns."""
        return -(-self.n // self.tile.columns)

    def together(self, rows: int) -> int:
        """Return how many panels are read side by side for a block of `rows`."""
        dot, tile = self.dot, self.tile
        most = panels_together(dot.isa, dot.strategy, rows, tile.vectors, self.rows.groups)
        return min(most, tile.panels)

    def is_whole(self, panels: int) -> bool:
        """Whether every workgroup has a multiple of `panels`."""
        return self.tile.panels % panels == 0 and self.panels % panels == 0

    @property
    def sums(self) -> list[int]:
        """Rows and columns of the largest tiles."""
        heights = self.tile.heights(self.m)
        return [max(heights), max(map(self.together, heights)) * self.tile.columns]

    @property
    def inputs(self) -> int:
        """How many bindings are only read."""
        return self.operands + (0 if self.epilogue is None else len(self.epilogue.inputs))

    @property
    def operands(self) -> int:
        """How many of them are records and the weight."""
        return 3 if self.symmetric else 4

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        m = "d" if self.m is None else str(self.m)
        kind = f"i{self.dot.bits}{'' if self.symmetric else 'z'}"
        tile = f"t{self.tile.rows}x{self.tile.vectors}g{self.tile.panels}c{self.tile.row_chunk}"
        after = "" if self.epilogue is None else f"_{self.epilogue.name}"
        return f"integer_{kind}_{self.batch}x{m}x{self.n}_{self.rows.name}_{tile}{after}"

    @property
    def translation(self) -> str:
        """How IREE goes on from the kernel's body."""
        return "#iree_codegen.translation_info<pipeline = #iree_cpu.pipeline<Default>>"

    def grid(self, m: ir.Value) -> list[ir.Value]:
        """Return the workgroups along x, y and z; `m` is the number of rows of one batch."""
        chunks = arith.ceildivui(m, emit.index(self.tile.row_chunk))
        return [
            emit.index(-(-self.panels // self.tile.panels)),
            arith.muli(chunks, emit.index(self.batch)),
            emit.index(1),
        ]

    def describe(self) -> str:
        """Say which kernel it is."""
        how = {
            "vnni": "vpdpbusd",
            "bytes": "vpmaddubsw",
            "shorts": "vpmaddwd",
            "lanes": f"{self.dot.isa.lanes} lanes",
        }[self.dot.strategy]
        size = f"{self.tile.rows} x {self.tile.columns}"
        text = f"integer kernel ({how}), {size} sums in registers"
        return text if self.epilogue is None else f"{text}, {self.epilogue.describe()}"

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        _Body(self, interface).emit()


class _Body:
    """The function of one kernel while it is being built."""

    def __init__(self, kernel: IntegerMatmul, interface: Interface) -> None:
        self.kernel, self.tile, self.rows = kernel, kernel.tile, kernel.rows
        self.lanes = kernel.tile.lanes
        self.f32, self.i32 = ir.F32Type.get(), emit.integer(32)
        self.m = emit.index(kernel.m) if kernel.m is not None else interface.constant(0)
        self._bind(interface)
        self.group, number = interface.workgroup(0), interface.workgroup(1)
        chunks = arith.ceildivui(self.m, emit.index(self.tile.row_chunk))
        self.item, self.chunk = arith.divui(number, chunks), arith.remui(number, chunks)
        self.totals = emit.scratch(kernel.sums, self.f32)

    def _bind(self, interface: Interface) -> None:
        kernel, columns = self.kernel, self.tile.columns
        opened = [self.m] if kernel.m is None else []
        m = ir.ShapedType.get_dynamic_size() if kernel.m is None else kernel.m
        per_group = [kernel.batch, kernel.panels, self.rows.groups, columns]
        words = [kernel.batch, kernel.panels, self.rows.chunks * kernel.dot.vectors, columns]
        inputs = [
            (words, self.i32),
            (per_group, self.f32),
            *([] if kernel.symmetric else [(per_group, emit.integer(8))]),
        ]
        # Records of all batches follow one another.
        count = m if kernel.m is None else kernel.batch * kernel.m
        record = emit.buffer_type([count, self.rows.words], self.i32)
        all_rows = [arith.muli(self.m, emit.index(kernel.batch))] if opened else []
        self.a = interface.buffer(0, record, all_rows, is_input=True)
        found = [
            interface.buffer(i + 1, emit.buffer_type(shape, element), [], is_input=True)
            for i, (shape, element) in enumerate(inputs)
        ]
        self.words, self.scales = found[:2]
        self.zeros = found[2] if len(found) > 2 else None
        known = {"batch": kernel.batch, "m": m, "n": kernel.n, "one": 1}
        self.extra = [
            interface.buffer(
                kernel.operands + i,
                emit.buffer_type(
                    [known[size] for size in given.sizes], ir.Type.parse(given.element)
                ),
                opened if given.kind == "full" else [],
                is_input=True,
            )
            for i, given in enumerate(kernel.epilogue.inputs if kernel.epilogue else ())
        ]
        result = emit.buffer_type([kernel.batch, m, kernel.n], self.f32)
        self.c = interface.buffer(kernel.inputs, result, opened, is_input=False)

    # -- loops -------------------------------------------------------------------------------------

    def emit(self) -> None:
        first = arith.muli(self.group, emit.index(self.tile.panels))
        count = emit.index(self.kernel.panels)
        last = arith.minui(arith.addi(first, emit.index(self.tile.panels)), count)
        start = arith.muli(self.chunk, emit.index(self.tile.row_chunk))
        stop = arith.minui(arith.addi(start, emit.index(self.tile.row_chunk)), self.m)
        for rows in self.tile.heights(self.kernel.m):
            left = arith.subi(stop, start)
            full = arith.muli(arith.divui(left, emit.index(rows)), emit.index(rows))
            end = arith.addi(start, full)
            emit.each(start, end, rows, self._row_block(rows, first, last))
            start = end

    def _row_block(self, rows: int, first: ir.Value, last: ir.Value) -> Callable[[ir.Value], None]:
        together = self.kernel.together(rows)

        def block(m: ir.Value) -> None:
            start = first
            if together > 1:
                whole = emit.index(together)
                full = arith.muli(arith.divui(arith.subi(last, first), whole), whole)
                start = arith.addi(first, full)
                emit.each(first, start, together, lambda p: self._tile(m, rows, p, together))
            if together == 1 or not self.kernel.is_whole(together):
                emit.each(start, last, 1, lambda p: self._tile(m, rows, p, 1))

        return block

    def _tile(self, m: ir.Value, rows: int, p: ir.Value, together: int) -> None:
        """Build the results of `rows` rows and of as many panels as go `together`."""
        self.p, self.vectors = p, together * self.tile.vectors
        # In rows of words, and as long in groups.
        self.ahead = max(1, AHEAD_BYTES // together // (4 * self.tile.columns))
        words = self.kernel.dot.vectors * (self.rows.group // self.kernel.dot.chunk)
        self.groups_ahead = self.ahead // words + 1
        self.at = [arith.addi(m, emit.index(r)) for r in range(rows)]
        base = arith.muli(self.item, self.m)
        self.records = [arith.addi(base, row) for row in self.at]
        self.places = [(r, v) for r in range(rows) for v in range(self.vectors)]
        zero = emit.splat(self.lanes, self.f32, 0.0)
        for r, v in self.places:
            emit.store(zero, self.totals, self._total(r, v))
        emit.each(emit.index(0), emit.index(self.rows.groups), 1, self._group)
        column = arith.muli(p, emit.index(self.tile.columns))
        epilogue = self.kernel.epilogue
        for r, v in self.places:
            total = emit.load(self.lanes, self.totals, self._total(r, v))
            if not self.rows.per_group:
                total = arith.mulf(total, self._activation_scale(r, emit.index(0)))
            at = arith.addi(column, emit.index(v * self.lanes))
            place, mask = [self.item, self.at[r], at], self._mask(at)
            if epilogue is not None and not epilogue.is_long:
                total = epilogue.apply(total, self.extra, place, mask)
            emit.store(total, self.c, place, mask)
        if epilogue is not None and epilogue.is_long:
            vectors = range(self.vectors)
            masks = [self._mask(arith.addi(column, emit.index(v * self.lanes))) for v in vectors]
            block = (m, arith.addi(m, emit.index(rows)))
            finish_rows(epilogue, self.c, self.extra, self.item, block, column, masks, self.lanes)

    def _group(self, g: ir.Value) -> None:
        chunks = self.rows.group // self.kernel.dot.chunk
        first = arith.muli(g, emit.index(chunks))

        def step(i: ir.Value, *carried: ir.Value) -> Sequence[ir.Value]:
            sums = Accumulator(self.kernel.dot, carried)
            self._chunk(arith.addi(first, i), sums)
            return sums.finish()

        zero = emit.splat(self.lanes, self.i32, 0)
        starting = [zero] * len(self.places)
        if chunks == 1:
            sums = list(step(emit.index(0), *starting))
        else:
            sums = emit.loop(emit.index(0), emit.index(chunks), emit.index(1), step, starting)
        # Added last: until then they would take registers.
        taken = self._of_zeros(g)
        self._scale(g, [arith.addi(one, other) for one, other in zip(sums, taken, strict=True)])

    def _chunk(self, chunk: ir.Value, sums: Accumulator) -> None:
        """Add the products of a chunk, a quad at a time."""
        dot = self.kernel.dot
        first = arith.muli(chunk, emit.index(dot.vectors))
        # Read when it is needed: all words of a chunk at once would push sums out of registers.
        words = [
            functools.cache(lambda i, v=v: self._word(arith.addi(first, emit.index(i)), v))
            for v in range(self.vectors)
        ]
        base = arith.muli(chunk, emit.index(dot.quads * dot.stride))
        for quad in range(dot.quads):
            codes = [dot.quad(own, quad) for own in words]
            at = arith.addi(base, emit.index(quad * dot.stride))
            for r, record in enumerate(self.records):
                activation = dot.activation(self.a, [record, at])
                for v, code in enumerate(codes):
                    sums.add(r * self.vectors + v, code, activation)

    def _word(self, number: ir.Value, v: int) -> ir.Value:
        panel, lane = self._panel(v)
        self._fetch(self.words, [self.item, panel, number, lane], self.ahead)
        return emit.load(self.lanes, self.words, [self.item, panel, number, lane])

    def _fetch(self, source: ir.Value, at: Sequence[ir.Value], ahead: int) -> None:
        """Ask for what is read later, if so few rows use it that memory is the limit."""
        if len(self.at) <= STREAMED_ROWS:
            item, panel, number, lane = at
            emit.prefetch(source, [item, panel, arith.addi(number, emit.index(ahead)), lane])

    def _panel(self, v: int) -> tuple[ir.Value, ir.Value]:
        """Return the panel of the tile's `v`-th vector of columns, and where it is in there."""
        number, lane = divmod(v, self.tile.vectors)
        panel = arith.addi(self.p, emit.index(number)) if number else self.p
        return panel, emit.index(lane * self.lanes)

    # -- scales and zeros --------------------------------------------------------------------------

    def _of_zeros(self, g: ir.Value) -> list[ir.Value]:
        """Return what the zero points take from each sum; sums of activations come negated."""
        place = arith.addi(g, emit.index(self.rows.first_sum))
        found = []
        for r, v in self.places:
            if self.zeros is None:
                scalar = emit.load_scalar(self.a, [self.records[r], place])
                middle = arith.constant(self.i32, 1 << (self.kernel.dot.bits - 1))
                scalar = arith.muli(scalar, middle)
                found.append(vector.broadcast(emit.vector_type(self.lanes, self.i32), scalar))
                continue
            total = emit.broadcast_scalar(self.lanes, self.a, [self.records[r], place])
            stored = emit.load(self.lanes, self.zeros, self._of_group(g, v))
            zero = arith.extui(emit.vector_type(self.lanes, self.i32), stored)
            found.append(self.kernel.dot.of_sums(zero, total, self.rows.group))
        return found

    def _scale(self, g: ir.Value, sums: Sequence[ir.Value]) -> None:
        """Add the scaled sums of a group to the totals."""
        scales = []
        for v in range(self.vectors):
            at = self._of_group(g, v)
            self._fetch(self.scales, at, self.groups_ahead)
            scales.append(emit.load(self.lanes, self.scales, at))
        for (r, v), found in zip(self.places, sums, strict=True):
            scale = scales[v]
            if self.rows.per_group:
                scale = arith.mulf(scale, self._activation_scale(r, g))
            value = arith.sitofp(emit.vector_type(self.lanes, self.f32), found)
            before = emit.load(self.lanes, self.totals, self._total(r, v))
            emit.store(vector.fma(value, scale, before), self.totals, self._total(r, v))

    def _activation_scale(self, r: int, number: ir.Value) -> ir.Value:
        place = arith.addi(number, emit.index(self.rows.first_scale))
        bits = emit.broadcast_scalar(self.lanes, self.a, [self.records[r], place])
        return vector.bitcast(emit.vector_type(self.lanes, self.f32), bits)

    def _of_group(self, g: ir.Value, v: int) -> list[ir.Value]:
        panel, lane = self._panel(v)
        return [self.item, panel, g, lane]

    def _total(self, r: int, v: int) -> list[ir.Value]:
        return [emit.index(r), emit.index(v * self.lanes)]

    def _mask(self, column: ir.Value) -> ir.Value | None:
        if self.kernel.n % self.tile.columns == 0:
            return None
        return emit.mask_of(self.lanes, arith.subi(emit.index(self.kernel.n), column))
