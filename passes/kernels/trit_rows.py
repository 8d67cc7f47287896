"""Tables of five activations for ternary weights: the dispatch before a product by look-up.

A record is that of ``table_rows.py``, but for its tables: 128 bytes for each five, entry i that of
the weights whose key is ``121 + i`` (``formats/trits.py``), for i up to 121.

The largest entry of a table is the sum of the magnitudes of its inputs.  The sums of the first
three inputs, 27 of them, are in two registers; from these 16 entries are a permutation and two
fused multiply-adds, which round as additions do since they multiply by -1, 0 and 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from iree.compiler import ir
from iree.compiler.dialects import arith, vector
from numpy.typing import NDArray

from ..formats.activations import MAGNITUDE_MASK
from ..formats.tables import ENTRIES
from ..formats.trits import FIVE, KEYS, ZERO, digits
from . import emit
from .table_rows import ROUNDING, WORDS, Maker, Place, TableRows

TABLE = 128  # entries, in bytes
FIRST = 27  # sums of the first three inputs
FIVES = 104  # of a workgroup, at most: a few microseconds


@dataclass(frozen=True)
class TritRows(TableRows):
    """``f32 [m, k]`` → records ``i32 [m, words]``; fields as :class:`.table_rows.TableRows`."""

    @property
    def inputs(self) -> int:
        """Of a table."""
        return FIVE

    @property
    def table_words(self) -> int:
        """Words of a table."""
        return TABLE // 4

    @property
    def span_chunk(self) -> int:
        """Spans of a workgroup."""
        return min(self.spans, max(1, FIVES // self.quads))

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        return f"trit_{super().name}"

    def maker(self, source: ir.Value, target: ir.Value) -> Maker:
        """Return what builds records in `target` of rows of `source`."""
        return _FiveMaker(self, source, target)


class _FiveMaker(Maker):
    def span(self, s: ir.Value, element: Callable[[ir.Value, int], Place]) -> None:
        """Write the tables of a span and its scale; ``element(q, t)`` says where an input is."""

        def magnitude(q: ir.Value, t: int) -> ir.Value:
            bits = arith.bitcast(self.i32, emit.load_scalar(*element(q, t)))
            return arith.bitcast(self.f32, arith.andi(bits, self._int(MAGNITUDE_MASK)))

        def larger(q: ir.Value, most: ir.Value) -> Sequence[ir.Value]:
            total = magnitude(q, 0)
            for t in range(1, FIVE):
                total = arith.addf(total, magnitude(q, t))
            bits = arith.andi(arith.bitcast(self.i32, total), self._int(MAGNITUDE_MASK))
            return [arith.maxui(most, bits)]

        fives = emit.index(self.kernel.quads)
        (largest,) = emit.loop(emit.index(0), fives, emit.index(1), larger, [self._int(0)])
        self.rounded(s, largest, lambda inverse: self._of_span(s, element, inverse))

    def _of_span(
        self,
        s: ir.Value,
        element: Callable[[ir.Value, int], Place],
        inverse: ir.Value | None,
    ) -> None:
        first = arith.muli(s, emit.index(self.kernel.quads * self.kernel.table_words))
        rounding = emit.splat(ENTRIES, self.f32, ROUNDING + self.kernel.bias)

        def table(q: ir.Value) -> None:
            start = arith.addi(first, arith.muli(q, emit.index(self.kernel.table_words)))
            found = [rounding] * (TABLE // ENTRIES)
            if inverse is not None:
                entries = self._entries([element(q, t) for t in range(FIVE)])
                found = [vector.fma(entry, inverse, rounding) for entry in entries]
            for i, part in enumerate(found):
                self.store_entries([part], arith.addi(start, emit.index(i * WORDS)))

        emit.each(emit.index(0), emit.index(self.kernel.quads), 1, table)

    def _entries(self, places: Sequence[Place]) -> list[ir.Value]:
        """Return the entries 0 … 127 of a table in f32; those beyond 121 are 0."""
        x = [emit.broadcast_scalar(ENTRIES, *place) for place in places]
        q = digits()
        sums = []
        for start in (0, ENTRIES):
            keys = np.minimum(np.arange(start, start + ENTRIES), FIRST - 1)
            total = arith.mulf(x[0], _constant(q[keys, 0]))
            for t in (1, 2):
                total = vector.fma(x[t], _constant(q[keys, t]), total)
            sums.append(total)
        found = []
        for start in range(ZERO, ZERO + TABLE, ENTRIES):
            keys = np.arange(start, start + ENTRIES)
            keys = np.where(keys < KEYS, keys, ZERO)
            total = vector.shuffle(*sums, [int(key) for key in keys % FIRST])
            for t in (3, 4):
                total = vector.fma(x[t], _constant(q[keys, t]), total)
            found.append(total)
        return found


def _constant(values: NDArray[np.int64]) -> ir.Value:
    type_ = emit.vector_type(ENTRIES, ir.F32Type.get())
    numbers = [ir.FloatAttr.get(ir.F32Type.get(), float(value)) for value in values]
    return arith.constant(type_, ir.DenseElementsAttr.get(numbers, type_))
