"""A matmul of added bit patterns (L-Mul, PAM) for CPUs: two additions a product.

The loops, from the outside: workgroups over batches, chunks of rows and groups of panels; blocks of
K; blocks of rows, which are prepared into a scratch buffer; panels of columns; and K, with a tile
of rows x columns of sums in registers::

    for kb in K step k_block:
      for m in rows step tile.rows:
        scratch[r, k] = clamp(|A[m + r, kb + k]|) | sign - C         // a few operations per element
        for p in panels:                                             // packed first if they are not
          for k in k_block:                                          // the inner loop
            b[v] = B[p, kb + k, v]
            sum[r, v] += bitcast(splat(scratch[r, k]) + b[v])

Two port operations per vector of products bound it: half the rate of a fused multiply-add.  Sums of
an output are in the order of k, so that a kernel of any tile gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith, scf, vector

from .. import additive
from ..additive import Addition
from ..formats.floats import F32, FORMATS
from ..formats.lmul import clamp_bounds
from ..formats.stored import StoredFloat
from . import emit
from .executable import Interface
from .tiles import Tile

STREAMED_ROWS = 4  # up to so many rows, B comes from memory faster than it can be used
AHEAD_BYTES = 4096


@dataclass(frozen=True)
class AdditiveMatmul:
    """``C[batch, m, n] = sum over k of A[batch, m, k] (+) B[batch, k, n]``.

    A is f32 as the model has it (`prepares`), or i32 patterns from which the constant was
    subtracted.  B holds panels (:func:`..formats.stored.pack_panels`) of i32 words, or is f32 as
    the model has it (`packs`) and is packed into a scratch buffer, a block of K and a group of
    panels at a time.

    Attributes
    ----------
    batch, m, n, k : int or None
        Sizes; None where they are known only at run time.
    b_batch : bool
        Whether B has a batch of its own; else all batches read one B.
    product : Addition
        What is subtracted, clamped and truncated.
    stored : StoredFloat
        The format in B.
    prepares : bool
        Whether A is still to be prepared.
    packs : bool
        Whether B is still to be prepared and packed.
    tile : Tile
        Register tile, blocks and vector width.
    """

    batch: int | None
    m: int | None
    n: int | None
    k: int | None
    b_batch: bool
    product: Addition
    stored: StoredFloat
    prepares: bool
    tile: Tile
    packs: bool = False

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        sizes = "x".join("d" if s is None else str(s) for s in (self.batch, self.m, self.n, self.k))
        what = f"c{self.product.constant:x}m{self.product.mantissa_bits}"
        flags = "".join(
            letter
            for letter, is_set in (("p", self.prepares), ("b", self.b_batch), ("w", self.packs))
            if is_set
        )
        return f"add_{what}_{self.stored.name}_{sizes}_{self.tile.name}{flags}"

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """(batch, m, n, k)."""
        return (self.batch, self.m, self.n, self.k)

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
        return f"kernel of {lanes}, {self.tile.rows} x {self.tile.columns} sums in registers"

    @property
    def words(self) -> int:
        """Words of i32 in one row of a panel."""
        return self.tile.columns * self.stored.width // 32

    @property
    def subtracted(self) -> int:
        """What a prepared pattern lacks: the constant, less what narrow weights lack themselves."""
        rebias = additive.rebias(self.stored) if self.stored.is_scaled else 0
        return self.product.constant - rebias

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        _Body(self, interface).emit()


class _Body:
    """The function of one kernel while it is being built."""

    def __init__(self, kernel: AdditiveMatmul, interface: Interface) -> None:
        self.kernel, self.tile = kernel, kernel.tile
        self.lanes = kernel.tile.lanes
        self.f32, self.i32 = ir.F32Type.get(), emit.integer(32)
        open_sizes = [size for size in kernel.sizes if size is None]
        numbers = iter([interface.constant(i) for i in range(len(open_sizes))])
        self.batch, self.m, self.n, self.k = (
            next(numbers) if size is None else emit.index(size) for size in kernel.sizes
        )
        self.panels = arith.ceildivui(self.n, emit.index(self.tile.columns))
        self.a = self._buffer(interface, 0, ("batch", "m", "k"))
        if kernel.packs:
            self.b = self._buffer(interface, 1, ("batch" if kernel.b_batch else "one", "k", "n"))
        else:
            self.b = self._panel_buffer(interface)
        self.c = self._buffer(interface, 2, ("batch", "m", "n"))
        self.group, number = interface.workgroup(0), interface.workgroup(1)
        chunks = arith.ceildivui(self.m, emit.index(self.tile.row_chunk))
        self.item, self.chunk = arith.divui(number, chunks), arith.remui(number, chunks)
        self.b_item = self.item if kernel.b_batch else emit.index(0)
        self.scratch = emit.scratch([self.tile.rows, self.tile.k_block], self.i32)
        if kernel.packs:
            shape = [self.tile.panels, self.tile.k_block, self.tile.columns]
            self.packed = emit.scratch(shape, self.i32)

    def _buffer(self, interface: Interface, ordinal: int, dims: Sequence[str]) -> ir.Value:
        shape = [1 if dim == "one" else getattr(self.kernel, dim) for dim in dims]
        opened = [getattr(self, dim) for dim, size in zip(dims, shape, strict=True) if size is None]
        is_input = ordinal < 2
        element = self.i32 if ordinal == 0 and not self.kernel.prepares else self.f32
        known = [ir.ShapedType.get_dynamic_size() if size is None else size for size in shape]
        type_ = emit.buffer_type(known, element)
        return interface.buffer(ordinal, type_, opened, is_input=is_input)

    def _panel_buffer(self, interface: Interface) -> ir.Value:
        kernel, unknown = self.kernel, ir.ShapedType.get_dynamic_size()
        batch = kernel.batch if kernel.b_batch else 1
        panels = None if kernel.n is None else -(-kernel.n // self.tile.columns)
        shape = [batch, panels, kernel.k, kernel.words]
        values = [self.batch, self.panels, self.k]
        opened = [v for v, size in zip(values, shape[:3], strict=True) if size is None]
        known = [unknown if size is None else size for size in shape]
        type_ = emit.buffer_type(known, self.i32)
        return interface.buffer(1, type_, opened, is_input=True)

    # -- loops -------------------------------------------------------------------------------------

    def emit(self) -> None:
        first = arith.muli(self.group, emit.index(self.tile.panels))
        last = arith.minui(arith.addi(first, emit.index(self.tile.panels)), self.panels)
        start = arith.muli(self.chunk, emit.index(self.tile.row_chunk))
        stop = arith.minui(arith.addi(start, emit.index(self.tile.row_chunk)), self.m)

        def block(kb: ir.Value) -> None:
            self.kb = kb
            self.count = arith.minui(arith.subi(self.k, kb), emit.index(self.tile.k_block))
            if self.kernel.packs:
                emit.each(first, last, 1, lambda p: self._pack(p, arith.subi(p, first)))
            self.first = first
            self._rows(start, stop, first, last)

        # A sum of nothing is zero: a K that turns out to be 0 has one block, without products.
        stop_k = self.k if self.kernel.k is not None else arith.maxui(self.k, emit.index(1))
        emit.each(emit.index(0), stop_k, self.tile.k_block, block)

    def _rows(self, start: ir.Value, stop: ir.Value, first: ir.Value, last: ir.Value) -> None:
        """Build one loop per height of row blocks: full ones, then smaller ones for the rest."""
        for rows in self.tile.heights(self.kernel.m):
            left = arith.subi(stop, start)
            full = arith.muli(arith.divui(left, emit.index(rows)), emit.index(rows))
            end = arith.addi(start, full)
            emit.each(start, end, rows, self._row_block(rows, first, last))
            start = end

    def _row_block(self, rows: int, first: ir.Value, last: ir.Value) -> Callable[[ir.Value], None]:
        def block(m: ir.Value) -> None:
            self._prepare(m, rows)
            emit.each(first, last, 1, lambda p: self._tile(m, rows, p))

        return block

    def _prepare(self, m: ir.Value, rows: int) -> None:
        """Fill the scratch buffer with `rows` rows of A, prepared, from the block of K on."""

        def step(k: ir.Value) -> None:
            mask = None
            if self.kernel.k is None or self.kernel.k % self.lanes:
                mask = emit.mask_of(self.lanes, arith.subi(self.count, k))
            for r in range(rows):
                row = arith.addi(m, emit.index(r))
                at = [self.item, row, arith.addi(self.kb, k)]
                value = emit.load(self.lanes, self.a, at, mask)
                emit.store(self._prepared(value), self.scratch, [emit.index(r), k])

        emit.each(emit.index(0), self.count, self.lanes, step)

    def _pack(self, p: ir.Value, place: ir.Value) -> None:
        """Fill the scratch buffer of B with the panel `p`, prepared, from the block of K on."""
        column = arith.muli(p, emit.index(self.tile.columns))
        masks = self._column_masks(column)

        def step(k: ir.Value) -> None:
            row = arith.addi(self.kb, k)
            for v, mask in enumerate(masks):
                lane = emit.index(v * self.lanes)
                at = [self.b_item, row, arith.addi(column, lane)]
                bits = self._clamped(emit.load(self.lanes, self.b, at, mask))
                emit.store(bits, self.packed, [place, k, lane])

        emit.each(emit.index(0), self.count, 1, step)

    def _prepared(self, value: ir.Value) -> ir.Value:
        if self.kernel.prepares:
            return arith.subi(self._clamped(value), self._bits(self.kernel.subtracted))
        less = self.kernel.subtracted - self.kernel.product.constant
        return arith.subi(value, self._bits(less)) if less else value

    def _clamped(self, value: ir.Value) -> ir.Value:
        bits = vector.bitcast(emit.vector_type(self.lanes, self.i32), value)
        low, high = clamp_bounds(F32)
        magnitude = arith.andi(bits, self._bits(F32.magnitude_mask))
        magnitude = arith.minui(arith.maxui(magnitude, self._bits(low)), self._bits(high))
        if self.kernel.product.truncates:
            magnitude = arith.andi(magnitude, self._bits(self.kernel.product.magnitude_mask))
        sign = arith.andi(bits, self._bits(F32.sign_mask))
        return arith.ori(sign, magnitude)

    def _tile(self, m: ir.Value, rows: int, p: ir.Value) -> None:
        """Build the sums of `rows` rows of one panel over the block of K."""
        column = arith.muli(p, emit.index(self.tile.columns))
        places = [
            (arith.addi(m, emit.index(r)), arith.addi(column, emit.index(v * self.lanes)))
            for r in range(rows)
            for v in range(self.tile.vectors)
        ]
        masks = self._column_masks(column)
        sums = self._starting_sums(places, masks)

        def step(k: ir.Value, *carried: ir.Value) -> Sequence[ir.Value]:
            weights = self._weights(p, arith.addi(self.kb, k), ahead=rows <= STREAMED_ROWS)
            totals = []
            for r in range(rows):
                pattern = emit.broadcast_scalar(self.lanes, self.scratch, [emit.index(r), k])
                for v, (bits, is_zero) in enumerate(weights):
                    product = arith.addi(pattern, bits)
                    value = vector.bitcast(emit.vector_type(self.lanes, self.f32), product)
                    before = carried[r * self.tile.vectors + v]
                    total = arith.addf(before, value)
                    if is_zero is not None:  # one masked addition
                        total = arith.select(is_zero, before, total)
                    totals.append(total)
            return totals

        found = emit.loop(emit.index(0), self.count, emit.index(1), step, sums)
        for i, (row, col) in enumerate(places):
            mask = masks[i % self.tile.vectors]
            emit.store(found[i], self.c, [self.item, row, col], mask)

    def _column_masks(self, column: ir.Value) -> list[ir.Value | None]:
        """Return for each vector of a panel which of its columns exist."""
        if self.kernel.n is not None and self.kernel.n % self.tile.columns == 0:
            return [None] * self.tile.vectors
        left = arith.subi(self.n, column)
        return [
            emit.mask_of(self.lanes, arith.subi(left, emit.index(v * self.lanes)))
            for v in range(self.tile.vectors)
        ]

    def _starting_sums(
        self, places: Sequence[tuple[ir.Value, ir.Value]], masks: Sequence[ir.Value | None]
    ) -> list[ir.Value]:
        """Return zeros, or from the second block of K on what the one before left in C."""
        zero = emit.splat(self.lanes, self.f32, 0.0)
        if self.kernel.k is not None and self.kernel.k <= self.tile.k_block:
            return [zero] * len(places)
        is_first = arith.cmpi(arith.CmpIPredicate.eq, self.kb, emit.index(0))
        choice = scf.IfOp(is_first, [zero.type] * len(places), has_else=True)
        with ir.InsertionPoint(choice.then_block):
            scf.YieldOp([zero] * len(places))
        with ir.InsertionPoint(choice.else_block):
            loaded = [
                emit.load(self.lanes, self.c, [self.item, row, col], masks[i % len(masks)])
                for i, (row, col) in enumerate(places)
            ]
            scf.YieldOp(loaded)
        return list(choice.results)

    # -- weights -----------------------------------------------------------------------------------

    def _weights(
        self, p: ir.Value, k: ir.Value, *, ahead: bool
    ) -> list[tuple[ir.Value, ir.Value | None]]:
        """Return the patterns of one row of a panel, and where they stand for zeros (fp8).

        With `ahead`, what is read some rows later is fetched into the cache: few products of each
        weight leave too little work in flight to hide the latency of memory.
        """
        if self.kernel.packs:
            place, inner = arith.subi(p, self.first), arith.subi(k, self.kb)
            lanes = [emit.index(v * self.lanes) for v in range(self.tile.vectors)]
            return [
                (emit.load(self.lanes, self.packed, [place, inner, lane]), None) for lane in lanes
            ]
        ways = 32 // self.kernel.stored.width
        found: list[tuple[ir.Value, ir.Value | None]] = []
        for v in range(self.tile.vectors // ways):
            at = [self.b_item, p, k, emit.index(v * self.lanes)]
            words = emit.load(self.lanes, self.b, at)
            if ahead:
                later = arith.addi(k, emit.index(max(1, AHEAD_BYTES // (4 * self.kernel.words))))
                emit.prefetch(self.b, [self.b_item, p, later, emit.index(v * self.lanes)])
            found += [self._unpacked(words, way) for way in range(ways)]
        return found

    def _unpacked(self, words: ir.Value, way: int) -> tuple[ir.Value, ir.Value | None]:
        """Return the `way`-th narrow weight of each word as an f32 pattern."""
        stored = self.kernel.stored
        if stored.width == 32:
            return words, None
        shift = 32 - stored.width * (way + 1)
        if stored.width == 16:
            if shift:
                return arith.shli(words, self._bits(shift)), None
            return arith.andi(words, self._bits(0xFFFF0000)), None
        fmt = FORMATS[stored.name]
        raised = arith.shli(words, self._bits(shift)) if shift else words
        # The sign moves down with the exponent; its copies above are masked.
        moved = arith.shrsi(raised, self._bits(F32.exponent_bits - fmt.exponent_bits))
        magnitude = fmt.magnitude_mask << (F32.mantissa_bits - fmt.mantissa_bits)
        bits = arith.andi(moved, self._bits(F32.sign_mask | magnitude))
        rest = arith.andi(bits, self._bits(magnitude))
        return bits, arith.cmpi(arith.CmpIPredicate.eq, rest, self._bits(0))

    def _bits(self, pattern: int) -> ir.Value:
        return emit.splat(self.lanes, self.i32, pattern & 0xFFFFFFFF)
