"""A matmul of added bit patterns (L-Mul, PAM) for GPUs, with tiles in workgroup memory.

A workgroup holds ``down * rows`` rows and ``across * vectors * 4`` columns.  Blocks of K of both
operands stand in workgroup memory, in two copies: while one is added up the other is filled::

    for block in K step depth:
      next A and B block: loaded into registers
      for k in block:
        sum[r, v] += bitcast(A[k, r] + B[k, v])        // rows * vectors * 4 sums of a thread
      next block: stored into the other copy
      barrier

The sums of an output are in the order of k, as those of the CPU's kernel; what K leaves of the last
block is added up without workgroup memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith, memref, scf, vector

from ..additive import Addition
from . import emit, gpu
from .additive_matmul_gpu import AddedGpu, ThreadTile, choose_tile
from .epilogue import Epilogue
from .executable import Interface
from .gpu_results import Results

LANES = 4
PAD = 4  # words of a row of A in workgroup memory: neighbours in K are in other banks


@dataclass(frozen=True)
class SharedTile:
    """Sums of a thread, ``rows`` x ``vectors`` of four; threads; values of K in a block."""

    rows: int
    vectors: int
    down: int
    across: int
    depth: int

    lanes = 1  # weights of a panel stand in the order of their columns

    @property
    def columns(self) -> int:
        """Columns of a panel, which one workgroup covers."""
        return self.across * self.vectors * LANES

    @property
    def height(self) -> int:
        """Rows that one workgroup covers."""
        return self.down * self.rows

    @property
    def threads(self) -> int:
        """Threads of a workgroup."""
        return self.down * self.across

    @property
    def shared_bytes(self) -> int:
        """Bytes of workgroup memory."""
        return 2 * self.depth * (self.height + PAD + self.columns) * 4

    @property
    def name(self) -> str:
        """The tile in a symbol, and in the attribute ``lowc.tile``."""
        return f"b{self.rows}x{self.vectors * LANES}w{self.down}x{self.across}k{self.depth}"


@dataclass(frozen=True)
class AdditiveTilesGpu(AddedGpu):
    """``C[batch, m, n] = sum over k of A[batch, m, k] (+) B[batch, k, n]``.

    A holds i32 patterns from which the constant was subtracted, B panels of i32 patterns
    (:func:`..formats.stored.pack_panels`).  Attributes are those of
    :class:`.additive_matmul_gpu.AdditiveMatmulGpu`, but for the tile.
    """

    batch: int | None
    m: int | None
    n: int | None
    k: int | None
    b_batch: bool
    product: Addition
    dialect: str
    tile: SharedTile
    epilogue: Epilogue | None = None

    @property
    def translation(self) -> str:
        """How IREE goes on from the kernel's body."""
        return gpu.translation(self.dialect, self.threads)

    @property
    def threads(self) -> tuple[int, int, int]:
        """Threads of a workgroup along x, y and z."""
        return (self.tile.across, self.tile.down, 1)

    @property
    def shared_bytes(self) -> int:
        """Bytes of workgroup memory."""
        return self.tile.shared_bytes

    @property
    def known_grid(self) -> tuple[int | None, ...]:
        """The workgroups along x, y and z, as :meth:`grid` counts them; None at run time only."""
        across = None if self.n is None else -(-self.n // self.tile.columns)
        down = None if self.m is None else -(-self.m // self.tile.height)
        return (across, down, self.batch)

    def grid(self, sizes: dict[str, ir.Value]) -> list[ir.Value]:
        """Return the workgroups along x, y and z, given batch, m, n and k."""
        across = arith.ceildivui(sizes["n"], emit.index(self.tile.columns))
        down = arith.ceildivui(sizes["m"], emit.index(self.tile.height))
        return [across, down, sizes["batch"]]

    def describe(self) -> str:
        """Say which kernel it is."""
        tile = self.tile
        return self.said(
            f"kernel for GPUs, {tile.rows} x {tile.vectors * LANES} sums a thread, "
            f"{tile.height} x {tile.columns} a workgroup with {tile.depth} of K in its memory"
        )

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        _Body(self, interface).emit()


class _Body:
    """The function of one kernel while it is being built."""

    def __init__(self, kernel: AdditiveTilesGpu, interface: Interface) -> None:
        self.kernel, self.tile = kernel, kernel.tile
        self.f32, self.i32 = ir.F32Type.get(), emit.integer(32)
        self.four = emit.vector_type(LANES, self.i32)
        opened = sum(size is None for size in kernel.sizes)
        numbers = iter([interface.constant(i) for i in range(opened)])
        self.batch, self.m, self.n, self.k = (
            next(numbers) if size is None else emit.index(size) for size in kernel.sizes
        )
        tile = kernel.tile
        # Vectors of four where a row is a whole number of them.
        self.step = LANES if kernel.k is not None and kernel.k % LANES == 0 else 1
        self.a = self._buffer(interface, 0, ("batch", "m", "k"), self.step, self.i32)
        panels = None if kernel.n is None else -(-kernel.n // tile.columns)
        counted = arith.ceildivui(self.n, emit.index(tile.columns))
        shape = [kernel.batch if kernel.b_batch else 1, panels, kernel.k, tile.columns]
        values = [self.batch, counted, self.k]
        unknown = [v for v, size in zip(values, shape, strict=False) if size is None]
        self.b = gpu.buffer(interface, 1, shape, self.i32, unknown, lanes=LANES)
        sizes = {"batch": self.batch, "m": self.m, "n": self.n}
        self.results = Results(kernel, interface, 2, sizes)
        self.panel, self.block, self.item = (interface.workgroup(axis) for axis in range(3))
        self.b_item = self.item if kernel.b_batch else emit.index(0)
        self.across, self.down = gpu.thread("x"), gpu.thread("y")
        self.thread = arith.addi(gpu.scaled(self.down, tile.across), self.across)
        self.first = gpu.scaled(self.block, tile.height)
        self.last = arith.subi(self.m, emit.index(1))
        self.sa = gpu.shared([2, tile.depth, tile.height + PAD], self.i32)
        self.sb = gpu.shared([2, tile.depth, tile.columns // LANES], self.four)

    def _buffer(
        self, interface: Interface, ordinal: int, dims: Sequence[str], width: int, scalar: ir.Type
    ) -> ir.Value:
        shape = [getattr(self.kernel, dim) for dim in dims]
        opened = [getattr(self, dim) for dim, size in zip(dims, shape, strict=True) if size is None]
        return gpu.buffer(
            interface, ordinal, shape, scalar, opened, lanes=width, is_input=ordinal == 0
        )

    def emit(self) -> None:
        tile = self.tile
        depth = emit.index(tile.depth)
        whole = arith.muli(arith.divui(self.k, depth), depth)
        zero = emit.splat(LANES, self.f32, 0.0)
        sums: list[ir.Value] = [zero] * (tile.rows * tile.vectors)
        has_block = arith.cmpi(arith.CmpIPredicate.ugt, whole, emit.index(0))
        with gpu.when(has_block):
            self._fill(emit.index(0), self._fetch(emit.index(0)))
            scf.YieldOp([])
        gpu.barrier()
        final = arith.subi(arith.maxui(whole, depth), depth)

        def block(k: ir.Value, *carried: ir.Value) -> Sequence[ir.Value]:
            copy = arith.remui(arith.divui(k, depth), emit.index(2))
            following = self._fetch(arith.minui(arith.addi(k, depth), final))
            found = self._products(copy, carried)
            self._fill(arith.subi(emit.index(1), copy), following)
            gpu.barrier()
            return found

        sums = emit.loop(emit.index(0), whole, depth, block, sums)
        if self.kernel.k is None or self.kernel.k % tile.depth:
            sums = emit.loop(whole, self.k, emit.index(1), self._one, sums)
        self._store(sums)

    # -- blocks of K -------------------------------------------------------------------------------

    def _fetch(self, k: ir.Value) -> list[ir.Value]:
        """Load this thread's part of the blocks at `k`: vectors along K of A, along N of B."""
        tile, found = self.tile, []
        for row, at in self._parts(tile.height, tile.depth // self.step):
            place = arith.minui(arith.addi(self.first, row), self.last)
            start = k if self.step == 1 else arith.divui(k, emit.index(self.step))
            found.append(memref.load(self.a, [self.item, place, arith.addi(start, at)]))
        for row, at in self._parts(tile.depth, tile.columns // LANES):
            place = arith.addi(k, row)
            found.append(memref.load(self.b, [self.b_item, self.panel, place, at]))
        return found

    def _fill(self, copy: ir.Value, values: Sequence[ir.Value]) -> None:
        """Store what :meth:`_fetch` loaded into workgroup memory, A with K outermost."""
        tile, rest = self.tile, iter(values)
        for row, at in self._parts(tile.height, tile.depth // self.step):
            loaded = next(rest)
            scalars = [loaded] if self.step == 1 else gpu.lanes_of(loaded)
            for j, scalar in enumerate(scalars):
                place = gpu.add(gpu.scaled(at, self.step), j)
                memref.store(scalar, self.sa, [copy, place, row])
        for row, at in self._parts(tile.depth, tile.columns // LANES):
            memref.store(next(rest), self.sb, [copy, row, at])

    def _parts(self, rows: int, columns: int) -> list[tuple[ir.Value, ir.Value]]:
        """Return the places of this thread among rows x columns, which all threads share."""
        threads = self.tile.threads
        found = []
        for i in range(rows * columns // threads):
            number = gpu.add(self.thread, i * threads)
            size = emit.index(columns)
            found.append((arith.divui(number, size), arith.remui(number, size)))
        return found

    def _products(self, copy: ir.Value, carried: Sequence[ir.Value]) -> list[ir.Value]:
        """Add the products of a block to the sums."""
        tile, totals = self.tile, list(carried)
        first = gpu.scaled(self.down, tile.rows)
        for j in range(tile.depth):
            inner = emit.index(j)
            # Neighbours: LLVM makes loads of four of them.
            places = [[copy, inner, gpu.add(first, r)] for r in range(tile.rows)]
            left = [memref.load(self.sa, place) for place in places]
            columns = [self._column(v) for v in range(tile.vectors)]
            right = [memref.load(self.sb, [copy, inner, column]) for column in columns]
            self._add(left, right, totals)
        return totals

    def _one(self, k: ir.Value, *carried: ir.Value) -> list[ir.Value]:
        """Add the products of one value of K, from the operands themselves."""
        totals = list(carried)
        at = k if self.step == 1 else arith.divui(k, emit.index(self.step))
        left = []
        for r in range(self.tile.rows):
            loaded = memref.load(self.a, [self.item, arith.minui(self._row(r), self.last), at])
            if self.step > 1:
                lane = arith.remui(k, emit.index(self.step))
                loaded = vector.extract(loaded, [lane], [ir.ShapedType.get_dynamic_size()])
            left.append(loaded)
        right = [
            memref.load(self.b, [self.b_item, self.panel, k, self._column(v)])
            for v in range(self.tile.vectors)
        ]
        self._add(left, right, totals)
        return totals

    def _add(
        self, left: Sequence[ir.Value], right: Sequence[ir.Value], totals: list[ir.Value]
    ) -> None:
        floats = emit.vector_type(LANES, self.f32)
        for r, scalar in enumerate(left):
            splat = vector.broadcast(self.four, scalar)
            for v, weight in enumerate(right):
                i = r * len(right) + v
                value = vector.bitcast(floats, arith.addi(splat, weight))
                totals[i] = arith.addf(totals[i], value)

    # -- results -----------------------------------------------------------------------------------

    def _row(self, r: int) -> ir.Value:
        return arith.addi(self.first, gpu.add(gpu.scaled(self.down, self.tile.rows), r))

    def _column(self, v: int) -> ir.Value:
        """Return the number of a vector of columns in the panel."""
        return gpu.add(self.across, v * self.tile.across)

    def _store(self, totals: Sequence[ir.Value]) -> None:
        tile = self.tile
        start = gpu.scaled(self.panel, tile.columns // LANES)
        columns = [arith.addi(start, self._column(v)) for v in range(tile.vectors)]
        rows = [self._row(r) for r in range(tile.rows)]
        self.results.store(totals, self.item, rows, columns)


def misfit(k: int | None, tile: SharedTile) -> str:
    """Say why the threads of `tile` cannot share the copies; "" if they can."""
    step = LANES if k is not None and k % LANES == 0 else 1
    for parts in (tile.height * tile.depth // step, tile.depth * tile.columns // LANES):
        if parts % tile.threads:
            return "its threads cannot share the copies"
    return ""


def choose(dialect: str, m: int | None, n: int | None, k: int | None) -> SharedTile | ThreadTile:
    """Return the tile that lowc takes without a model, for a shape.

    Through Vulkan it has no workgroup memory: of software devices a barrier takes long.
    """
    tile = SharedTile(8, 2, 8, 16, 16)
    is_large = (m is None or m >= tile.height // 2) and (n is None or n >= tile.columns // 2)
    if dialect != "ptx" or not is_large or misfit(k, tile):
        return choose_tile(m, n)
    return tile
