"""What products of few rows share on a GPU: each weight is read once, 16 bytes at a time.

A warp has ``rows`` times ``32 / lanes`` rows of the weight, which are columns of the product, and
walks along K; ``lanes`` threads share a row, and ``along`` warps share its K::

    for unit in own units of K:                      // a step of all lanes, or a long group
      pieces of the next unit start to be loaded
      sum[row, m] += codes of the unit's pieces . activations
    sum over lanes by shuffles, over warps through workgroup memory

Short walks are unrolled: then all pieces of a thread are loaded at once.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from iree.compiler import ir
from iree.compiler.dialects import arith, memref, scf

from ..formats import gpu_rows
from . import emit, gpu
from .epilogue import Epilogue
from .executable import Interface
from .gpu_results import Extra

MOST_ROWS = 8  # of activations; more are multiplied by tiles
MOST_WARPS = 8  # of a workgroup
MOST_SUMS = 16  # of a thread
UNROLLED = 16  # pieces that a thread loads at once, at most
LARGE = 8192  # columns from which on there are more warps than run at once
LONGEST = 8  # steps of a unit
SHORT = 16  # steps along K


@dataclass(frozen=True)
class FewTile:
    """How a product of few rows is cut.

    Attributes
    ----------
    rows : int
        Pieces that a thread loads for one step, each of another row of the weight.
    along, across : int
        Warps of a workgroup that share rows, each with its part of K; and that have other rows.
    lanes : int
        Threads of a warp that share a row: 4, 8, 16 or 32.
    """

    rows: int
    along: int
    across: int
    lanes: int

    @property
    def columns(self) -> int:
        """Rows of the weight that a workgroup has."""
        return self.across * self.rows * gpu.WARP // self.lanes

    @property
    def name(self) -> str:
        """The tile in a symbol, and in the attribute ``lowc.tile``."""
        return f"f{self.rows}a{self.along}w{self.across}l{self.lanes}"


@dataclass(frozen=True)
class FewRowsGpu:
    """``C[batch, m, n]`` of a weight in rows of pieces (:mod:`..formats.gpu_rows`).

    Attributes
    ----------
    batch, m, n, k : int
        Sizes; m is at most :data:`MOST_ROWS`.
    bits, group : int
        Of the weight; a group of K or more is one scale for a row.
    symmetric : bool
        Whether no zero points are stored.
    tile : FewTile
        How it is cut.
    epilogue : Epilogue or None
        What is done to the sums before they are stored; what it reads is bound before C.
    """

    batch: int
    m: int
    n: int
    k: int
    bits: int
    group: int
    symmetric: bool
    tile: FewTile
    epilogue: Epilogue | None = field(default=None, kw_only=True)

    @property
    def inputs(self) -> int:
        """How many buffers it reads."""
        return (3 if self.symmetric else 4) + (len(self.epilogue.inputs) if self.epilogue else 0)

    @property
    def groups(self) -> int:
        """Scales of a row of the weight."""
        return gpu_rows.groups_of(self.k, self.group)

    @property
    def pieces(self) -> int:
        """Pieces of a row of the weight."""
        return gpu_rows.padded(self.k, self.group) // gpu_rows.per_piece(self.bits)

    @property
    def steps(self) -> int:
        """Steps of all lanes along K."""
        return self.pieces // self.tile.lanes

    @property
    def unit(self) -> int:
        """Steps that are taken together."""
        return 1

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """(batch, m, n, k)."""
        return (self.batch, self.m, self.n, self.k)

    @property
    def translation(self) -> str:
        """How IREE goes on from the kernel's body."""
        return gpu.translation("ptx", self.threads)

    @property
    def threads(self) -> tuple[int, int, int]:
        """Threads of a workgroup along x, y and z."""
        return (gpu.WARP, self.tile.across, self.tile.along)

    @property
    def shared_bytes(self) -> int:
        """Bytes of workgroup memory."""
        tile = self.tile
        return 4 * tile.along * tile.columns * self.m if tile.along > 1 else 0

    @property
    def known_grid(self) -> tuple[int, int, int]:
        """The workgroups along x, y and z."""
        return (-(-self.n // self.tile.columns), 1, self.batch)

    def grid(self, _sizes: object = None) -> list[ir.Value]:
        """Return the workgroups along x, y and z."""
        return [emit.index(count) for count in self.known_grid]

    @property
    def stem(self) -> str:
        """The part of a symbol that all kernels of few rows have."""
        kind = f"i{self.bits}g{self.group}{'' if self.symmetric else 'z'}"
        follows = f"{self.epilogue.name}_" if self.epilogue else ""
        return f"{kind}_{self.batch}x{self.m}x{self.n}x{self.k}_{follows}{self.tile.name}"

    def describe_tile(self) -> str:
        """Say how it is cut, and what it does with the sums."""
        tile = self.tile
        text = (
            f"{tile.rows} pieces of 16 bytes a thread, {tile.lanes} threads a column, "
            f"{tile.across} x {tile.along} warps"
        )
        return text if self.epilogue is None else f"{text}, {self.epilogue.describe()}"


Fetched = list[ir.Value]


class FewBody(ABC):
    """The function of one kernel while it is being built; subclasses say what a unit does."""

    def __init__(self, kernel: FewRowsGpu, interface: Interface) -> None:
        self.kernel, self.tile = kernel, kernel.tile
        self.f32, self.i32 = ir.F32Type.get(), emit.integer(32)
        tile, lanes = kernel.tile, kernel.tile.lanes
        self.thread = gpu.thread("x")
        self.lane = arith.remui(self.thread, emit.index(lanes))
        self.warp = gpu.thread("z")  # along K
        self.beside = gpu.thread("y")
        self.item = interface.workgroup(2)
        block = arith.addi(gpu.scaled(interface.workgroup(0), tile.across), self.beside)
        first = gpu.scaled(block, tile.rows * gpu.WARP // lanes)
        first = arith.addi(first, arith.divui(self.thread, emit.index(lanes)))
        last = emit.index(kernel.n - 1)
        self.columns = [gpu.add(first, r * gpu.WARP // lanes) for r in range(tile.rows)]
        # Columns beyond the last one read it again, and are not stored.
        self.readable = [arith.minui(column, last) for column in self.columns]
        head = [kernel.batch, kernel.n]
        words = kernel.pieces * 4
        self.codes = gpu.buffer(interface, 1, [*head, words], self.i32, lanes=4)
        self.bind(interface, [*head, kernel.groups])
        shape = [kernel.batch, kernel.m, kernel.n]
        self.extra: Extra | None = None
        if kernel.epilogue is not None:
            first_extra = kernel.inputs - len(kernel.epilogue.inputs)
            known: dict[str, int | None] = dict(zip(("batch", "m", "n"), shape, strict=True))
            self.extra = Extra(kernel.epilogue, interface, first_extra, known, {}, 1)
        self.result = gpu.buffer(interface, kernel.inputs, shape, self.f32, is_input=False)

    # -- what subclasses say -----------------------------------------------------------------------

    @abstractmethod
    def bind(self, interface: Interface, of_groups: Sequence[int]) -> None:
        """Bind activations (0), scales (2) and zero points (3)."""

    @abstractmethod
    def fetch(self, unit: ir.Value) -> Fetched:
        """Load what is read of the weight for a unit."""

    @abstractmethod
    def add(self, unit: ir.Value, fetched: Fetched, state: Fetched) -> Fetched:
        """Return `state`, ``rows * m`` sums of a thread, with the products of a unit."""

    def zero(self) -> ir.Value:
        """Return what a sum starts with."""
        return arith.constant(self.f32, 0.0)

    def first_distance(self) -> int:
        """Return the distance from which on threads of a row have different sums."""
        return 1

    def finish(self, value: ir.Value, r: int, m: int) -> ir.Value:
        """Return the result of a whole sum."""
        return value

    # -- the walk ----------------------------------------------------------------------------------

    def emit(self) -> None:
        """Build the body."""
        kernel, tile = self.kernel, self.tile
        units = kernel.steps // kernel.unit
        state = [self.zero()] * (tile.rows * kernel.m)
        trips = units // tile.along
        if units % tile.along == 0 and trips * kernel.unit * tile.rows <= UNROLLED:
            own = [gpu.add(self.warp, i * tile.along) for i in range(trips)]
            fetched = [self.fetch(unit) for unit in own]
            for unit, found in zip(own, fetched, strict=True):
                state = self.add(unit, found, state)
        else:
            state = self._walk(units, state)
        self._store(self._of_lanes(state))

    def _walk(self, units: int, state: Fetched) -> Fetched:
        """Build the loop; what the next unit reads of the weight is loaded a round ahead."""
        last, count = emit.index(units - 1), len(state)

        def step(unit: ir.Value, *carried: ir.Value) -> Sequence[ir.Value]:
            following = arith.minui(gpu.add(unit, self.tile.along), last)
            ahead = self.fetch(following)
            found = self.add(unit, list(carried[count:]), list(carried[:count]))
            return [*found, *ahead]

        first = self.fetch(arith.minui(self.warp, last))
        found = emit.loop(
            self.warp, emit.index(units), emit.index(self.tile.along), step, [*state, *first]
        )
        return list(found[:count])

    def piece(self, unit: ir.Value, step: int) -> ir.Value:
        """Return the number of this thread's piece of a row."""
        number = gpu.add(gpu.scaled(unit, self.kernel.unit), step)
        return arith.addi(gpu.scaled(number, self.tile.lanes), self.lane)

    def words(self, r: int, piece: ir.Value) -> ir.Value:
        """Load a piece."""
        return memref.load(self.codes, [self.item, self.readable[r], piece])

    # -- sums --------------------------------------------------------------------------------------

    def _of_lanes(self, state: Fetched) -> Fetched:
        distance = self.first_distance()
        while distance < self.tile.lanes:
            state = [_sum(value, gpu.shuffle_xor(value, distance)) for value in state]
            distance *= 2
        return state

    def _store(self, state: Fetched) -> None:
        kernel, tile = self.kernel, self.tile
        leads = arith.cmpi(arith.CmpIPredicate.eq, self.lane, emit.index(0))
        if tile.along > 1:
            own = gpu.WARP // tile.lanes
            shape = [tile.along, tile.across, own, len(state)]
            shared = gpu.shared(shape, state[0].type)
            row = arith.divui(self.thread, emit.index(tile.lanes))
            with gpu.when(leads):
                for i, value in enumerate(state):
                    memref.store(value, shared, [self.warp, self.beside, row, emit.index(i)])
                scf.YieldOp([])
            gpu.barrier()
            first = arith.cmpi(arith.CmpIPredicate.eq, self.warp, emit.index(0))
            leads = arith.andi(leads, first)
        with gpu.when(leads):
            for i, own_part in enumerate(state):
                value = own_part
                if tile.along > 1:
                    at = [self.beside, row, emit.index(i)]
                    parts = [memref.load(shared, [emit.index(w), *at]) for w in range(tile.along)]
                    value = functools.reduce(_sum, parts)
                self._store_one(value, *divmod(i, kernel.m))
            scf.YieldOp([])

    def _store_one(self, value: ir.Value, r: int, m: int) -> None:
        inside = arith.cmpi(arith.CmpIPredicate.ult, self.columns[r], emit.index(self.kernel.n))
        with gpu.when(inside):
            at = [self.item, emit.index(m), self.columns[r]]
            found = self.finish(value, r, m)
            memref.store(self.extra.apply(found, at) if self.extra else found, self.result, at)
            scf.YieldOp([])


def _sum(a: ir.Value, b: ir.Value) -> ir.Value:
    return arith.addf(a, b) if isinstance(a.type, ir.F32Type) else arith.addi(a, b)


def lanes_for(pieces: int, bits: int, group: int, *, whole: bool) -> int:
    """Return the most threads that can share rows of so many pieces; 0: groups do not fit.

    Of `whole` sums, where a thread's share of a group need not be exact, any can.
    """
    sharing = max(1, group // gpu_rows.per_piece(bits))
    for lanes in (32, 16, 8, 4):
        if pieces % lanes:
            continue
        nested = lanes % sharing == 0 or (sharing % lanes == 0 and sharing // lanes <= LONGEST)
        if whole or nested:
            return lanes
    return 0


def choose(
    m: int, n: int, k: int, bits: int, group: int, *, whole: bool, floats: bool = False
) -> FewTile | None:
    """Return the tile that lowc takes without a model; None where groups do not fit.

    `floats` says that codes are made f32: then more rows share what is loaded of an activation.
    """
    pieces = gpu_rows.padded(k, group) // gpu_rows.per_piece(bits)
    lanes = lanes_for(pieces, bits, group, whole=whole)
    if not lanes:
        return None
    steps = pieces // lanes
    rows = 4 if floats and m == 1 and n >= LARGE and steps <= SHORT else 2 if m <= 4 else 1
    along = next(count for count in (4, 2, 1) if count <= max(1, steps // 2))
    return FewTile(rows, along, 1, lanes)
