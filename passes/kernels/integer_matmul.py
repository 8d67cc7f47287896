"""A matmul of few-bit integer weights and 8-bit activations for CPUs.

The loops, from the outside: workgroups over batches, chunks of rows and groups of panels; blocks of
rows; panels of columns; groups of K; and chunks of K, with a tile of rows x columns of
integer sums in registers::

    for m in rows step tile.rows:
      for p in panels:                                     // or some of them side by side
        for g in groups:                                   // one scale each
          sum[r, v] = -zero[v] * activation_sum[m + r, g]
          for chunk in group:
            for quad in chunk:                             // unrolled: codes come out of words
              sum[r, v] += code[v] . broadcast(activation[m + r, quad])
          total[r, v] += f32(sum[r, v]) * scale[p, g, v]   // in a scratch buffer

Scales may be stored as f16 with a factor for each column (:mod:`..formats.half_scales`): a vector
of them is converted once for all rows, and totals are multiplied by factors when they are done.

The integer sums are exact: each is over one group, and a group is at most as long as
:func:`..formats.activations.longest_group` says; ``lowc-quantize-activations`` refuses longer ones.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith, vector

from . import emit
from .epilogue import Epilogue
from .executable import Interface
from .integer_dot import Accumulator, IntegerDot
from .integer_rows import IntegerRows
from .record_matmul import RecordBody, RecordMatmul
from .tiles import Tile, panels_together


@dataclass(frozen=True)
class IntegerMatmul(RecordMatmul):
    """``C[batch, m, n] = sum over g of D[batch, m, n, g] * scales``, ``D`` exact in i32.

    Bindings: records of the rows (:class:`.integer_rows.IntegerRows`), or the rows; panels of codes
    and scales of the weight (:func:`..formats.panels.pack_panels`), its zeros unless `symmetric`,
    its factors if it `has_halves`; and C.

    Attributes
    ----------
    batch, m, n, tile, epilogue, rounds
        As :class:`.record_matmul.RecordMatmul` has them.
    rows : IntegerRows
        The records: K, groups, where scales and sums stand.
    symmetric : bool
        Whether the zero point is the middle of the codes everywhere.
    has_halves : bool
        Whether scales are f16, with a factor for each column.
    """

    batch: int
    m: int | None
    n: int
    rows: IntegerRows
    symmetric: bool
    tile: Tile
    epilogue: Epilogue | None = None
    rounds: bool = False
    has_halves: bool = False

    @property
    def dot(self) -> IntegerDot:
        """How codes and activations are multiplied."""
        return self.rows.dot

    @property
    def weights(self) -> list[tuple[list[int], int]]:
        """Codes and scales, and zeros and factors if there are any; halves as their patterns."""
        columns = self.tile.columns
        of_groups = [self.rows.groups, columns]
        found = [([self.rows.chunks * self.dot.vectors, columns], 32)]
        found += [(of_groups, 16 if self.has_halves else 0)]
        found += [] if self.symmetric else [(of_groups, 8)]
        return [*found, ([columns], 0)] if self.has_halves else found

    def together(self, rows: int) -> int:
        """Return how many panels are read side by side for a block of `rows`."""
        dot, tile = self.dot, self.tile
        groups = self.rows.groups
        most = panels_together(dot.isa, dot.strategy, rows, tile.vectors, groups, dot.bits)
        return min(most, tile.panels)

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        m = "d" if self.m is None else str(self.m)
        kind = f"i{self.dot.bits}{'' if self.symmetric else 'z'}{'h' if self.has_halves else ''}"
        tile = f"t{self.tile.rows}x{self.tile.vectors}g{self.tile.panels}c{self.tile.row_chunk}"
        after = "" if self.epilogue is None else f"_{self.epilogue.name}"
        own = "own" if self.rounds else ""
        return f"{own}integer_{kind}_{self.batch}x{m}x{self.n}_{self.rows.name}_{tile}{after}"

    def describe(self) -> str:
        """Say which kernel it is."""
        how = {
            "vnni": "vpdpbusd",
            "bytes": "vpmaddubsw",
            "shorts": "vpmaddwd",
            "lanes": f"{self.dot.isa.lanes} lanes",
        }[self.dot.strategy]
        size = f"{self.tile.rows} x {self.tile.columns}"
        text = f"integer kernel ({how}), {size} sums in registers"
        text += ", scales in f16" if self.has_halves else ""
        text += ", rounds its rows" if self.rounds else ""
        return text if self.epilogue is None else f"{text}, {self.epilogue.describe()}"

    def body(self, interface: Interface) -> RecordBody:
        """Return what builds the kernel's function, its buffers bound at the current place."""
        return _Body(self, interface)


class _Body(RecordBody):
    """The function of one kernel while it is being built."""

    def __init__(self, kernel: IntegerMatmul, interface: Interface) -> None:
        self.kernel, self.rows = kernel, kernel.rows
        super().__init__(kernel, interface)
        self.words, self.scales = self.weights[:2]
        self.zeros = None if kernel.symmetric else self.weights[2]
        self.factors = self.weights[-1] if kernel.has_halves else None

    def fetch(self, source: ir.Value, at: Sequence[ir.Value], axis: int, ahead: int) -> None:
        if self.kernel.dot.isa.asks_ahead:
            super().fetch(source, at, axis, ahead)

    def add_products(self) -> None:
        # In rows of words, and as long in groups.
        self.ahead = max(1, self.ahead_bytes // (4 * self.tile.columns))
        words = self.kernel.dot.vectors * (self.rows.group // self.kernel.dot.chunk)
        self.groups_ahead = self.ahead // words + 1
        emit.each(emit.index(0), emit.index(self.rows.groups), 1, self._group)
        if self.factors is not None:
            self._multiply_by_factors()

    def finished(self, total: ir.Value, r: int) -> ir.Value:
        if self.rows.per_group:
            return total
        return arith.mulf(total, self._activation_scale(r, emit.index(0)))

    def _group(self, g: ir.Value) -> None:
        dot, group = self.kernel.dot, self.rows.group
        chunks = group // dot.chunk
        first = arith.muli(g, emit.index(chunks))
        levels = dot.levels(len(self.places), len(self.at), group)

        def step(i: ir.Value, *carried: ir.Value) -> Sequence[ir.Value]:
            sums = Accumulator(dot, carried, levels)
            self._chunk(arith.addi(first, i), sums)
            return sums.finish()

        others = [emit.splat(self.lanes, self.i32, 0)] * (len(levels) - 1)
        starting = [sum_ for zero in self._of_zeros(g) for sum_ in (zero, *others)]
        if chunks == 1:
            sums = list(step(emit.index(0), *starting))
        else:
            sums = emit.loop(emit.index(0), emit.index(chunks), emit.index(1), step, starting)
        self._scale(g, [self._joined(sums, levels, i) for i in range(len(self.places))])

    def _joined(self, sums: Sequence[ir.Value], levels: Sequence[int], place: int) -> ir.Value:
        """Return the sum of a place: that of the codes at bit p is 2^p times too large."""
        total, *others = sums[place * len(levels) : (place + 1) * len(levels)]
        for level, found in zip(levels[1:], others, strict=True):
            down = emit.splat(self.lanes, self.i32, level)
            total = arith.addi(total, arith.shrsi(found, down))
        return total

    def _chunk(self, chunk: ir.Value, sums: Accumulator) -> None:
        """Add the products of a chunk, a quad at a time."""
        dot = self.kernel.dot
        first = arith.muli(chunk, emit.index(dot.vectors))
        # Read when it is needed: all words of a chunk at once would push sums out of registers.
        words = [
            sums.codes(
                functools.cache(lambda i, v=v: self._word(arith.addi(first, emit.index(i)), v))
            )
            for v in range(self.vectors)
        ]
        base = arith.muli(chunk, emit.index(dot.quads * dot.stride))
        for quad in range(dot.quads):
            codes = [own.quad(quad) for own in words]
            at = arith.addi(base, emit.index(quad * dot.stride))
            for r, record in enumerate(self.records):
                activation = dot.activation(self.a, [record, at])
                for v, code in enumerate(codes):
                    sums.add(sums.place(quad, r * self.vectors + v), code, activation)

    def _word(self, number: ir.Value, v: int) -> ir.Value:
        panel, vector_number = self.panel(v)
        at = [self.item, panel, number, emit.index(vector_number * self.lanes)]
        self.fetch(self.words, at, 2, self.ahead)
        return emit.load(self.lanes, self.words, at)

    # -- scales and zeros --------------------------------------------------------------------------

    def _of_zeros(self, g: ir.Value) -> list[ir.Value]:
        """Return what the zero points take from each sum, where it starts.

        Sums of activations come negated.
        """
        place = arith.addi(g, emit.index(self.rows.first_sum))
        found = []
        for r, v in self.places:
            total = emit.broadcast_scalar(self.lanes, self.a, [self.records[r], place])
            if self.zeros is None:
                middle = emit.splat(self.lanes, self.i32, self.kernel.dot.bits - 1)
                found.append(arith.shli(total, middle))
                continue
            stored = emit.load(self.lanes, self.zeros, self._of_group(g, v))
            zero = arith.extui(emit.vector_type(self.lanes, self.i32), stored)
            found.append(self.kernel.dot.of_sums(zero, total, self.rows.group))
        return found

    def _scale(self, g: ir.Value, sums: Sequence[ir.Value]) -> None:
        """Add the scaled sums of a group to the totals."""
        scales = []
        for v in range(self.vectors):
            at = self._of_group(g, v)
            self.fetch(self.scales, at, 2, self.groups_ahead)
            scales.append(self._scales(at))
        for (r, v), found in zip(self.places, sums, strict=True):
            scale = scales[v]
            if self.rows.per_group:
                scale = arith.mulf(scale, self._activation_scale(r, g))
            value = arith.sitofp(emit.vector_type(self.lanes, self.f32), found)
            before = emit.load(self.lanes, self.totals, self.total(r, v))
            emit.store(vector.fma(value, scale, before), self.totals, self.total(r, v))

    def _scales(self, at: Sequence[ir.Value]) -> ir.Value:
        """Return a vector of a group's scales in f32, without their factors."""
        stored = emit.load(self.lanes, self.scales, at)
        return stored if self.factors is None else emit.from_halves(stored, self.lanes)

    def _multiply_by_factors(self) -> None:
        for r, v in self.places:
            panel, number = self.panel(v)
            at = [self.item, panel, emit.index(number * self.lanes)]
            factor = emit.load(self.lanes, self.factors, at)
            total = emit.load(self.lanes, self.totals, self.total(r, v))
            emit.store(arith.mulf(total, factor), self.totals, self.total(r, v))

    def _activation_scale(self, r: int, number: ir.Value) -> ir.Value:
        place = arith.addi(number, emit.index(self.rows.first_scale))
        return self.record_scalar(r, place)

    def _of_group(self, g: ir.Value, v: int) -> list[ir.Value]:
        panel, number = self.panel(v)
        return [self.item, panel, g, emit.index(number * self.lanes)]
