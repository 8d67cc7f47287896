"""Attention of few queries over a key-value cache that is read where it is, for CPUs.

A workgroup has one key-value head, whose queries are the rows of one small product: no head is
copied, nothing is transposed, and keys and values are read once, in the format of their cache::

    for block of positions:
      for r: s[r, j] = scale * sum over w of q[r, w] * k[j, w]
      for r: m = max(m, s[r, :]); p[r, j] = exp(s[r, j] - m); t = t * c + sum of p; o = o * c
      for r: o[r, :] += sum over j of p[r, j] * v[j, :]
    y[r, :] = o[r, :] / t

where c is exp(m before - m) ("Online normalizer calculation for softmax", Milakov and Gimelshein,
arXiv:1805.02867).  All of it is f32; sums come in an order of their own.  A row of scores that are
all negative infinity, or of which one is NaN, gives NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith, vector
from iree.compiler.dialects import math as math_ops

from . import cache_readers, emit
from .executable import Interface
from .softmax import larger, largest_lane

BLOCK = 64  # positions whose scores are kept at a time
AHEAD = 32  # positions that are asked for before they are read
MOST_ROWS = 16  # queries that share a head: their sums go to and from the stack
LOWEST = -3.4028234663852886e38  # so that the first of all differences is no NaN


@dataclass(frozen=True)
class Attention:
    """``y[h, r] = softmax(scale * q[h, r] . k[:n, h]) . v[:n, h]``, all f32.

    q is ``[heads, rows, width]``, k and v are ``[at least n, heads, width]``, y is like q; n is
    known at run time only.  k and v are buffers of a cache (``cache_readers.py``), read as f32.

    Attributes
    ----------
    heads : int
        Key-value heads.
    rows : int
        Queries of each.
    width : int
        Of a head, a multiple of `lanes`.
    scale : float
        What scores are multiplied by.
    lanes : int
        f32 in one vector register.
    sums : int
        Vectors of sums that registers hold.
    keys, values : str
        Formats of the cache (``passes/formats/caches.py``).
    """

    heads: int
    rows: int
    width: int
    scale: float
    lanes: int
    sums: int
    keys: str = "f32"
    values: str = "f32"

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        scale = self.scale.hex().replace(".", "_").replace("-", "m").replace("+", "")
        shape = f"{self.heads}x{self.rows}x{self.width}"
        formats = "" if self.formats == "f32" else f"_k{self.keys}v{self.values}"
        return f"attention_{shape}_s{scale}_v{self.lanes}r{self.sums}{formats}"

    @property
    def formats(self) -> str:
        """Formats of keys and values, once if they are the same."""
        return self.keys if self.keys == self.values else f"{self.keys} and {self.values}"

    def describe(self) -> str:
        """Say which kernel it is."""
        cache = "the cache" if self.formats == "f32" else f"the cache of {self.formats}"
        return f"attention in one dispatch, {cache} read in place, vectors of {self.lanes}"

    @property
    def inputs(self) -> int:
        """Buffers that it reads."""
        of_values = cache_readers.Rows.bindings[self.values]
        return 1 + cache_readers.bindings_of_keys(self.keys) + of_values

    @property
    def translation(self) -> str:
        """How IREE goes on from the kernel's body."""
        return "#iree_codegen.translation_info<pipeline = #iree_cpu.pipeline<Default>>"

    def grid(self) -> list[ir.Value]:
        """Return the workgroups along x, y and z."""
        return [emit.index(self.heads), emit.index(1), emit.index(1)]

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        _Body(self, interface).emit()


class _Body:
    def __init__(self, kernel: Attention, interface: Interface) -> None:
        self.kernel, self.lanes, self.f32 = kernel, kernel.lanes, ir.F32Type.get()
        heads, rows, width = kernel.heads, kernel.rows, kernel.width
        self.filled = interface.constant(0)
        own = emit.buffer_type([heads, rows, width], self.f32)
        of = cache_readers.Heads(heads, width, kernel.lanes)
        self.q = interface.buffer(0, own, [], is_input=True)
        self.k = cache_readers.keys(kernel.keys, of, interface, 1, self.filled)
        first = kernel.inputs - cache_readers.Rows.bindings[kernel.values]
        self.v = cache_readers.Rows(kernel.values, of, interface, first, self.filled)
        self.y = interface.buffer(kernel.inputs, own, [], is_input=False)
        self.head = interface.workgroup(0)
        # Keys that several queries read are made f32 once.
        self.tile = None
        if kernel.keys == "i4" or (kernel.keys != "f32" and rows > 1):
            self.tile = emit.scratch([self.lanes, width], self.f32)
        self.scores = emit.scratch([rows, BLOCK], self.f32)
        self.mixed = emit.scratch([rows, width], self.f32)
        self.largest = emit.scratch([rows, self.lanes], self.f32)  # the same in all lanes
        self.total = emit.scratch([rows, self.lanes], self.f32)

    def emit(self) -> None:
        zero = emit.index(0)
        rows = emit.index(self.kernel.rows)
        none, lowest = self._splat(0.0), self._splat(LOWEST)

        def begin(r: ir.Value) -> None:
            emit.store(lowest, self.largest, [r, zero])
            emit.store(none, self.total, [r, zero])
            for at in self._columns():
                emit.store(none, self.mixed, [r, at])

        emit.each(zero, rows, 1, begin)
        emit.each(zero, self.filled, BLOCK, self._block)
        emit.each(zero, rows, 1, self._finish)

    def _block(self, first: ir.Value) -> None:
        """Build all steps for the positions from `first` on."""
        left = arith.subi(self.filled, first)
        count = arith.minui(left, emit.index(BLOCK))
        self._score(first, count)
        emit.each(emit.index(0), emit.index(self.kernel.rows), 1, lambda r: self._weigh(r, count))
        self._mix(first, count)

    # -- scores ------------------------------------------------------------------------------------

    def _score(self, first: ir.Value, count: ir.Value) -> None:
        """Store the scores of `count` positions, and negative infinity up to whole vectors."""
        lanes = emit.index(self.lanes)
        full = arith.muli(arith.divui(count, lanes), lanes)
        last = arith.subi(self.filled, emit.index(1))
        infinite = self._splat(-math.inf)
        kernel_width = self.kernel.width

        def whole(at: ir.Value) -> None:
            start = arith.addi(first, at)
            places = [arith.addi(start, emit.index(j)) for j in range(self.lanes)]
            for place in places:
                self._ask(self.k, place, range(kernel_width))
            self._scores_of(at, places, lambda value: value)

        def rest(at: ir.Value) -> None:
            start = arith.addi(first, at)
            # What is not filled yet is not read.
            places = [
                arith.minui(arith.addi(start, emit.index(j)), last) for j in range(self.lanes)
            ]
            mask = emit.mask_of(self.lanes, arith.subi(count, at))
            self._scores_of(at, places, lambda value: arith.select(mask, value, infinite))

        emit.each(emit.index(0), full, self.lanes, whole)
        emit.each(full, count, self.lanes, rest)

    def _scores_of(
        self, at: ir.Value, places: Sequence[ir.Value], change: Callable[[ir.Value], ir.Value]
    ) -> None:
        """Store the scores of a vector of positions, `change` of them, for every row."""
        factor = self._splat(self.kernel.scale)
        keys = self.k.tile(places, self.head, self.tile)

        def row(r: ir.Value) -> None:
            queries = [emit.load(self.lanes, self.q, [self.head, r, c]) for c in self._columns()]
            value = arith.mulf(self._products(queries, range(len(places)), keys), factor)
            emit.store(change(value), self.scores, [r, at])

        emit.each(emit.index(0), emit.index(self.kernel.rows), 1, row)

    def _products(
        self, queries: Sequence[ir.Value], places: Sequence[int], key: cache_readers.Get
    ) -> ir.Value:
        """Return the products of one query and the keys at `places` of a tile, a lane for each.

        Sums over lanes are added up by halves, two vectors at a time.
        """
        if len(places) == 1:
            keys = [key(places[0], start) for start in range(0, self.kernel.width, self.lanes)]
            total = arith.mulf(queries[0], keys[0])
            for query, one in zip(queries[1:], keys[1:], strict=True):
                total = emit.multiply_add(query, one, total)
            return total
        half = len(places) // 2
        low, high = (self._products(queries, part, key) for part in (places[:half], places[half:]))
        width = self.lanes // len(places)
        sides = [
            [
                start + side + lane
                for start in range(0, 2 * self.lanes, 2 * width)
                for lane in range(width)
            ]
            for side in (0, width)
        ]
        return arith.addf(*(vector.shuffle(low, high, side) for side in sides))

    # -- softmax -----------------------------------------------------------------------------------

    def _weigh(self, r: ir.Value, count: ir.Value) -> None:
        """Put exponentials in the place of scores of a row; scale what was summed before."""
        zero, lanes = emit.index(0), emit.index(self.lanes)
        before = emit.load(self.lanes, self.largest, [r, zero])

        def greater(at: ir.Value, most: ir.Value) -> list[ir.Value]:
            return [larger(emit.load(self.lanes, self.scores, [r, at]), most)]

        most = emit.loop(zero, count, lanes, greater, [before])[0]
        now = vector.broadcast(
            emit.vector_type(self.lanes, self.f32), largest_lane(most, self.lanes)
        )
        emit.store(now, self.largest, [r, zero])
        change = math_ops.exp(arith.subf(before, now))
        total = arith.mulf(emit.load(self.lanes, self.total, [r, zero]), change)

        def power(at: ir.Value, total: ir.Value) -> list[ir.Value]:
            value = math_ops.exp(arith.subf(emit.load(self.lanes, self.scores, [r, at]), now))
            emit.store(value, self.scores, [r, at])
            return [arith.addf(total, value)]

        total = emit.loop(zero, count, lanes, power, [total])[0]
        emit.store(total, self.total, [r, zero])
        for at in self._columns():
            value = emit.load(self.lanes, self.mixed, [r, at])
            emit.store(arith.mulf(value, change), self.mixed, [r, at])

    # -- values ------------------------------------------------------------------------------------

    def _mix(self, first: ir.Value, count: ir.Value) -> None:
        """Add values of `count` positions, some rows and columns at a time."""
        rows, vectors = self.kernel.rows, self.kernel.width // self.lanes
        some = min(rows, self.kernel.sums)
        across = max(1, min(vectors, self.kernel.sums // some))
        for r in range(0, rows, some):
            for c in range(0, vectors, across):
                self._mix_part(
                    first, count, range(r, min(rows, r + some)), range(c, min(vectors, c + across))
                )

    def _mix_part(self, first: ir.Value, count: ir.Value, rows: range, columns: range) -> None:
        places = [[emit.index(r), emit.index(c * self.lanes)] for r in rows for c in columns]
        is_first = rows.start == 0
        starts = [c * self.lanes for c in columns]

        def add(j: ir.Value, *before: ir.Value) -> list[ir.Value]:
            at = arith.addi(first, j)
            if is_first:
                self._ask(self.v, at, range(starts[0], starts[-1] + self.lanes))
            values = self.v.vectors(at, self.head, starts)
            totals = iter(before)
            found = []
            for r in rows:
                weight = emit.broadcast_scalar(self.lanes, self.scores, [emit.index(r), j])
                found += [emit.multiply_add(weight, value, next(totals)) for value in values]
            return found

        start = [emit.load(self.lanes, self.mixed, place) for place in places]
        found = emit.loop(emit.index(0), count, emit.index(1), add, start)
        for value, place in zip(found, places, strict=True):
            emit.store(value, self.mixed, place)

    def _finish(self, r: ir.Value) -> None:
        """Divide by the sum of a row; nothing at all gives zeros, as an empty product does."""
        kind = vector.CombiningKind
        zero, one = (arith.constant(self.f32, number) for number in (0.0, 1.0))
        sums = emit.load(self.lanes, self.total, [r, emit.index(0)])
        factor = arith.divf(one, vector.reduction(self.f32, kind.ADD, sums))
        is_empty = arith.cmpi(arith.CmpIPredicate.eq, self.filled, emit.index(0))
        factor = arith.select(is_empty, zero, factor)
        factors = vector.broadcast(emit.vector_type(self.lanes, self.f32), factor)
        for at in self._columns():
            value = emit.load(self.lanes, self.mixed, [r, at])
            emit.store(arith.mulf(value, factors), self.y, [self.head, r, at])

    # -- parts -------------------------------------------------------------------------------------

    def _columns(self) -> list[ir.Value]:
        """Return where the vectors of a head begin."""
        return [emit.index(at) for at in range(0, self.kernel.width, self.lanes)]

    def _ask(self, cache: cache_readers.Reader, place: ir.Value, channels: range) -> None:
        """Ask for what a later position has in `channels`."""
        cache.ask(arith.addi(place, emit.index(AHEAD)), self.head, channels)

    def _splat(self, value: float) -> ir.Value:
        return emit.splat(self.lanes, self.f32, value)
