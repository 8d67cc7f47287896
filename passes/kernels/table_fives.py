"""Look-ups for five ternary weights at once: the sums of a span, for CPUs with AVX-512 VBMI.

A byte of a weight is the sign and the magnitude of five ternary weights' key
(``formats/trits.py``).  A permutation of bytes in two registers (``vpermi2b``) looks its low seven
bits up in 128 entries, and ignores the sign; where that is set, the entry is taken from twice what
was added to all entries::

    for pair of fives in span:
      b[r] = turned(vpermi2b(T[r, first], key), key) + …     // bytes, two of 7 bits
      all[r] += b[r]; odd[r] += b[r] >> 8                      // 16 bits

So 320 weights take a permutation, a mask of signs and a subtraction, and 2 to 3 instructions for
the sums.  Tables are 26 bytes for an input: panels are read side by side, so that these come from
the second cache seldom.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from iree.compiler import ir
from iree.compiler.dialects import arith, vector

from . import emit
from .table_shuffles import Shuffles
from .table_sums import VECTORS

PAIR = 2


class Fives(Shuffles):
    """The function of one kernel while it is being built."""

    def look_up(self, s: ir.Value) -> None:
        """Look up the entries of a span, and add what they sum up to, scaled, to the totals."""
        self.sites = [
            (r, p, 0) for r in range(len(self.records)) for p in range(self.vectors // VECTORS)
        ]
        first = arith.muli(s, emit.index(self.rows.quads))

        def step(i: ir.Value, *carried: ir.Value) -> Sequence[ir.Value]:
            return self._pair(arith.addi(first, i), carried)

        off = self.rows.quads * self.rows.bias
        start = [self._splat16(-off * 257), self._splat16(-off)] * len(self.sites)
        stop, by = emit.index(self.rows.quads), emit.index(PAIR)
        sums = emit.loop(emit.index(0), stop, by, step, start)
        for site, (r, p, _) in enumerate(self.sites):
            self.add_joined(s, r, p, self._wide(sums[2 * site], sums[2 * site + 1], 1))

    def _pair(self, number: ir.Value, carried: Sequence[ir.Value]) -> list[ir.Value]:
        """Add the entries of two fives to the sums: of each site all, then the odd ones."""
        fives = [arith.addi(number, emit.index(i)) if i else number for i in range(PAIR)]
        tables = functools.cache(lambda r, i: self._tables(r, fives[i]))
        keys = functools.cache(lambda p, i: self._bytes_of(p, fives[i]))
        sums = list(carried)
        folded = min(self.rows.folded, PAIR)
        for start in range(0, PAIR, folded):
            for site, (r, p, _) in enumerate(self.sites):
                numbers = range(start, start + folded)
                found = [self._entry(tables(r, i), keys(p, i)) for i in numbers]
                total = vector.bitcast(self.shorts, functools.reduce(arith.addi, found))
                odd = arith.shrui(total, self._splat16(8))
                sums[2 * site] = arith.addi(sums[2 * site], total)
                sums[2 * site + 1] = arith.addi(sums[2 * site + 1], odd)
        return sums

    def _tables(self, r: int, five: ir.Value) -> list[ir.Value]:
        start = arith.muli(five, emit.index(self.rows.table_words))
        places = [start, arith.addi(start, emit.index(self.lanes))]
        return [
            vector.bitcast(self.bytes, emit.load(self.lanes, self.a, [self.records[r], place]))
            for place in places
        ]

    def _bytes_of(self, p: int, five: ir.Value) -> ir.Value:
        panel, _ = self.panel(p * VECTORS)
        at = [self.item, panel, five, emit.index(0)]
        return vector.bitcast(self.bytes, emit.load(self.lanes, self.signs, at))

    def _entry(self, tables: Sequence[ir.Value], keys: ir.Value) -> ir.Value:
        """Return the entries of keys, with what is added to all of them."""
        i8, count = emit.integer(8), 4 * self.lanes
        name = "llvm.x86.avx512.vpermi2var.qi.512"
        found = emit.intrinsic(name, [tables[0], keys, tables[1]], self.bytes)
        twice = emit.splat(count, i8, 2 * self.rows.bias & 0xFF)
        is_minus = arith.cmpi(arith.CmpIPredicate.slt, keys, emit.splat(count, i8, 0))
        turned: ir.Value = arith.select(is_minus, arith.subi(twice, found), found)
        return turned
