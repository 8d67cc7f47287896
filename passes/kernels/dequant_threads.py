"""A product with a weight in few bits for GPUs: each thread takes codes apart for a tile of sums.

A thread has `rows` times `vectors` vectors of four columns.  A word that it loads holds a quad or
more of one column's codes (:mod:`..formats.panels`), which meet all its rows::

    for group, for chunk in group:
      w[v] = codes[panel, chunk, column(v) : column(v) + 4]        // words, loaded once
      for quad in chunk:
        a[r] = A[row + r, 4 * quad : 4 * quad + 4]
        for j in 4, v in vectors:
          c = f32(w[v] >> place & mask) - zero
          part[r, v] += splat(a[r][j]) * c
    sum[r, v] += part[r, v] * scale

No thread reads what another one wrote, so nothing is asked of subgroups: the body is the same for
Vulkan and CUDA.  Activations are f32, or
codes of 8 bits as whole numbers: then `part` is exact, in f32 where every such sum fits 24 bits,
else in i32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from iree.compiler import ir
from iree.compiler.dialects import arith, memref, vector

from ..formats import panels
from . import emit, gpu
from .epilogue import Epilogue
from .executable import Interface
from .gpu_results import Results

LANES = 4
MAGIC = 0x4B000000  # the pattern of 2^23: with a code in its mantissa it is that much larger
LARGEST = 127  # of an activation in 8 bits


@dataclass(frozen=True)
class DequantTile:
    """The sums of one thread: `rows` x (`vectors` of four columns); a workgroup's threads."""

    rows: int
    vectors: int
    across: int
    down: int

    @property
    def columns(self) -> int:
        """Columns of a panel, which one workgroup covers."""
        return self.across * self.vectors * LANES

    @property
    def name(self) -> str:
        """The tile in a symbol."""
        return f"d{self.rows}x{self.vectors * LANES}w{self.across}x{self.down}"


@dataclass(frozen=True)
class DequantThreads:
    """``C[batch, m, n] = sum over k of A[batch, m, k] * (code - zero)[batch, n, k] * scale``.

    Bindings: A ``[batch, m, K]``, K in whole groups, f32 or (:attr:`is_whole`) i32; codes
    ``[batch, panels, words, columns]``, scales ``[batch, panels, groups, columns]``, unless
    symmetric zero points ``u8``; of 8-bit activations their scales ``[batch, m, groups or 1]``; C.

    Attributes
    ----------
    batch, m : int or None
        Sizes; None where they are known only at run time.
    n, k : int
        Columns, and K in whole groups.
    b_batch : bool
        Whether each batch has a weight of its own.
    bits, group, symmetric
        The weight's format.
    scaled : str
        ``none`` for f32 activations; else whether 8-bit ones have a scale by ``group`` or ``row``.
    tile : DequantTile
        The sums of one thread.
    dialect : str
        ``spirv`` (Vulkan) or ``ptx`` (CUDA).
    epilogue : Epilogue or None
        What is done to the sums before they are stored.
    """

    batch: int | None
    m: int | None
    n: int
    k: int
    b_batch: bool
    bits: int
    group: int
    symmetric: bool
    scaled: Literal["none", "group", "row"]
    tile: DequantTile
    dialect: str = "spirv"
    epilogue: Epilogue | None = None

    packs = False
    stem = "dequant"  # of its symbol

    @property
    def groups(self) -> int:
        """Scales of a column."""
        return self.k // self.group

    @property
    def chunk(self) -> int:
        """Weights along K that stand together."""
        return panels.chunk_of(self.group)

    @property
    def vectors(self) -> int:
        """Words of a column in a chunk."""
        return panels.vectors_per_chunk(self.bits, self.group)

    @property
    def words(self) -> int:
        """Words of a column."""
        return self.k // self.chunk * self.vectors

    @property
    def panels(self) -> int:
        """Panels of columns."""
        return -(-self.n // self.tile.columns)

    @property
    def is_whole(self) -> bool:
        """Whether sums of a group are in i32: those of whole numbers that f32 may round."""
        return self.scaled != "none" and self.group * LARGEST << self.bits >= 1 << 24

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """(batch, m, n, k)."""
        return (self.batch, self.m, self.n, self.k)

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        sizes = "x".join("d" if s is None else str(s) for s in self.sizes)
        kind = f"i{self.bits}g{self.group}{'' if self.symmetric else 'z'}_{self.scaled}"
        follows = f"_{self.epilogue.name}" if self.epilogue else ""
        batches = "b" if self.b_batch else ""
        return f"{self.stem}_{self.dialect}_{kind}_{sizes}_{self.tile.name}{batches}{follows}"

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
        return 0

    @property
    def known_grid(self) -> tuple[int | None, ...]:
        """The workgroups along x, y and z, as :meth:`grid` counts them; None at run time only."""
        down = None if self.m is None else -(-self.m // (self.tile.rows * self.tile.down))
        return (self.panels, down, self.batch)

    def grid(self, sizes: dict[str, ir.Value]) -> list[ir.Value]:
        """Return the workgroups along x, y and z, given batch, m, n and k."""
        rows = emit.index(self.tile.rows * self.tile.down)
        return [emit.index(self.panels), arith.ceildivui(sizes["m"], rows), sizes["batch"]]

    def describe(self) -> str:
        """Say which kernel it is."""
        kind = "dequantising" if self.scaled == "none" else "integer"
        where = "Vulkan" if self.dialect == "spirv" else "GPUs"
        text = f"{kind} kernel for {where}, {self._threads()}"
        return text if self.epilogue is None else f"{text}, {self.epilogue.describe()}"

    def _threads(self) -> str:
        return f"{self.tile.rows} x {self.tile.vectors * LANES} sums a thread"

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        Body(self, interface).emit()


class Body:
    """The function of one kernel while it is being built; another one may multiply otherwise."""

    def __init__(self, kernel: DequantThreads, interface: Interface) -> None:
        self.kernel, self.tile = kernel, kernel.tile
        self.f32, self.i32 = ir.F32Type.get(), emit.integer(32)
        self.four, self.whole = (emit.vector_type(LANES, t) for t in (self.f32, self.i32))
        opened = sum(size is None for size in (kernel.batch, kernel.m))
        numbers = iter([interface.constant(i) for i in range(opened)])
        self.batch, self.m = (
            next(numbers) if size is None else emit.index(size) for size in (kernel.batch, kernel.m)
        )
        self.interface, self.bound = interface, 0
        rows, weights = (kernel.batch, kernel.m), kernel.batch if kernel.b_batch else 1
        head, values = [weights, kernel.panels], kernel.groups
        self.summed = self.i32 if kernel.is_whole else self.f32
        self.a = self._activations([*rows, kernel.k])
        self.codes = self._buffer([*head, kernel.words, self.tile.columns], self.i32, LANES)
        self.scales = self._buffer([*head, values, self.tile.columns], self.f32, LANES)
        if not kernel.symmetric:
            # Four zero points are a word.
            self.zeros = self._buffer([*head, values, self.tile.columns // LANES], self.i32, 1)
        if kernel.scaled != "none":
            count = values if kernel.scaled == "group" else 1
            self.x_scales = self._buffer([*rows, count], self.f32, 1)
        values_of = {"batch": self.batch, "m": self.m, "n": emit.index(kernel.n)}
        self.results = Results(kernel, interface, self.bound, values_of)
        self.panel, self.block, self.item = (interface.workgroup(axis) for axis in range(3))
        self.b_item = self.item if kernel.b_batch else emit.index(0)

    def _activations(self, shape: Sequence[int | None]) -> ir.Value:
        """Bind the activations, in vectors of a quad."""
        return self._buffer(shape, self.summed, LANES)

    def _buffer(self, shape: Sequence[int | None], scalar: ir.Type, width: int) -> ir.Value:
        """Return the next binding, its last dimension counted in vectors of `width`."""
        values = [self.batch, self.m]
        opened = [v for v, size in zip(values, shape, strict=False) if size is None]
        ordinal, self.bound = self.bound, self.bound + 1
        return gpu.buffer(self.interface, ordinal, shape, scalar, opened, lanes=width)

    def emit(self) -> None:
        """Build the body."""
        tile, kernel = self.tile, self.kernel
        across, down = (gpu.thread(axis) for axis in ("x", "y"))
        first = arith.addi(arith.muli(self.block, emit.index(tile.down)), down)
        first = arith.muli(first, emit.index(tile.rows))
        rows = [arith.addi(first, emit.index(r)) for r in range(tile.rows)]
        last = arith.subi(self.m, emit.index(1))
        # Rows beyond the last one read it again, and are not stored.
        self.rows = [arith.minui(row, last) for row in rows]
        self.places = [arith.addi(across, emit.index(v * tile.across)) for v in range(tile.vectors)]
        sums = [emit.splat(LANES, self.f32, 0.0)] * (tile.rows * tile.vectors)
        zero, one = emit.index(0), emit.index(1)
        totals = emit.loop(zero, emit.index(kernel.groups), one, self._group, sums)
        if kernel.scaled == "row":
            scales = [self._x_scale(r, zero) for r in range(tile.rows)]
            totals = [arith.mulf(t, scales[i // tile.vectors]) for i, t in enumerate(totals)]
        start = emit.index(tile.columns // LANES)
        columns = [arith.addi(arith.muli(self.panel, start), place) for place in self.places]
        self.results.store(totals, self.item, rows, columns)

    # -- a group -----------------------------------------------------------------------------------

    def _group(self, group: ir.Value, *totals: ir.Value) -> list[ir.Value]:
        """Add what a group gives to the sums."""
        kernel, tile = self.kernel, self.tile
        chunks = kernel.group // kernel.chunk
        first = arith.muli(group, emit.index(chunks))
        zeros = self._zeros(group)
        parts: Sequence[ir.Value] = self._empty()

        def step(i: ir.Value, *carried: ir.Value) -> list[ir.Value]:
            return self._chunk(arith.addi(first, i), zeros, carried)

        if chunks == 1:
            parts = self._chunk(first, zeros, parts)
        else:
            parts = emit.loop(emit.index(0), emit.index(chunks), emit.index(1), step, parts)
        parts = self._whole(parts, zeros)
        at = [self.b_item, self.panel, group]
        scales = [memref.load(self.scales, [*at, place]) for place in self.places]
        found = []
        for i, (part, total) in enumerate(zip(parts, totals, strict=True)):
            r, v = divmod(i, tile.vectors)
            scale = scales[v]
            if kernel.scaled == "group":
                scale = arith.mulf(scale, self._x_scale(r, group))
            value = arith.sitofp(self.four, part) if kernel.is_whole else part
            found.append(arith.addf(total, arith.mulf(value, scale)))
        return found

    def _empty(self) -> list[ir.Value]:
        """Return what the chunks of a group add to."""
        return [emit.splat(LANES, self.summed, 0)] * (self.tile.rows * self.tile.vectors)

    def _whole(self, parts: Sequence[ir.Value], zeros: Sequence[ir.Value]) -> Sequence[ir.Value]:
        """Return the sums of a group in vectors of columns."""
        return parts

    def _x_scale(self, r: int, group: ir.Value) -> ir.Value:
        return vector.broadcast(
            self.four, memref.load(self.x_scales, [self.item, self.rows[r], group])
        )

    def _zeros(self, group: ir.Value) -> list[ir.Value]:
        """Return what is subtracted from codes: f32 raised by 2^23, or i32."""
        middle = 1 << self.kernel.bits - 1
        if self.kernel.symmetric:
            return [self._raised_constant(middle)] * self.tile.vectors
        found = []
        for place in self.places:
            word = memref.load(self.zeros, [self.b_item, self.panel, group, place])
            shifts = ir.DenseElementsAttr.get(
                [ir.IntegerAttr.get(self.i32, 8 * lane) for lane in range(LANES)], self.whole
            )
            moved = arith.shrui(
                vector.broadcast(self.whole, word), arith.constant(self.whole, shifts)
            )
            found.append(self._raised(arith.andi(moved, emit.splat(LANES, self.i32, 255))))
        return found

    def _raised_constant(self, value: int) -> ir.Value:
        if self.kernel.is_whole:
            return emit.splat(LANES, self.i32, value)
        return emit.splat(LANES, self.f32, 2.0**23 + value)

    def _raised(self, codes: ir.Value) -> ir.Value:
        """Return codes as f32 that are 2^23 larger; as they are where sums are in i32."""
        if self.kernel.is_whole:
            return codes
        return vector.bitcast(self.four, arith.ori(codes, emit.splat(LANES, self.i32, MAGIC)))

    # -- a chunk -----------------------------------------------------------------------------------

    def _chunk(
        self, chunk: ir.Value, zeros: Sequence[ir.Value], carried: Sequence[ir.Value]
    ) -> list[ir.Value]:
        kernel, parts = self.kernel, list(carried)
        words = self._words(chunk)
        quads = kernel.chunk // 4
        start = arith.muli(chunk, emit.index(quads))
        for quad, pieces in enumerate(panels.parts(kernel.bits, quads)):
            at = arith.addi(start, emit.index(quad))
            loaded = [memref.load(self.a, [self.item, row, at]) for row in self.rows]
            for j in range(4):
                splats = [self._splat(a, j) for a in loaded]
                for v, own in enumerate(words):
                    codes = self._raised(self._codes(own, pieces, j))
                    self._add_products(splats, codes, zeros[v], parts, v)
        return parts

    def _words(self, chunk: ir.Value) -> list[list[ir.Value]]:
        """Load the words of a chunk, of each vector of columns."""
        first = arith.muli(chunk, emit.index(self.kernel.vectors))
        numbers = [arith.addi(first, emit.index(i)) for i in range(self.kernel.vectors)]
        head = [self.b_item, self.panel]
        return [
            [memref.load(self.codes, [*head, number, place]) for number in numbers]
            for place in self.places
        ]

    def _splat(self, value: ir.Value, lane: int) -> ir.Value:
        type_ = self.whole if self.kernel.is_whole else self.four
        return vector.broadcast(type_, vector.extract(value, [], [lane]))

    def _add_products(
        self,
        splats: Sequence[ir.Value],
        codes: ir.Value,
        zero: ir.Value,
        parts: list[ir.Value],
        v: int,
    ) -> None:
        if self.kernel.is_whole:
            subtract, multiply, add = arith.subi, arith.muli, arith.addi
        else:
            subtract, multiply, add = arith.subf, arith.mulf, arith.addf
        value = subtract(codes, zero)
        for r, splat in enumerate(splats):
            at = r * self.tile.vectors + v
            if self.kernel.dialect == "ptx" and not self.kernel.is_whole:
                parts[at] = emit.multiply_add(splat, value, parts[at])
            else:
                parts[at] = add(parts[at], multiply(splat, value))

    def _codes(self, words: Sequence[ir.Value], pieces: Sequence[panels.Part], j: int) -> ir.Value:
        """Return code j of a quad, of four columns."""
        found = None
        for piece in pieces:
            value, place = words[piece.vector], 8 * j + piece.bit
            if place:
                value = arith.shrui(value, emit.splat(LANES, self.i32, place))
            if place + piece.width < 32:
                value = arith.andi(value, emit.splat(LANES, self.i32, (1 << piece.width) - 1))
            if piece.shift:
                value = arith.shli(value, emit.splat(LANES, self.i32, piece.shift))
            found = value if found is None else arith.ori(found, value)
        return found


def choose_tile(m: int | None, n: int) -> DequantTile:
    """Return the tile for a shape: no wider and no higher than the result."""
    rows = 8 if m is None else min(8, m)
    down = 4 if m is None else max(1, min(4, -(-m // 8)))
    across = 64 // down
    vectors = 2 if rows > 1 else 4
    while vectors > 1 and across * LANES * vectors > n:
        vectors //= 2
    while across > 8 and across * LANES > n:
        across //= 2
    return DequantTile(rows, vectors, across, down)
