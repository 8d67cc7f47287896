"""Look-ups of four quads at once: the sums of a span, for CPUs with AVX-512 VBMI and VNNI.

A byte permutation (``vpermb``) looks up 64 entries of a byte, which are the tables of four quads.
A 32-bit lane belongs to one column; its byte j looks up in the table j, and ``vpdpbusd`` adds the
four bytes to a sum of 32 bits, times a plane's factor if planes are joined.  With rows r and planes
i, for 16 columns::

    for word in span:                                      // 32 signs, two halves of bytes
      for h in 0, 1:
        k = (words[p, word, i] >> 4 h) & 0x0f0f0f0f | 0x30201000
        sum[r, i] += vpdpbusd(factor[i], vpermb(T[r, word, h], k))

So 256 signs take a shift for every second look-up, a ternary logic instruction, a permutation and a
dot product: 1.75 cycles on Zen 4, where each pair of 512-bit operations occupies all four ports for
a cycle.  Entries are signed, of up to 8 bits; a sum needs no widening.
"""

from __future__ import annotations

from collections.abc import Sequence

from iree.compiler import ir
from iree.compiler.dialects import arith, vector

from ..formats.binary_codes import WORD
from ..formats.sign_panels import PER_WORD
from . import emit
from .table_rows import WORDS
from .table_sums import VECTORS, TableBody

HALVES = 2  # of a byte: a key each
CHOOSE = 0x30201000  # which of four tables each byte of a lane looks up in
LOW_HALVES = 0x0F0F0F0F


class Permutes(TableBody):
    """The function of one kernel while it is being built."""

    def look_up(self, s: ir.Value) -> None:
        """Look up the entries of a span, and add what they sum up to, scaled, to the totals."""
        self.bytes = emit.vector_type(4 * self.lanes, emit.integer(8))
        planes = 1 if self.factors else self.kernel.planes
        self.sites = [
            (r, v, i)
            for r in range(len(self.records))
            for v in range(self.vectors)
            for i in range(planes)
        ]
        count = self.rows.format.span // WORD
        first = arith.muli(s, emit.index(count))
        start = self._starts(s)

        def step(i: ir.Value, *carried: ir.Value) -> Sequence[ir.Value]:
            return self._word(arith.addi(first, i), carried)

        sums = emit.loop(emit.index(0), emit.index(count), emit.index(1), step, start)

        def found(r: int, p: int, i: int) -> list[ir.Value]:
            vectors = range(p * VECTORS, (p + 1) * VECTORS)
            return [sums[self.sites.index((r, v, i))] for v in vectors]

        if self.factors is None:
            self.add_scaled(s, found)
            return
        for r in range(len(self.records)):
            for p in range(self.vectors // VECTORS):
                self.add_joined(s, r, p, found(r, p, 0))

    def _starts(self, s: ir.Value) -> list[ir.Value]:
        """Return where the sums of all sites start."""
        if self.factors is None:
            return [emit.splat(self.lanes, self.i32, 0)] * len(self.sites)
        return [
            start
            for r in range(len(self.records))
            for p in range(self.vectors // VECTORS)
            for start in self.begin(s, r, p)
        ]

    def _word(self, number: ir.Value, carried: Sequence[ir.Value]) -> list[ir.Value]:
        """Add the entries for one word of every column to the sums."""
        sums = list(carried)
        rows = range(len(self.records))
        tables = [[self._tables(r, number, h) for h in range(HALVES)] for r in rows]
        for i in range(self.kernel.planes):
            factor = self.factors[i] if self.factors else 1
            factors = vector.bitcast(
                self.bytes, emit.splat(self.lanes, self.i32, factor * 0x01010101)
            )
            for v in range(self.vectors):
                word = self._signs(number, i, v)
                for h in range(HALVES):
                    keys = self._keys(word, h)
                    for r in rows:
                        site = self.sites.index((r, v, 0 if self.factors else i))
                        found = self._look_up(tables[r][h], keys)
                        name = "llvm.x86.avx512.vpdpbusd.512"
                        operands = [sums[site], factors, found]
                        sums[site] = emit.intrinsic(name, operands, sums[site].type)
        return sums

    def _tables(self, r: int, number: ir.Value, h: int) -> ir.Value:
        """Load the tables of four quads: of the halves `h` of the bytes of a word."""
        at = arith.muli(number, emit.index(PER_WORD * WORDS))
        at = arith.addi(at, emit.index(h * PER_WORD // HALVES * WORDS))
        return vector.bitcast(self.bytes, emit.load(self.lanes, self.a, [self.records[r], at]))

    def _signs(self, number: ir.Value, i: int, v: int) -> ir.Value:
        panel, own = self.panel(v)
        at = [self.item, panel, number, emit.index(i), emit.index(own * self.lanes)]
        found: ir.Value = emit.load(self.lanes, self.signs, at)
        return found

    def _keys(self, word: ir.Value, h: int) -> ir.Value:
        """Return the places in the tables, one in each byte."""
        if h:
            word = arith.shrui(word, emit.splat(self.lanes, self.i32, 4))
        masked = arith.andi(word, emit.splat(self.lanes, self.i32, LOW_HALVES))
        chosen = arith.ori(masked, emit.splat(self.lanes, self.i32, CHOOSE))
        return vector.bitcast(self.bytes, chosen)

    def _look_up(self, tables: ir.Value, keys: ir.Value) -> ir.Value:
        name = "llvm.x86.avx512.permvar.qi.512"
        found: ir.Value = emit.intrinsic(name, [tables, keys], self.bytes)
        return found
