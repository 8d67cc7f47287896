"""A matmul of 8-bit activations and weights of 4 or 8 bits for tensor cores (CUDA, ``mma.sync``).

A warp has ``16 * tall`` rows and ``8 * wide`` columns of sums in registers.  Blocks of K of both
operands are copied to workgroup memory some blocks ahead (``cp.async``)::

    for block in K step depth:
      wait for the block; start to copy the block that is stages - 1 further on
      for part in block:                             // as much of K as four threads read at once
        sum += mma.m16n8k32(A, B)                    // exact, i32
      at the end of a group: total += f32(sum) * scales

The order of k inside of a part is free: the four threads that share a row read neighbouring bytes
of A and of B alike, as they stand in memory.  So rows of records and weights are copied as they are
(:mod:`..formats.gpu_rows`, integer order), and no bank of workgroup memory is read twice at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from iree.compiler import ir
from iree.compiler.dialects import arith, memref, scf, vector

from ..formats import gpu_rows
from . import emit, gpu
from .epilogue import Epilogue
from .executable import Interface
from .gpu_results import Extra
from .integer_few_gpu import codes_of
from .integer_rows_gpu import IntegerRowsGpu
from .mma_tile import SHARING, MmaTile

MMA_K = 32  # products that one instruction adds to a sum


@dataclass(frozen=True)
class IntegerTilesGpu:
    """``C[batch, m, n] = sum over g of D[batch, m, n, g] * scales``, ``D`` exact in i32.

    Bindings: records (:class:`.integer_rows_gpu.IntegerRowsGpu`) ``[batch * m, words]``; codes in
    integer order, scales, and unless symmetric zero points; C.

    Attributes
    ----------
    batch, m, n, k : int or None
        Sizes; m is None where it is known only at run time.
    bits, group : int
        Of the weight; a group of K or more is one scale for a row.
    symmetric, per_group : bool
        Whether no zero points are stored; whether an activation has a scale per group.
    tile : MmaTile
        How it is cut.
    epilogue : Epilogue or None
        What is done to the sums before they are stored; what it reads is bound before C.
    """

    batch: int
    m: int | None
    n: int
    k: int
    bits: int
    group: int
    symmetric: bool
    per_group: bool
    tile: MmaTile
    epilogue: Epilogue | None = field(default=None, kw_only=True)

    @property
    def rows(self) -> IntegerRowsGpu:
        """What rounds the activations."""
        count = None if self.m is None else self.batch * self.m
        return IntegerRowsGpu(count, self.k, self.group, self.per_group, not self.symmetric)

    @property
    def groups(self) -> int:
        """Scales of a row of the weight."""
        return gpu_rows.groups_of(self.k, self.group)

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """(batch, m, n, k)."""
        return (self.batch, self.m, self.n, self.k)

    @property
    def inputs(self) -> int:
        """How many buffers it reads."""
        return (3 if self.symmetric else 4) + (len(self.epilogue.inputs) if self.epilogue else 0)

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        kind = f"i{self.bits}g{self.group}{'' if self.symmetric else 'z'}"
        m = "d" if self.m is None else str(self.m)
        scales = "g" if self.per_group else "r"
        follows = f"_{self.epilogue.name}" if self.epilogue else ""
        return f"mma_{kind}_{self.batch}x{m}x{self.n}x{self.k}_{self.tile.name}{scales}{follows}"

    @property
    def translation(self) -> str:
        """How IREE goes on from the kernel's body."""
        return gpu.translation("ptx", self.threads)

    @property
    def threads(self) -> tuple[int, int, int]:
        """Threads of a workgroup along x, y and z."""
        return (gpu.WARP, self.tile.across, self.tile.down)

    @property
    def shared_bytes(self) -> int:
        """Bytes of workgroup memory."""
        return self.tile.shared_bytes(self.bits)

    @property
    def known_grid(self) -> tuple[int | None, ...]:
        """The workgroups along x, y and z."""
        down = None if self.m is None else -(-self.m // self.tile.rows)
        return (-(-self.n // self.tile.columns), down, self.batch)

    def grid(self, m: ir.Value) -> list[ir.Value]:
        """Return the workgroups along x, y and z, given m."""
        down = arith.ceildivui(m, emit.index(self.tile.rows))
        return [emit.index(self.known_grid[0] or 1), down, emit.index(self.batch)]

    def describe(self) -> str:
        """Say which kernel it is."""
        tile = self.tile
        text = (
            f"integer kernel for GPUs (mma m16n8k32), {tile.rows} x {tile.columns} sums a "
            f"workgroup, {tile.stages} blocks of {tile.depth} of K in its memory"
        )
        return text if self.epilogue is None else f"{text}, {self.epilogue.describe()}"

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        _Body(self, interface).emit()


class _Body:
    """The function of one kernel while it is being built."""

    def __init__(self, kernel: IntegerTilesGpu, interface: Interface) -> None:
        self.kernel, self.tile = kernel, kernel.tile
        self.f32, self.i32 = ir.F32Type.get(), emit.integer(32)
        self.m = interface.constant(0) if kernel.m is None else emit.index(kernel.m)
        self.layout = kernel.rows
        self.whole = kernel.groups == 1
        self.read, self.part = self.tile.read, self.tile.part
        self._bind(interface)
        self.item = interface.workgroup(2)
        self.thread, self.across, self.down = (gpu.thread(axis) for axis in "xyz")
        tile = self.tile
        self.first_row = gpu.scaled(interface.workgroup(1), tile.rows)
        self.first_column = gpu.scaled(interface.workgroup(0), tile.columns)
        self.quarter = arith.remui(self.thread, emit.index(SHARING))
        self.eighth = arith.divui(self.thread, emit.index(SHARING))
        self.records = arith.muli(self.item, self.m)
        self.blocks = self.layout.padded // tile.depth
        parts = tile.depth // self.part
        byte = emit.integer(8)
        self.b_bytes = self.part * kernel.bits // 8
        self.sa = gpu.shared([tile.stages, parts, tile.rows, self.part], byte)
        self.sb = gpu.shared([tile.stages, parts, tile.columns, self.b_bytes], byte)

    def _bind(self, interface: Interface) -> None:
        kernel, layout, byte = self.kernel, self.layout, emit.integer(8)
        count, opened = layout.m, []
        if count is None:
            opened = [arith.muli(self.m, emit.index(kernel.batch))]
        self.a = gpu.buffer(interface, 0, [count, layout.words * 4], byte, opened)
        self.values = gpu.buffer(interface, 0, [count, layout.words], self.i32, opened)
        head = [kernel.batch, kernel.n]
        row = layout.padded * kernel.bits // 8
        self.b = gpu.buffer(interface, 1, [*head, row], byte)
        self.scales = gpu.buffer(interface, 2, [*head, kernel.groups], self.f32)
        if not kernel.symmetric:
            self.zeros = gpu.buffer(interface, 3, [*head, kernel.groups], byte)
        self.lanes = 2 if kernel.n % 2 == 0 else 1
        opened = [self.m] if kernel.m is None else []
        shape = [kernel.batch, kernel.m, kernel.n]
        self.extra: Extra | None = None
        if kernel.epilogue is not None:
            first = kernel.inputs - len(kernel.epilogue.inputs)
            known = dict(zip(("batch", "m", "n"), shape, strict=True))
            self.extra = Extra(kernel.epilogue, interface, first, known, {"m": self.m}, self.lanes)
        self.c = gpu.buffer(
            interface, kernel.inputs, shape, self.f32, opened, lanes=self.lanes, is_input=False
        )

    # -- the walk along K --------------------------------------------------------------------------

    def emit(self) -> None:
        tile, kernel = self.tile, self.kernel
        self.token: ir.Value | None = None
        self._place_copies()
        for block in range(tile.stages - 1):
            self._copy(emit.index(min(block, self.blocks - 1)), emit.index(block))
        self._wait(tile.stages - 2)
        gpu.barrier()
        words = self._load(emit.index(0), 0)
        count = tile.tall * tile.wide * 4
        zero = [gpu.word(0)] * count
        if self.whole:
            sums = self._blocks(emit.index(0), self.blocks, zero, words)[:count]
            self._wait(0)
            self._store(self._whole(sums))
            return
        start = [arith.constant(self.f32, 0.0)] * count
        inner = kernel.group // tile.depth
        if inner > 1:  # a group is several blocks

            def group(g: ir.Value, *carried: ir.Value) -> Sequence[ir.Value]:
                values = self._group_values(g)
                found = self._blocks(gpu.scaled(g, inner), inner, zero, carried[count:])
                totals = self._scaled(values, found[:count], list(carried[:count]))
                return [*totals, *found[count:]]

            totals = emit.loop(
                emit.index(0), emit.index(kernel.groups), emit.index(1), group, [*start, *words]
            )
        else:
            totals = self._blocks(emit.index(0), self.blocks, start, words)
        self._wait(0)
        self._store(list(totals[:count]))

    def _blocks(
        self, first: ir.Value, blocks: int, sums: Sequence[ir.Value], words: Sequence[ir.Value]
    ) -> list[ir.Value]:
        """Walk along some blocks, with sums or totals, and the words that are multiplied next."""
        count = len(sums)

        def step(block: ir.Value, *carried: ir.Value) -> Sequence[ir.Value]:
            return self._block(block, list(carried[:count]), list(carried[count:]))

        last = gpu.add(first, blocks)
        return emit.loop(first, last, emit.index(1), step, [*sums, *words])

    def _block(
        self, block: ir.Value, carried: list[ir.Value], words: list[ir.Value]
    ) -> list[ir.Value]:
        """Return sums with those of a block; or totals, where a group is no longer than a block.

        The words of a part are loaded while the part before it is multiplied.
        """
        tile, kernel = self.tile, self.kernel
        stages, parts = emit.index(tile.stages), tile.depth // self.part
        following = gpu.add(block, tile.stages - 1)
        self._copy(
            arith.minui(following, emit.index(self.blocks - 1)), arith.remui(following, stages)
        )
        stage = arith.remui(block, stages)
        scales = not self.whole and kernel.group <= tile.depth
        each = kernel.group // self.part if scales else parts
        values: tuple[list[ir.Value], ...] = ()
        sums = carried
        for part in range(parts):
            if scales and part % each == 0:
                number = gpu.scaled(block, parts // each)
                values = self._group_values(gpu.add(number, part // each))
                sums = [gpu.word(0)] * len(carried)
            if part + 1 < parts:
                ahead = self._load(stage, part + 1)
            else:
                self._wait(tile.stages - 2)
                gpu.barrier()
                ahead = self._load(arith.remui(gpu.add(block, 1), stages), 0)
            sums = self._products(words, sums)
            words = ahead
            if scales and (part + 1) % each == 0:
                carried = self._scaled(values, sums, carried)
        return [*(carried if scales else sums), *words]

    # -- copies ------------------------------------------------------------------------------------

    def _place_copies(self) -> None:
        """Say once where this thread's 16-byte pieces of a block of A and of B are."""
        tile, kernel = self.tile, self.kernel
        threads = tile.warps * gpu.WARP
        number = arith.addi(gpu.scaled(self.down, tile.across), self.across)
        number = arith.addi(gpu.scaled(number, gpu.WARP), self.thread)
        last_row = arith.subi(self.m, emit.index(1))
        last_column = emit.index(kernel.n - 1)
        b_depth = tile.depth * kernel.bits // 8
        self.copies = []
        for is_a, rows, length, part in (
            (True, tile.rows, tile.depth, self.part),
            (False, tile.columns, b_depth, self.b_bytes),
        ):
            pieces = length // gpu_rows.PIECE
            for i in range(rows * pieces // threads):
                at = gpu.add(number, i * threads)
                row, piece = (op(at, emit.index(pieces)) for op in (arith.divui, arith.remui))
                byte = gpu.scaled(piece, gpu_rows.PIECE)
                to = [arith.divui(byte, emit.index(part)), row, arith.remui(byte, emit.index(part))]
                if is_a:
                    own = arith.minui(arith.addi(self.first_row, row), last_row)
                    head = [arith.addi(self.records, own)]
                else:
                    own = arith.minui(arith.addi(self.first_column, row), last_column)
                    head = [self.item, own]
                self.copies.append((is_a, head, byte, length, to))

    def _copy(self, block: ir.Value, stage: ir.Value) -> None:
        """Start to copy a block."""
        tokens = []
        for is_a, head, byte, length, to in self.copies:
            source, target = (self.a, self.sa) if is_a else (self.b, self.sb)
            at = arith.addi(gpu.scaled(block, length), byte)
            place = [stage, *to]
            tokens.append(gpu.copy_ahead(source, [*head, at], target, place, gpu_rows.PIECE))
        token = gpu.close_copies(tokens)
        # A wait counts groups; the token that it takes only has to be one that is known everywhere.
        self.token = self.token or token

    def _wait(self, pending: int) -> None:
        gpu.wait_for_copies(self.token, pending)

    # -- products ----------------------------------------------------------------------------------

    def _load(self, stage: ir.Value, part: int) -> list[ir.Value]:
        """Load this thread's words of a part of a block: of A, then of B."""
        tile, found = self.tile, []
        rows = arith.addi(gpu.scaled(self.down, 16 * tile.tall), self.eighth)
        own = gpu.scaled(self.quarter, self.read)
        for half in range(2 * tile.tall):
            found += self._words(self.sa, stage, part, gpu.add(rows, 8 * half), own, self.read)
        columns = arith.addi(gpu.scaled(self.across, 8 * tile.wide), self.eighth)
        count = self.read * self.kernel.bits // 8
        own = gpu.scaled(self.quarter, count)
        for w in range(tile.wide):
            found += self._words(self.sb, stage, part, gpu.add(columns, 8 * w), own, count)
        return found

    def _products(self, words: Sequence[ir.Value], sums: list[ir.Value]) -> list[ir.Value]:
        """Add the products of a part, whose words :meth:`_load` loaded."""
        tile, found = self.tile, list(sums)
        per_half = self.read // 4
        halves = [words[i * per_half : (i + 1) * per_half] for i in range(2 * tile.tall)]
        rest, per_column = words[2 * tile.tall * per_half :], per_half * self.kernel.bits // 8
        columns = [rest[w * per_column : (w + 1) * per_column] for w in range(tile.wide)]
        bits, symmetric = self.kernel.bits, self.kernel.symmetric
        right = [codes_of(own, bits, symmetric=symmetric) for own in columns]
        for step in range(self.part // MMA_K):
            for t in range(tile.tall):
                upper, lower = halves[2 * t : 2 * t + 2]
                a = [upper[2 * step], lower[2 * step], upper[2 * step + 1], lower[2 * step + 1]]
                for w, quads in enumerate(right):
                    at = (t * tile.wide + w) * 4
                    b = quads[2 * step : 2 * step + 2]
                    found[at : at + 4] = self._mma(a, b, found[at : at + 4])
        return found

    def _words(
        self,
        source: ir.Value,
        stage: ir.Value,
        part: int,
        row: ir.Value,
        byte: ir.Value,
        count: int,
    ) -> list[ir.Value]:
        """Load `count` bytes of a row as words."""
        at = [stage, emit.index(part), row, byte]
        loaded = vector.load(emit.vector_type(count, emit.integer(8)), source, at, alignment=count)
        words = vector.bitcast(emit.vector_type(count // 4, self.i32), loaded)
        return gpu.lanes_of(words)

    def _mma(
        self, a: Sequence[ir.Value], b: Sequence[ir.Value], c: Sequence[ir.Value]
    ) -> list[ir.Value]:
        unsigned = self.kernel.bits == 8 and not self.kernel.symmetric
        name = "llvm.nvvm.mma.m16n8k32.row.col.s8" + (".u8" if unsigned else "")
        struct = ir.Type.parse("!llvm.struct<(i32, i32, i32, i32)>")
        result = emit.intrinsic(name, [*a, *b, *c], struct)
        return [
            ir.Operation.create(
                "llvm.extractvalue", results=[self.i32], operands=[result],
                attributes={"position": ir.DenseI64ArrayAttr.get([i])},
            ).result
            for i in range(4)
        ]  # fmt: skip

    # -- scales and results ------------------------------------------------------------------------

    def _row(self, t: int, half: int) -> ir.Value:
        """Return the number of a row of this thread's sums."""
        own = arith.addi(gpu.scaled(self.down, 16 * self.tile.tall), self.eighth)
        return arith.addi(self.first_row, gpu.add(own, 16 * t + 8 * half))

    def _column(self, w: int, place: int) -> ir.Value:
        own = arith.addi(gpu.scaled(self.across, 8 * self.tile.wide), gpu.scaled(self.quarter, 2))
        return arith.addi(self.first_column, gpu.add(own, 8 * w + place))

    def _group_values(self, g: ir.Value) -> tuple[list[ir.Value], ...]:
        """Load the scales of rows and columns of a group, and what zero points need."""
        tile, kernel = self.tile, self.kernel
        last = emit.index(kernel.n - 1)
        columns = [self._column(w, p) for w in range(tile.wide) for p in range(2)]
        at = [[self.item, arith.minui(column, last), g] for column in columns]
        factor = 1 / 16 if kernel.bits == 4 and kernel.symmetric else 1.0
        scales = [memref.load(self.scales, place) for place in at]
        if factor != 1:
            constant = arith.constant(self.f32, factor)
            scales = [arith.mulf(scale, constant) for scale in scales]
        zeros, sums, of_rows = [], [], []
        if kernel.per_group:
            of_rows = [self._of_row(t, h, g, self.layout.first_scale) for t, h in self._halves()]
            of_rows = [arith.bitcast(self.f32, value) for value in of_rows]
        if not kernel.symmetric:
            zeros = [arith.extui(self.i32, memref.load(self.zeros, place)) for place in at]
            sums = [self._of_row(t, h, g, self.layout.first_sum) for t, h in self._halves()]
        return scales, of_rows, zeros, sums

    def _halves(self) -> list[tuple[int, int]]:
        return [(t, half) for t in range(self.tile.tall) for half in range(2)]

    def _of_row(self, t: int, half: int, number: ir.Value, first: int) -> ir.Value:
        last = arith.subi(self.m, emit.index(1))
        row = arith.addi(self.records, arith.minui(self._row(t, half), last))
        return memref.load(self.values, [row, gpu.add(number, first)])

    def _scaled(
        self, values: tuple[list[ir.Value], ...], sums: Sequence[ir.Value], totals: list[ir.Value]
    ) -> list[ir.Value]:
        """Return `totals` with the sums of a group, each times its scales."""
        found = zip(self._with_scales(values, sums), totals, strict=True)
        return [emit.multiply_add(value, scale, total) for (value, scale), total in found]

    def _with_scales(
        self, values: tuple[list[ir.Value], ...], sums: Sequence[ir.Value]
    ) -> Iterator[tuple[ir.Value, ir.Value]]:
        """Yield the sums of a group as f32, less zero points, and what each is to be scaled by."""
        scales, of_rows, zeros, negated = values
        for i, value in enumerate(sums):
            row, column = self._place(i)
            exact = value
            if zeros:
                exact = arith.addi(exact, arith.muli(zeros[column], negated[row]))
            scale = scales[column]
            if of_rows:
                scale = arith.mulf(scale, of_rows[row])
            yield arith.sitofp(self.f32, exact), scale

    def _place(self, i: int) -> tuple[int, int]:
        """Return the numbers of the row and the column of sum `i` among this thread's."""
        block, element = divmod(i, 4)
        t, w = divmod(block, self.tile.wide)
        return 2 * t + element // 2, 2 * w + element % 2

    def _whole(self, sums: Sequence[ir.Value]) -> list[ir.Value]:
        """Return the sums of the only group, each times its scales."""
        values = self._group_values(emit.index(0))
        return [arith.mulf(value, scale) for value, scale in self._with_scales(values, sums)]

    def _store(self, sums: list[ir.Value]) -> None:
        """Store the results of totals."""
        tile, kernel = self.tile, self.kernel
        if not kernel.per_group:
            rows = [
                arith.bitcast(self.f32, self._of_row(t, h, emit.index(0), self.layout.first_scale))
                for t, h in self._halves()
            ]
            sums = [arith.mulf(value, rows[self._place(i)[0]]) for i, value in enumerate(sums)]
        extra = self.extra
        is_apart = extra is not None and extra.epilogue.is_long
        for t, half in self._halves():
            row = self._row(t, half)
            with gpu.when(arith.cmpi(arith.CmpIPredicate.ult, row, self.m)):
                for w in range(tile.wide):
                    first = (t * tile.wide + w) * 4 + 2 * half
                    self._store_pair(sums[first : first + 2], row, w, None if is_apart else extra)
                scf.YieldOp([])
        if extra is not None and is_apart:
            # Once for a row, in a loop that reads what this thread has just stored.
            first_row = self._row(0, 0)
            end = arith.minui(gpu.add(first_row, 16 * tile.tall), self.m)
            emit.each(first_row, end, 8, lambda row: self._finish(row, extra))

    def _store_pair(
        self, pair: Sequence[ir.Value], row: ir.Value, w: int, extra: Extra | None
    ) -> None:
        for at, i in self._existing(row, w):
            value = pair[i]
            if self.lanes == 2:
                value = vector.from_elements(emit.vector_type(2, self.f32), list(pair))
            memref.store(value if extra is None else extra.apply(value, at), self.c, at)

    def _finish(self, row: ir.Value, extra: Extra) -> None:
        for w in range(self.tile.wide):
            for at, _ in self._existing(row, w):
                memref.store(extra.apply(memref.load(self.c, at), at), self.c, at)

    def _existing(self, row: ir.Value, w: int) -> Iterator[tuple[list[ir.Value], int]]:
        """Yield the places of a pair's sums, one or both at once, inside of "if it exists"."""
        end = emit.index(self.kernel.n)
        for i in range(0, 2, self.lanes):
            column = self._column(w, i)
            with gpu.when(arith.cmpi(arith.CmpIPredicate.ult, column, end)):
                at = column if self.lanes == 1 else arith.divui(column, emit.index(2))
                yield [self.item, row, at], i
                scf.YieldOp([])
