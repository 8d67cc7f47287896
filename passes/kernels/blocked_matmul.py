"""What the CPU matmuls have in common: their loops, tails, and where results are stored.

The loops, from the outside: workgroups over batches, chunks of rows and groups of panels; blocks of
K; blocks of rows; panels of columns; and K, with a tile of rows x columns of sums in registers::

    for kb in K step k_block:
      pack the group's panels                    // if B is not stored in panels
      for m in rows step tile.rows:
        scratch[r, k] = prepared(A[m + r, kb + k])
        for p in panels:
          for k in k_block:                      // the inner loop
            b[v] = weights(B[p, kb + k, v])
            sum[r, v] = accumulate(sum[r, v], splat(scratch[r, k]), b[v])

What a row is prepared to, how B is stored, and what a product is, are a kernel's own: the hooks of
:class:`Body`.  Sums of an output are in the order of k.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith, scf

from . import emit
from .epilogue import Epilogue, finish_rows
from .executable import Interface
from .tiles import STREAMED_ROWS, Tile


@dataclass(frozen=True)
class BlockedMatmul:
    """``C[batch, m, n] = sum over k of A[batch, m, k] * B[batch, k, n]``, for some product.

    Attributes
    ----------
    batch, m, n, k : int or None
        Sizes; None where they are known only at run time.
    b_batch : bool
        Whether B has a batch of its own; else all batches read one B.
    tile : Tile
        Register tile, blocks and vector width.
    epilogue : Epilogue or None
        What is done to the sums before they are stored.
    """

    batch: int | None
    m: int | None
    n: int | None
    k: int | None
    b_batch: bool
    tile: Tile
    epilogue: Epilogue | None = field(default=None, kw_only=True)

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """(batch, m, n, k)."""
        return (self.batch, self.m, self.n, self.k)

    @property
    def sizes_name(self) -> str:
        """The sizes in a symbol; ``d`` is dynamic."""
        return "x".join("d" if size is None else str(size) for size in self.sizes)

    @property
    def epilogue_name(self) -> str:
        """The epilogue in a symbol."""
        return "" if self.epilogue is None else f"_{self.epilogue.name}"

    @property
    def extra_inputs(self) -> int:
        """How many tensors the epilogue reads; they are bound behind the operands."""
        return 0 if self.epilogue is None else len(self.epilogue.inputs)

    @property
    def translation(self) -> str:
        """How IREE goes on from the kernel's body."""
        return "#iree_codegen.translation_info<pipeline = #iree_cpu.pipeline<Default>>"

    def grid(self, sizes: dict[str, ir.Value]) -> list[ir.Value]:
        """Return the workgroups along x, y and z, given batch, m, n and k.

        Chunks of rows and batches share y: IREE counts along z in 16 bits.
        """
        across = self.tile.columns * self.tile.panels
        chunks = arith.ceildivui(sizes["m"], emit.index(self.tile.row_chunk))
        return [
            arith.ceildivui(sizes["n"], emit.index(across)),
            arith.muli(chunks, sizes["batch"]),
            emit.index(1),
        ]

    def describe(self) -> str:
        """Say which kernel it is."""
        lanes = f"vectors of {self.tile.lanes}"
        text = f"kernel of {lanes}, {self.tile.rows} x {self.tile.columns} sums in registers"
        return text if self.epilogue is None else f"{text}, {self.epilogue.describe()}"


class Body(ABC):
    """The function of one kernel while it is being built."""

    a: ir.Value
    b: ir.Value
    c: ir.Value
    scratch: ir.Value | None = None  # for a block of rows of A, if they are copied
    packed: ir.Value | None = None  # for the group's panels of B, if they are packed here

    def __init__(self, kernel: BlockedMatmul, interface: Interface) -> None:
        self.shape, self.tile, self.interface = kernel, kernel.tile, interface
        self.lanes = kernel.tile.lanes
        self.f32, self.i32 = ir.F32Type.get(), emit.integer(32)
        open_sizes = [size for size in kernel.sizes if size is None]
        numbers = iter([interface.constant(i) for i in range(len(open_sizes))])
        self.batch, self.m, self.n, self.k = (
            next(numbers) if size is None else emit.index(size) for size in kernel.sizes
        )
        self.panels = arith.ceildivui(self.n, emit.index(self.tile.columns))
        self.bind()
        self.group, number = interface.workgroup(0), interface.workgroup(1)
        chunks = arith.ceildivui(self.m, emit.index(self.tile.row_chunk))
        self.item, self.chunk = arith.divui(number, chunks), arith.remui(number, chunks)
        self.b_item = self.item if kernel.b_batch else emit.index(0)
        self.reserve()

    # -- hooks -------------------------------------------------------------------------------------

    @abstractmethod
    def bind(self) -> None:
        """Bind A and B as ``a`` and ``b``, and what comes behind them by :meth:`bind_result`."""

    @abstractmethod
    def reserve(self) -> None:
        """Reserve scratch buffers."""

    def prepared(self, value: ir.Value) -> ir.Value:
        """Return a vector of A as the scratch buffer holds it."""
        return value

    def packing(self, value: ir.Value) -> ir.Value:
        """Return a vector of B as packed panels hold it."""
        return value

    @abstractmethod
    def left(self, m: ir.Value, r: int, k: ir.Value) -> ir.Value:
        """Return A of row ``m + r``, `k` into the block, in all lanes."""

    @abstractmethod
    def weights(self, p: ir.Value, k: ir.Value, *, ahead: bool) -> Sequence[Any]:
        """Return B of each vector of panel `p`, `k` into the block.

        With `ahead`, what is read some rows later is fetched into the cache: few products of each
        weight leave too little work in flight to hide the latency of memory.
        """

    @abstractmethod
    def accumulate(self, total: ir.Value, left: ir.Value, weight: Any) -> ir.Value:
        """Return `total` and one more product."""

    # -- buffers -----------------------------------------------------------------------------------

    def buffer(
        self, ordinal: int, dims: Sequence[str], element: ir.Type, *, is_input: bool = True
    ) -> ir.Value:
        """Return a binding as a memref of the sizes called `dims`; ``one`` is 1."""
        shape = [1 if dim == "one" else getattr(self.shape, dim) for dim in dims]
        opened = [getattr(self, dim) for dim, size in zip(dims, shape, strict=True) if size is None]
        known = [ir.ShapedType.get_dynamic_size() if size is None else size for size in shape]
        type_ = emit.buffer_type(known, element)
        return self.interface.buffer(ordinal, type_, opened, is_input=is_input)

    def panel_buffer(
        self, ordinal: int, rows: int | None, words: int, element: ir.Type
    ) -> ir.Value:
        """Return a binding as ``[batch of B, panels, rows, words]``; rows None are those of K."""
        shape_of, unknown = self.shape, ir.ShapedType.get_dynamic_size()
        batch = shape_of.batch if shape_of.b_batch else 1
        panels = None if shape_of.n is None else -(-shape_of.n // self.tile.columns)
        shape = [batch, panels, shape_of.k if rows is None else rows, words]
        values = [self.batch, self.panels, self.k]
        opened = [v for v, size in zip(values, shape[:3], strict=True) if size is None]
        known = [unknown if size is None else size for size in shape]
        type_ = emit.buffer_type(known, element)
        return self.interface.buffer(ordinal, type_, opened, is_input=True)

    def bind_result(self, ordinal: int) -> None:
        """Bind what the epilogue reads from `ordinal` on, and then C."""
        inputs = () if self.shape.epilogue is None else self.shape.epilogue.inputs
        self.extra = [
            self.buffer(ordinal + i, given.sizes, ir.Type.parse(given.element))
            for i, given in enumerate(inputs)
        ]
        self.c = self.buffer(
            ordinal + len(self.extra), ("batch", "m", "n"), self.f32, is_input=False
        )

    def matrix_buffer(self, ordinal: int) -> ir.Value:
        """Return a binding as B of the model, ``[batch of B, K, N]`` in f32."""
        own = "batch" if self.shape.b_batch else "one"
        return self.buffer(ordinal, (own, "k", "n"), self.f32)

    # -- places ------------------------------------------------------------------------------------

    def a_place(self, m: ir.Value, k: ir.Value) -> list[ir.Value]:
        """Return where A of row `m` and column `k` is."""
        return [self.item, m, k]

    def b_place(self, k: ir.Value, n: ir.Value) -> list[ir.Value]:
        """Return where B of row `k` and column `n` is, unless it is stored in panels."""
        return [self.b_item, k, n]

    def c_place(self, m: ir.Value, n: ir.Value) -> list[ir.Value]:
        """Return where C of row `m` and column `n` is."""
        return [self.item, m, n]

    # -- copies ------------------------------------------------------------------------------------

    def prepare(self, m: ir.Value, rows: int) -> None:
        """Fill the scratch buffer with `rows` rows of A, from the block of K on."""
        if self.scratch is None:
            return
        scratch = self.scratch

        def step(k: ir.Value) -> None:
            mask = self.k_mask(k)
            for r in range(rows):
                at = self.a_place(arith.addi(m, emit.index(r)), arith.addi(self.kb, k))
                value = emit.load(self.lanes, self.a, at, mask)
                emit.store(self.prepared(value), scratch, [emit.index(r), k])

        emit.each(emit.index(0), self.count, self.lanes, step)

    def pack_panels(self, first: ir.Value, last: ir.Value) -> None:
        """Fill the scratch buffer of B with the group's panels, from the block of K on."""
        if self.packed is not None:
            emit.each(first, last, 1, lambda p: self.pack(p, arith.subi(p, first)))

    def pack(self, p: ir.Value, place: ir.Value) -> None:
        """Bring panel number `p` to its `place` in the scratch buffer."""
        column = arith.muli(p, emit.index(self.tile.columns))
        masks = self.column_masks(column)

        def step(k: ir.Value) -> None:
            row = arith.addi(self.kb, k)
            for v, mask in enumerate(masks):
                lane = emit.index(v * self.lanes)
                at = self.b_place(row, arith.addi(column, lane))
                value = self.packing(emit.load(self.lanes, self.b, at, mask))
                emit.store(value, self.packed, [place, k, lane])

        emit.each(emit.index(0), self.count, 1, step)

    def packed_row(self, p: ir.Value, k: ir.Value) -> list[ir.Value]:
        """Return the vectors of one row of a packed panel, `k` into the block."""
        place = arith.subi(p, self.first)
        lanes = [emit.index(v * self.lanes) for v in range(self.tile.vectors)]
        return [emit.load(self.lanes, self.packed, [place, k, lane]) for lane in lanes]

    # -- loops -------------------------------------------------------------------------------------

    def emit(self) -> None:
        """Build the loops at the current place."""
        first = arith.muli(self.group, emit.index(self.tile.panels))
        last = arith.minui(arith.addi(first, emit.index(self.tile.panels)), self.panels)
        start = arith.muli(self.chunk, emit.index(self.tile.row_chunk))
        stop = arith.minui(arith.addi(start, emit.index(self.tile.row_chunk)), self.m)

        def block(kb: ir.Value) -> None:
            self.kb = kb
            self.count = arith.minui(arith.subi(self.k, kb), emit.index(self.tile.k_block))
            self.pack_panels(first, last)
            self.first = first
            self._rows(start, stop, first, last)

        # A sum of nothing is zero: a K that turns out to be 0 has one block, without products.
        stop_k = self.k if self.shape.k is not None else arith.maxui(self.k, emit.index(1))
        emit.each(emit.index(0), stop_k, self.tile.k_block, block)

    def _rows(self, start: ir.Value, stop: ir.Value, first: ir.Value, last: ir.Value) -> None:
        """Build one loop per height of row blocks: full ones, then smaller ones for the rest."""
        for rows in self.tile.heights(self.shape.m):
            left = arith.subi(stop, start)
            full = arith.muli(arith.divui(left, emit.index(rows)), emit.index(rows))
            end = arith.addi(start, full)
            emit.each(start, end, rows, self._row_block(rows, first, last))
            start = end

    def _row_block(self, rows: int, first: ir.Value, last: ir.Value) -> Callable[[ir.Value], None]:
        def block(m: ir.Value) -> None:
            self.prepare(m, rows)
            emit.each(first, last, 1, lambda p: self._tile(m, rows, p))

        return block

    def k_mask(self, k: ir.Value) -> ir.Value | None:
        """Return which lanes of a vector along K, `k` into the block, exist; None if all do."""
        if self.shape.k is not None and self.shape.k % self.lanes == 0:
            return None
        return emit.mask_of(self.lanes, arith.subi(self.count, k))

    def column_masks(self, column: ir.Value) -> list[ir.Value | None]:
        """Return for each vector of a panel which of its columns exist; None if all do."""
        if self.shape.n is not None and self.shape.n % self.tile.columns == 0:
            return [None] * self.tile.vectors
        left = arith.subi(self.n, column)
        return [
            emit.mask_of(self.lanes, arith.subi(left, emit.index(v * self.lanes)))
            for v in range(self.tile.vectors)
        ]

    # -- tiles -------------------------------------------------------------------------------------

    def _tile(self, m: ir.Value, rows: int, p: ir.Value) -> None:
        """Build the sums of `rows` rows of one panel over the block of K."""
        column = arith.muli(p, emit.index(self.tile.columns))
        places = [
            (arith.addi(m, emit.index(r)), arith.addi(column, emit.index(v * self.lanes)))
            for r in range(rows)
            for v in range(self.tile.vectors)
        ]
        masks = self.column_masks(column)
        sums = self._starting_sums(places, masks)
        found = self.sums(m, rows, p, sums)
        epilogue = self.shape.epilogue
        if epilogue is None:
            self._store(found, places, masks)
        elif epilogue.is_long:
            self._store(found, places, masks)
            block = (m, arith.addi(m, emit.index(rows)))
            self._after_last(
                lambda: finish_rows(
                    epilogue, self.c, self.extra, self.item, block, column, masks, self.lanes
                )
            )
        else:
            self._store(self._finished(found, places, masks, epilogue), places, masks)

    def sums(
        self, m: ir.Value, rows: int, p: ir.Value, started: Sequence[ir.Value]
    ) -> Sequence[ir.Value]:
        """Build the inner loop; return `started`, row by row, and the products of the block."""

        def step(k: ir.Value, *carried: ir.Value) -> Sequence[ir.Value]:
            weights = self.weights(p, k, ahead=rows <= STREAMED_ROWS)
            totals = []
            for r in range(rows):
                left = self.left(m, r, k)
                for v, weight in enumerate(weights):
                    before = carried[r * self.tile.vectors + v]
                    totals.append(self.accumulate(before, left, weight))
            return totals

        return emit.loop(emit.index(0), self.count, emit.index(1), step, started)

    def _starting_sums(
        self, places: Sequence[tuple[ir.Value, ir.Value]], masks: Sequence[ir.Value | None]
    ) -> list[ir.Value]:
        """Return zeros, or from the second block of K on what the one before left in C."""
        zero = emit.splat(self.lanes, self.f32, 0.0)
        if self.shape.k is not None and self.shape.k <= self.tile.k_block:
            return [zero] * len(places)
        is_first = arith.cmpi(arith.CmpIPredicate.eq, self.kb, emit.index(0))
        choice = scf.IfOp(is_first, [zero.type] * len(places), has_else=True)
        with ir.InsertionPoint(choice.then_block):
            scf.YieldOp([zero] * len(places))
        with ir.InsertionPoint(choice.else_block):
            loaded = [
                emit.load(self.lanes, self.c, self.c_place(row, col), masks[i % len(masks)])
                for i, (row, col) in enumerate(places)
            ]
            scf.YieldOp(loaded)
        return list(choice.results)

    # -- results -----------------------------------------------------------------------------------

    def _store(
        self,
        values: Sequence[ir.Value],
        places: Sequence[tuple[ir.Value, ir.Value]],
        masks: Sequence[ir.Value | None],
    ) -> None:
        for i, (row, col) in enumerate(places):
            emit.store(values[i], self.c, self.c_place(row, col), masks[i % len(masks)])

    def _is_last(self) -> ir.Value | None:
        """Return whether the block of K is the last one; None if there is only one."""
        if self.shape.k is not None and self.shape.k <= self.tile.k_block:
            return None
        end = arith.addi(self.kb, self.count)
        return arith.cmpi(arith.CmpIPredicate.eq, end, self.k)

    def _after_last(self, build: Callable[[], None]) -> None:
        """Build what is done in the last block of K."""
        is_last = self._is_last()
        if is_last is None:
            build()
            return
        with ir.InsertionPoint(scf.IfOp(is_last).then_block):
            build()
            scf.YieldOp([])

    def _finished(
        self,
        sums: Sequence[ir.Value],
        places: Sequence[tuple[ir.Value, ir.Value]],
        masks: Sequence[ir.Value | None],
        epilogue: Epilogue,
    ) -> list[ir.Value]:
        """Return the results of sums in registers; in other blocks of K than the last, the sums."""

        def results() -> list[ir.Value]:
            return [
                epilogue.apply(sums[i], self.extra, [self.item, *place], masks[i % len(masks)])
                for i, place in enumerate(places)
            ]

        is_last = self._is_last()
        if is_last is None:
            return results()
        choice = scf.IfOp(is_last, [value.type for value in sums], has_else=True)
        with ir.InsertionPoint(choice.then_block):
            scf.YieldOp(results())
        with ir.InsertionPoint(choice.else_block):
            scf.YieldOp(list(sums))
        return list(choice.results)
