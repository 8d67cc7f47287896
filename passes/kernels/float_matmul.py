"""A matmul in f32 for CPUs: one fused multiply-add a product, where the processor has it.

The loops are those of :mod:`.blocked_matmul`.  Rows are read where they are, or copied to a scratch
buffer (:func:`.float_tiles.copies`).  A panel streams from the second cache while a block of rows
lies in the first; the inner loop asks for it some rows ahead.

Products of attention read and write their heads where linear layers have them (:class:`Heads`): no
tensor is transposed before or after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import emit
from .blocked_matmul import BlockedMatmul, Body
from .executable import Interface
from .float_tiles import stays_near
from .tiles import AHEAD_BYTES

ROW_PADDING = 16  # f32 between copied rows: they begin in different sets of the cache
CACHED_AHEAD_BYTES = 1536  # how far ahead the second cache is asked


@dataclass(frozen=True)
class Heads:
    """How operands lie in memory that are not matrices one behind another.

    Attributes
    ----------
    count : int
        How many matrices share an outer dimension: the batch is outer dimensions times heads.
    split : str
        Which of ``abc`` are ``[outer, rows, heads, columns]`` in memory, not ``[batch, rows,
        columns]``.
    turned : bool
        Whether B has N before K.
    """

    count: int = 1
    split: str = ""
    turned: bool = False

    @property
    def name(self) -> str:
        """The layouts in a symbol."""
        return f"h{self.count}{self.split}" * bool(self.split) + "t" * self.turned

    def describe(self) -> str:
        """Say which operands lie how."""
        words = {"a": "rows", "b": "columns", "c": "results"}
        parts = [f"heads of {', '.join(words[one] for one in self.split)} where they are"]
        return ", ".join(parts * bool(self.split) + ["transposes columns"] * self.turned)


PLAIN = Heads()


@dataclass(frozen=True)
class FloatMatmul(BlockedMatmul):
    """``C[batch, m, n] = sum over k of A[batch, m, k] * B[batch, k, n]``, all f32.

    Attributes
    ----------
    packs : bool
        Whether B is ``[batch, K, N]`` as the model has it, and packed by the kernel unless it is
        read :attr:`in_place`; else it holds panels (:func:`..formats.panels.float_panels`).
    copies : bool
        Whether rows of A are copied.
    heads : Heads
        How A, C, and a B that is not in panels lie in memory.
    """

    packs: bool = False
    copies: bool = False
    heads: Heads = PLAIN

    @property
    def outer(self) -> int | None:
        """How often there are all heads; None if that is known only at run time."""
        return None if self.batch is None else self.batch // self.heads.count

    @property
    def head(self) -> int:
        """How many heads there are."""
        return self.heads.count

    @property
    def in_place(self) -> bool:
        """Whether a B that is not in panels is read where it is: all of it fits the first cache.

        Rows of heads lie so far apart that they share few sets of a cache.
        """
        if not self.packs or self.n is None or self.k is None:
            return False
        if "b" in self.heads.split or self.heads.turned:
            return False
        return self.n % self.tile.columns == 0 and stays_near(self.n, self.k)

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        flags = "b" * self.b_batch + "w" * self.packs + "c" * self.copies + self.heads.name
        return f"f32_{self.sizes_name}_{self.tile.name}{flags}{self.epilogue_name}"

    def describe(self) -> str:
        """Say which kernel it is."""
        return ", ".join(filter(None, [super().describe(), self.heads.describe()]))

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        FloatBody(self, interface).emit()


class FloatBody(Body):
    """The function of one kernel while it is being built."""

    def __init__(self, kernel: FloatMatmul, interface: Interface) -> None:
        self.kernel, self.heads = kernel, kernel.heads
        super().__init__(kernel, interface)

    def bind(self) -> None:
        """Bind A, B and C."""
        if self.heads.split:
            self.outer = arith.divui(self.batch, emit.index(self.heads.count))
        self.a = self.buffer(0, self._dims("a", "batch", "m", "k"), self.f32)
        if self.kernel.packs:
            own = "batch" if self.kernel.b_batch else "one"
            inner = ("n", "k") if self.heads.turned else ("k", "n")
            self.b = self.buffer(1, self._dims("b", own, *inner), self.f32)
        else:
            self.b = self.panel_buffer(1, None, self.tile.columns, self.f32)
        self.bind_result(2)

    def _dims(self, operand: str, batch: str, rows: str, columns: str) -> tuple[str, ...]:
        """Return the dimensions of an operand as it lies in memory."""
        if operand in self.heads.split:
            return ("outer", rows, "head", columns)
        return (batch, rows, columns)

    def bind_result(self, ordinal: int) -> None:
        """Bind what the epilogue reads, and C."""
        if "c" not in self.heads.split:
            super().bind_result(ordinal)
            return
        self.extra = []
        self.c = self.buffer(ordinal, self._dims("c", "batch", "m", "n"), self.f32, is_input=False)

    def reserve(self) -> None:
        """Reserve room for copied rows and packed panels."""
        tile = self.tile
        if self.kernel.copies:
            self.scratch = emit.scratch([tile.rows, tile.k_block + ROW_PADDING], self.f32)
        if self.kernel.packs and not self.kernel.in_place:
            self.packed = emit.scratch([tile.panels, tile.k_block, tile.columns], self.f32)
        if self.heads.split:
            count = emit.index(self.heads.count)
            self.place, self.head = arith.divui(self.item, count), arith.remui(self.item, count)

    # -- places ------------------------------------------------------------------------------------

    def a_place(self, m: ir.Value, k: ir.Value) -> list[ir.Value]:
        """Return where A of row `m` and column `k` is."""
        return self._place("a", self.item, m, k)

    def b_place(self, k: ir.Value, n: ir.Value) -> list[ir.Value]:
        """Return where B of row `k` and column `n` is, unless it is stored in panels."""
        return self._place("b", self.b_item, *((n, k) if self.heads.turned else (k, n)))

    def c_place(self, m: ir.Value, n: ir.Value) -> list[ir.Value]:
        """Return where C of row `m` and column `n` is."""
        return self._place("c", self.item, m, n)

    def _place(
        self, operand: str, item: ir.Value, row: ir.Value, column: ir.Value
    ) -> list[ir.Value]:
        if operand in self.heads.split:
            return [self.place, row, self.head, column]
        return [item, row, column]

    # -- copies ------------------------------------------------------------------------------------

    def pack(self, p: ir.Value, place: ir.Value) -> None:
        """Bring panel number `p` to its `place` in the scratch buffer."""
        if not self.heads.turned:
            super().pack(p, place)
            return
        column = arith.muli(p, emit.index(self.tile.columns))

        def square(lane: ir.Value, k: ir.Value) -> None:
            """Transpose as many columns as a vector has lanes, from `lane` of the panel on."""
            mask, rows = self.k_mask(k), []
            for i in range(self.lanes):
                n = arith.addi(arith.addi(column, lane), emit.index(i))
                if self.kernel.n is None or self.kernel.n % self.tile.columns:
                    # What stands in columns that are not there is not stored in C.
                    n = arith.minui(n, arith.subi(self.n, emit.index(1)))
                at = self.b_place(arith.addi(self.kb, k), n)
                rows.append(emit.load(self.lanes, self.b, at, mask))
            for i, row in enumerate(emit.transposed(rows)):
                emit.store(row, self.packed, [place, arith.addi(k, emit.index(i)), lane])

        def step(lane: ir.Value) -> None:
            emit.each(emit.index(0), self.count, self.lanes, lambda k: square(lane, k))

        emit.each(emit.index(0), emit.index(self.tile.columns), self.lanes, step)

    # -- products ----------------------------------------------------------------------------------

    def left(self, m: ir.Value, r: int, k: ir.Value) -> ir.Value:
        """Return A of row ``m + r`` in all lanes."""
        if self.kernel.copies:
            return emit.broadcast_scalar(self.lanes, self.scratch, [emit.index(r), k])
        at = self.a_place(arith.addi(m, emit.index(r)), arith.addi(self.kb, k))
        return emit.broadcast_scalar(self.lanes, self.a, at)

    def weights(self, p: ir.Value, k: ir.Value, *, ahead: bool) -> Sequence[ir.Value]:
        """Return the vectors of one row of a panel."""
        if self.kernel.packs and not self.kernel.in_place:
            return self.packed_row(p, k)
        lanes = [emit.index(v * self.lanes) for v in range(self.tile.vectors)]
        row = arith.addi(self.kb, k)
        if self.kernel.in_place:
            first = arith.muli(p, emit.index(self.tile.columns))
            at = [self.b_place(row, arith.addi(first, lane)) for lane in lanes]
            return [emit.load(self.lanes, self.b, place) for place in at]
        distance = AHEAD_BYTES if ahead else CACHED_AHEAD_BYTES
        later = arith.addi(row, emit.index(max(1, distance // (4 * self.tile.columns))))
        for lane in lanes:
            emit.prefetch(self.b, [self.b_item, p, later, lane])
        return [emit.load(self.lanes, self.b, [self.b_item, p, row, lane]) for lane in lanes]

    def accumulate(self, total: ir.Value, left: ir.Value, weight: ir.Value) -> ir.Value:
        """Return ``total + left * weight``."""
        return emit.multiply_add(left, weight, total)
