"""A matmul of added bit patterns (L-Mul, PAM) for GPUs, through Vulkan or CUDA.

Each thread holds a tile of sums, `rows` by `vectors` vectors of four columns, and walks along K;
a workgroup of 8 x 8 threads covers one panel of columns.  Neighbouring threads read neighbouring
columns, and every pattern of A that a thread loads meets all its columns::

    for k in K step 4:
      a[r] = A[row + r, k : k + 4]
      for j in 4, v in vectors:
        b = B[panel, k + j, column(v) : column(v) + 4]
        sum[r, v] += bitcast(splat(a[r][j]) + b)

The sums of an output are in the order of k, as those of the CPU's kernel.

Workgroups are panels along x, blocks of rows along y, and batches along z; a GPU starts at most
65535 along each.  A size that is known only at run time is not checked, and must not need more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith, memref, vector

from ..additive import Addition
from ..formats.stored import STORED, StoredFloat
from . import emit, gpu
from .epilogue import Epilogue
from .executable import Interface
from .gpu_results import Results

SIDE = 8  # threads of a workgroup along columns, and along rows
LANES = 4


@dataclass(frozen=True)
class ThreadTile:
    """The sums of one thread: `rows` x (`vectors` of four columns)."""

    rows: int
    vectors: int

    lanes = 1  # weights of a panel stand in the order of their columns

    @property
    def columns(self) -> int:
        """Columns of a panel, which one workgroup covers."""
        return SIDE * self.vectors * LANES

    @property
    def name(self) -> str:
        """The tile in a symbol."""
        return f"t{self.rows}x{self.vectors * LANES}"


class AddedGpu:
    """What kernels of added products for GPUs have in common: their name, sizes and formats."""

    batch: int | None
    m: int | None
    n: int | None
    k: int | None
    b_batch: bool
    dialect: str
    tile: Any
    epilogue: Epilogue | None

    prepares = False
    packs = False

    @property
    def stored(self) -> StoredFloat:
        """The format in B."""
        return STORED["f32"]

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        sizes = "x".join("d" if s is None else str(s) for s in self.sizes)
        follows = f"_{self.epilogue.name}" if self.epilogue else ""
        batches = "b" if self.b_batch else ""
        return f"add_{self.dialect}_{sizes}_{self.tile.name}{batches}{follows}"

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """(batch, m, n, k)."""
        return (self.batch, self.m, self.n, self.k)

    def said(self, tile: str) -> str:
        """Say which kernel it is, given what is said of its tile."""
        most = "" if self.batch is not None else f", for at most {gpu.MAX_WORKGROUPS} batches"
        return f"{tile}{most}" + (f", {self.epilogue.describe()}" if self.epilogue else "")


@dataclass(frozen=True)
class AdditiveMatmulGpu(AddedGpu):
    """``C[batch, m, n] = sum over k of A[batch, m, k] (+) B[batch, k, n]``.

    A holds i32 patterns from which the constant was subtracted, B panels of i32 patterns
    (:func:`..formats.stored.pack_panels`).

    Attributes
    ----------
    batch, m, n, k : int or None
        Sizes; None where they are known only at run time.
    b_batch : bool
        Whether B has a batch of its own; else all batches read one B.
    product : Addition
        What was subtracted and truncated; here it only names the kernel.
    dialect : str
        ``spirv`` (Vulkan) or ``ptx`` (CUDA).
    tile : ThreadTile
        The sums of one thread.
    epilogue : Epilogue or None
        What is done to the sums before they are stored.
    """

    batch: int | None
    m: int | None
    n: int | None
    k: int | None
    b_batch: bool
    product: Addition
    dialect: str
    tile: ThreadTile
    epilogue: Epilogue | None = None

    @property
    def translation(self) -> str:
        """How IREE goes on from the kernel's body."""
        pipeline = gpu.PIPELINES[self.dialect]
        size = f"workgroup_size = [{SIDE}, {SIDE}, 1]"
        return f"#iree_codegen.translation_info<pipeline = {pipeline} {size}>"

    @property
    def threads(self) -> tuple[int, int, int]:
        """Threads of a workgroup along x, y and z."""
        return (SIDE, SIDE, 1)

    @property
    def shared_bytes(self) -> int:
        """Bytes of workgroup memory."""
        return 0

    @property
    def known_grid(self) -> tuple[int | None, ...]:
        """The workgroups along x, y and z, as :meth:`grid` counts them; None at run time only."""
        across = None if self.n is None else -(-self.n // self.tile.columns)
        down = None if self.m is None else -(-self.m // (self.tile.rows * SIDE))
        return (across, down, self.batch)

    def grid(self, sizes: dict[str, ir.Value]) -> list[ir.Value]:
        """Return the workgroups along x, y and z, given batch, m, n and k."""
        across = arith.ceildivui(sizes["n"], emit.index(self.tile.columns))
        down = arith.ceildivui(sizes["m"], emit.index(self.tile.rows * SIDE))
        return [across, down, sizes["batch"]]

    def describe(self) -> str:
        """Say which kernel it is."""
        tile = self.tile
        return self.said(f"kernel for GPUs, {tile.rows} x {tile.vectors * LANES} sums a thread")

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        _Body(self, interface).emit()


class _Body:
    """The function of one kernel while it is being built."""

    def __init__(self, kernel: AdditiveMatmulGpu, interface: Interface) -> None:
        self.kernel, self.tile = kernel, kernel.tile
        self.f32, self.i32 = ir.F32Type.get(), emit.integer(32)
        self.space = ir.Attribute.parse("#hal.descriptor_type<storage_buffer>")
        opened = sum(size is None for size in kernel.sizes)
        numbers = iter([interface.constant(i) for i in range(opened)])
        self.batch, self.m, self.n, self.k = (
            next(numbers) if size is None else emit.index(size) for size in kernel.sizes
        )
        self.panels = arith.ceildivui(self.n, emit.index(self.tile.columns))
        four = emit.vector_type(LANES, self.i32)
        # Vectors of four where a row is a whole number of them.
        self.step = LANES if kernel.k is not None and kernel.k % LANES == 0 else 1
        self.a = self._buffer(interface, 0, ("batch", "m", "k"), self.step, self.i32)
        self.b = self._panels(interface, four)
        sizes = {"batch": self.batch, "m": self.m, "n": self.n}
        self.results = Results(kernel, interface, 2, sizes)
        self.panel, self.block, self.item = (interface.workgroup(axis) for axis in range(3))
        self.b_item = self.item if kernel.b_batch else emit.index(0)

    def _buffer(
        self, interface: Interface, ordinal: int, dims: Sequence[str], width: int, scalar: ir.Type
    ) -> ir.Value:
        """Return a binding whose last dimension is counted in vectors of `width`."""
        shape = [getattr(self.kernel, dim) for dim in dims]
        opened = [getattr(self, dim) for dim, size in zip(dims, shape, strict=True) if size is None]
        element = scalar if width == 1 else emit.vector_type(width, scalar)
        known = [ir.ShapedType.get_dynamic_size() if size is None else size for size in shape]
        if width > 1:
            known[-1] //= width
        type_ = ir.MemRefType.get(known, element, memory_space=self.space)
        return interface.buffer(ordinal, type_, opened, is_input=ordinal == 0)

    def _panels(self, interface: Interface, four: ir.Type) -> ir.Value:
        kernel, unknown = self.kernel, ir.ShapedType.get_dynamic_size()
        panels = None if kernel.n is None else -(-kernel.n // self.tile.columns)
        shape = [kernel.batch if kernel.b_batch else 1, panels, kernel.k]
        values = [self.batch, self.panels, self.k]
        opened = [v for v, size in zip(values, shape, strict=True) if size is None]
        known = [unknown if size is None else size for size in shape]
        vectors = self.tile.columns // LANES
        type_ = ir.MemRefType.get([*known, vectors], four, memory_space=self.space)
        return interface.buffer(1, type_, opened, is_input=True)

    def emit(self) -> None:
        across, down = (gpu.thread(axis) for axis in ("x", "y"))
        first = arith.muli(
            arith.addi(arith.muli(self.block, emit.index(SIDE)), down), emit.index(self.tile.rows)
        )
        rows = [arith.addi(first, emit.index(r)) for r in range(self.tile.rows)]
        last = arith.subi(self.m, emit.index(1))
        # Rows beyond the last one read it again, and are not stored.
        readable = [arith.minui(row, last) for row in rows]
        places = [arith.addi(across, emit.index(v * SIDE)) for v in range(self.tile.vectors)]
        zero = emit.splat(LANES, self.f32, 0.0)
        sums = [zero] * (len(rows) * len(places))

        def step(k: ir.Value, *carried: ir.Value) -> Sequence[ir.Value]:
            return self._products(k, readable, places, carried)

        totals = emit.loop(emit.index(0), self.k, emit.index(self.step), step, sums)
        start = gpu.scaled(self.panel, self.tile.columns // LANES)
        columns = [arith.addi(start, place) for place in places]
        self.results.store(totals, self.item, rows, columns)

    def _products(
        self,
        k: ir.Value,
        rows: Sequence[ir.Value],
        places: Sequence[ir.Value],
        carried: Sequence[ir.Value],
    ) -> list[ir.Value]:
        """Add the products of `step` values of K to the sums."""
        totals, four = list(carried), emit.vector_type(LANES, self.f32)
        at = k if self.step == 1 else arith.divui(k, emit.index(self.step))
        patterns = [memref.load(self.a, [self.item, row, at]) for row in rows]
        for j in range(self.step):
            inner = arith.addi(k, emit.index(j))
            weights = [memref.load(self.b, [self.b_item, self.panel, inner, p]) for p in places]
            for r, loaded in enumerate(patterns):
                scalar = loaded if self.step == 1 else vector.extract(loaded, [], [j])
                splat = vector.broadcast(emit.vector_type(LANES, self.i32), scalar)
                for v, weight in enumerate(weights):
                    i = r * len(places) + v
                    value = vector.bitcast(four, arith.addi(splat, weight))
                    totals[i] = arith.addf(totals[i], value)
        return totals


def choose_tile(m: int | None, n: int | None) -> ThreadTile:
    """Return the tile for a shape: no wider and no higher than the result."""
    rows = 8 if m is None else max(1, min(8, -(-m // SIDE)))
    vectors = 2 if n is None or n > SIDE * LANES else 1
    return ThreadTile(rows, vectors)
