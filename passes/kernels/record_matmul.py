"""What CPU matmuls of prepared rows have in common: bindings, loops, and storing of results.

An activation's rows come as records that another dispatch wrote, or that each workgroup makes of
its rows for itself; a weight comes in panels of columns.  The loops, from the outside: workgroups
over batches, chunks of rows and groups of panels; blocks of rows; panels of columns, one by one or
some side by side.  What happens for a block of rows and some panels is a kernel's own:
:meth:`RecordBody.add_products`, which adds to totals in a scratch buffer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from iree.compiler import ir
from iree.compiler.dialects import arith

from . import emit
from .epilogue import Epilogue, finish_rows
from .executable import Interface, threads
from .tiles import AHEAD_BYTES, STREAMED_ROWS, Tile

LINE_BYTES = 64
THREADS = 8  # of a device that does not say how many it has


class Maker(Protocol):
    """Builds records of rows."""

    def row(self, number: ir.Value, record: ir.Value) -> None:
        """Build record `record` of row `number`."""


class Rows(Protocol):
    """What prepares rows: ``f32 [m, k]`` → records ``i32 [m, words]``."""

    @property
    def k(self) -> int:
        """Length of a row."""

    @property
    def words(self) -> int:
        """Words of 32 bits of a record."""

    @property
    def making_bytes(self) -> int:
        """Bytes on the stack that making records takes, whose own are not counted."""

    def maker(self, source: ir.Value, target: ir.Value) -> Maker:
        """Return what builds records in `target` of rows of `source`."""


class RecordMatmul(ABC):
    """``C[batch, m, n]`` of records of rows and a weight in panels.

    Bindings: records, the weight's :attr:`weights`, what the epilogue reads, and C.

    Attributes
    ----------
    batch : int
        How many weights there are; rows of each follow one another.
    m, n : int or None, int
        Rows of each, None where they are known only at run time, and columns.
    tile : Tile
        Register tile and cut of the work; its `k_block` is not used.
    epilogue : Epilogue or None
        What is done to the sums before they are stored; its inputs are bound before C.
    rows : Rows
        The records: K, and what stands where.
    rounds : bool
        Whether each workgroup makes the records of its rows itself, on its stack: the first binding
        is then the activation, ``f32 [batch * m, K]``, with `m` known.
    """

    batch: int
    m: int | None
    n: int
    tile: Tile
    epilogue: Epilogue | None
    rows: Rows
    rounds: bool

    @property
    @abstractmethod
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""

    @abstractmethod
    def describe(self) -> str:
        """Say which kernel it is."""

    @abstractmethod
    def body(self, interface: Interface) -> RecordBody:
        """Return what builds the kernel's function, its buffers bound at the current place."""

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        self.body(interface).emit()

    @property
    @abstractmethod
    def weights(self) -> list[tuple[list[int], int]]:
        """Shape behind ``[batch, panels]`` and width of each tensor of the weight.

        Integers, but for the width 0: those are f32.
        """

    @abstractmethod
    def together(self, rows: int) -> int:
        """Return how many panels are read side by side for a block of `rows`."""

    @property
    def panels(self) -> int:
        """Panels of columns."""
        return -(-self.n // self.tile.columns)

    @property
    def portion(self) -> int:
        """Panels that stay together when they are shared out among workgroups."""
        return 1 if self.reads_once else self.tile.panels

    @property
    def portions(self) -> int:
        """Portions of the panels, of :attr:`portion` each."""
        return -(-self.panels // self.portion)

    @property
    def reads_once(self) -> bool:
        """Whether there is one block of rows, so that each weight is read once.

        Then there are :attr:`shares` workgroups for each thread of the device that runs it, whose
        shares differ by a panel at most; of the tile's panels only how many are read side by side
        counts.  They are handed out in order, so that nearly always the same core reads the same
        weights at each call: those that another core read last come slower from the third cache
        (Zen 4, 16.7 MB, two cores: 0.110 instead of 0.088 ms).
        """
        return self.m is not None and self.m <= self.tile.rows

    @property
    def shares(self) -> int:
        """Workgroups of a thread where weights are read once.

        Of one row, memory is the limit, and one is the fastest; else a thread that is done first
        takes one of another's.
        """
        return 1 if self.m == 1 else 2

    def is_whole(self, panels: int) -> bool:
        """Whether every workgroup has a multiple of `panels`."""
        if self.reads_once:
            return panels == 1
        return self.tile.panels % panels == 0 and self.panels % panels == 0

    @property
    def sums(self) -> list[int]:
        """Rows and columns of the largest tiles."""
        heights = self.tile.heights(self.m)
        return [max(heights), max(map(self.together, heights)) * self.tile.columns]

    @property
    def sums_bytes(self) -> int:
        """Bytes on the stack that sums take."""
        return 4 * math.prod(self.sums)

    @property
    def inputs(self) -> int:
        """How many bindings are only read."""
        return self.operands + (0 if self.epilogue is None else len(self.epilogue.inputs))

    @property
    def operands(self) -> int:
        """How many of them are records and the weight."""
        return 1 + len(self.weights)

    @property
    def translation(self) -> str:
        """How IREE goes on from the kernel's body."""
        return "#iree_codegen.translation_info<pipeline = #iree_cpu.pipeline<Default>>"

    def grid(self, m: ir.Value) -> list[ir.Value]:
        """Return the workgroups along x, y and z; `m` is the number of rows of one batch."""
        chunks = arith.ceildivui(m, emit.index(self.tile.row_chunk))
        groups = emit.index(self.portions)
        if self.reads_once:
            groups = self.groups_for(threads(THREADS))
        return [groups, arith.muli(chunks, emit.index(self.batch)), emit.index(1)]

    def groups_for(self, count: ir.Value) -> ir.Value:
        """Return the workgroups along x where weights are read once, by so many threads.

        A device that says it has none has one.
        """
        wanted = arith.muli(arith.maxui(count, emit.index(1)), emit.index(self.shares))
        each = arith.ceildivui(wanted, emit.index(self.batch))
        return arith.minui(emit.index(self.portions), each)

    def first_panel(self, group: ir.Value, groups: ir.Value) -> ir.Value:
        """Return where the panels of workgroup `group` of `groups` along x begin.

        That of the one after the last may lie behind the last panel.  Where weights are read once,
        the first ones get what is left.
        """
        if self.reads_once:
            portions = emit.index(self.portions)
            each, over = arith.divui(portions, groups), arith.remui(portions, groups)
            group = arith.addi(arith.muli(group, each), arith.minui(group, over))
        return arith.muli(group, emit.index(self.portion))


class RecordBody(ABC):
    """The function of one kernel while it is being built."""

    p: ir.Value  # the first panel
    vectors: int  # of all panels side by side
    at: list[ir.Value]  # rows
    records: list[ir.Value]  # theirs, in all batches
    places: list[tuple[int, int]]  # (row, vector)

    def __init__(self, kernel: RecordMatmul, interface: Interface) -> None:
        self.shape, self.tile, self.lanes = kernel, kernel.tile, kernel.tile.lanes
        self.f32, self.i32 = ir.F32Type.get(), emit.integer(32)
        self.m = emit.index(kernel.m) if kernel.m is not None else interface.constant(0)
        self._bind(interface)
        self.group, self.groups = interface.workgroup(0), interface.workgroups(0)
        number = interface.workgroup(1)
        chunks = arith.ceildivui(self.m, emit.index(self.tile.row_chunk))
        self.item, self.chunk = arith.divui(number, chunks), arith.remui(number, chunks)
        self.totals = emit.scratch(kernel.sums, self.f32)

    # -- hooks -------------------------------------------------------------------------------------

    @abstractmethod
    def add_products(self) -> None:
        """Add the products of the records and the panels to the totals of all places."""

    def bind_rows(self, interface: Interface, count: int, opened: Sequence[ir.Value]) -> ir.Value:
        """Return the records of `count` rows, of all batches; or one's, made here."""
        if interface.records is not None:
            return interface.records
        rows = self.shape.rows
        if self.shape.rounds:
            source = emit.buffer_type([count, rows.k], self.f32)
            own = emit.scratch([count // self.shape.batch, rows.words], self.i32)
            self.maker = rows.maker(interface.buffer(0, source, opened, is_input=True), own)
            return own
        record = emit.buffer_type([count, self.shape.rows.words], self.i32)
        return interface.buffer(0, record, opened, is_input=True)

    def record_of(self, row: ir.Value) -> ir.Value:
        """Return which record is that of a row of this batch."""
        return row if self.shape.rounds else self._of_all(row)

    def _of_all(self, row: ir.Value) -> ir.Value:
        """Return which row of all batches is a row of this one."""
        return arith.addi(arith.muli(self.item, self.m), row)

    def finished(self, total: ir.Value, r: int) -> ir.Value:
        """Return a total of row `r` as the epilogue gets it."""
        return total

    # -- buffers -----------------------------------------------------------------------------------

    def _bind(self, interface: Interface) -> None:
        kernel = self.shape
        opened = [self.m] if kernel.m is None else []
        m = ir.ShapedType.get_dynamic_size() if kernel.m is None else kernel.m
        # Records of all batches follow one another.
        count = m if kernel.m is None else kernel.batch * kernel.m
        all_rows = [arith.muli(self.m, emit.index(kernel.batch))] if opened else []
        self.a = self.bind_rows(interface, count, all_rows)
        head = [kernel.batch, kernel.panels]
        self.weights = [
            interface.buffer(
                i + 1,
                emit.buffer_type([*head, *shape], emit.integer(width) if width else self.f32),
                [],
                is_input=True,
            )
            for i, (shape, width) in enumerate(kernel.weights)
        ]
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
        """Build the loops at the current place."""
        next_group = arith.addi(self.group, emit.index(1))
        first = self.shape.first_panel(self.group, self.groups)
        last = self.shape.first_panel(next_group, self.groups)
        last = arith.minui(last, emit.index(self.shape.panels))
        start, stop = self.own_rows()
        if self.shape.rounds:
            emit.each(start, stop, 1, lambda row: self.maker.row(self._of_all(row), row))
        self.multiply(first, last, start, stop)

    def multiply(self, first: ir.Value, last: ir.Value, start: ir.Value, stop: ir.Value) -> None:
        """Build the results of the panels `first` to `last` and the rows `start` to `stop`."""
        for rows in self.tile.heights(self.shape.m):
            left = arith.subi(stop, start)
            full = arith.muli(arith.divui(left, emit.index(rows)), emit.index(rows))
            end = arith.addi(start, full)
            emit.each(start, end, rows, self._row_block(rows, first, last))
            start = end

    def own_rows(self) -> tuple[ir.Value, ir.Value]:
        """Return the first of this workgroup's rows of its batch, and the one after the last."""
        start = arith.muli(self.chunk, emit.index(self.tile.row_chunk))
        return start, arith.minui(arith.addi(start, emit.index(self.tile.row_chunk)), self.m)

    def _row_block(self, rows: int, first: ir.Value, last: ir.Value) -> Callable[[ir.Value], None]:
        together = self.shape.together(rows)

        def block(m: ir.Value) -> None:
            start = first
            if together > 1:
                whole = emit.index(together)
                full = arith.muli(arith.divui(arith.subi(last, first), whole), whole)
                start = arith.addi(first, full)
                emit.each(first, start, together, lambda p: self._tile(m, rows, p, together))
            if together == 1 or not self.shape.is_whole(together):
                emit.each(start, last, 1, lambda p: self._tile(m, rows, p, 1))

        return block

    def _tile(self, m: ir.Value, rows: int, p: ir.Value, together: int) -> None:
        """Build the results of `rows` rows and of as many panels as go `together`."""
        self.p, self.vectors = p, together * self.tile.vectors
        self.ahead_bytes = AHEAD_BYTES // together
        self.at = [arith.addi(m, emit.index(r)) for r in range(rows)]
        self.records = [self.record_of(row) for row in self.at]
        self.places = [(r, v) for r in range(rows) for v in range(self.vectors)]
        zero = emit.splat(self.lanes, self.f32, 0.0)
        for r, v in self.places:
            emit.store(zero, self.totals, self.total(r, v))
        self.add_products()
        self._store(m, rows)

    def _store(self, m: ir.Value, rows: int) -> None:
        column = arith.muli(self.p, emit.index(self.tile.columns))
        epilogue = self.shape.epilogue
        for r, v in self.places:
            total = emit.load(self.lanes, self.totals, self.total(r, v))
            total = self.finished(total, r)
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

    # -- what kernels use --------------------------------------------------------------------------

    def fetch(self, source: ir.Value, at: Sequence[ir.Value], axis: int, ahead: int) -> None:
        """Ask for what is read later, if so few rows use it that memory is the limit."""
        if len(self.at) <= STREAMED_ROWS:
            place = list(at)
            place[axis] = arith.addi(place[axis], emit.index(ahead))
            emit.prefetch(source, place)

    def ask(self, panel: ir.Value, most: int) -> None:
        """Ask for the first bytes of a panel, at `most` so many of each tensor of the weight."""
        for source in self.weights:
            type_ = ir.MemRefType(source.type)
            _, _, rows, *inner = type_.shape
            width, size = type_.element_type.width // 8, math.prod(inner)
            step = max(1, LINE_BYTES // (size * width))
            starts = [at // width for at in range(0, size * width, LINE_BYTES)]
            places = [[emit.index(int(at)) for at in np.unravel_index(i, inner)] for i in starts]

            def lines(row: ir.Value, source: ir.Value = source, places: Any = places) -> None:
                for place in places:
                    emit.prefetch(source, [emit.index(0), panel, row, *place])

            wanted = min(rows, most // (size * width))
            emit.each(emit.index(0), emit.index(wanted), step, lines)

    def panel(self, v: int) -> tuple[ir.Value, int]:
        """Return the panel of the tile's `v`-th vector of columns, and which one of it that is."""
        number, vector = divmod(v, self.tile.vectors)
        return (arith.addi(self.p, emit.index(number)) if number else self.p), vector

    def record_scalar(self, r: int, place: ir.Value) -> ir.Value:
        """Return the f32 at word `place` of a row's record in all lanes."""
        bits = emit.broadcast_scalar(self.lanes, self.a, [self.records[r], place])
        return emit.as_floats(bits, self.lanes)

    def total(self, r: int, v: int) -> list[ir.Value]:
        """Return where a place's total stands."""
        return [emit.index(r), emit.index(v * self.lanes)]

    def _mask(self, column: ir.Value) -> ir.Value | None:
        if self.shape.n % self.tile.columns == 0:
            return None
        return emit.mask_of(self.lanes, arith.subi(emit.index(self.shape.n), column))
