"""Look-ups by byte shuffles: the sums of a span, for any CPU with AVX2.

A byte shuffle (``vpshufb``) looks up 16 entries of a byte in every 128 bits of a register, so one
instruction adds up four inputs of a plane for each of 64 columns (32 with AVX2).  With rows r and
planes i, for a panel p::

    for pair of quads in span:
      k[i] = keys[p, pair, i]
      b[r, i] = T[r, even quad][k[i] & 15] + T[r, odd quad][k[i] >> 4 & 15]      // bytes
      all[r, i] += b[r, i]; odd[r, i] += b[r, i] >> 8                            // 16 bits
    even = all - (odd << 8)

Entries come with 2^(bits-1) added: none is negative, so no byte borrows from its neighbour, and as
many are added in bytes as do not exceed 255 (four of 6 bits, two of 7, one of 8).
What was added is taken off by where the 16-bit sums start.  They are exact: a span is short enough
(:func:`.table_matmul.refusal`).  How keys are stored: ``formats/key_panels.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith, vector

from . import emit
from .executable import Interface
from .integer_dot import multiply_shorts
from .table_rows import WORDS
from .table_sums import VECTORS, TableBody

STEP = 4  # quads that the inner loop takes at a time: what bytes of 6 bits can hold


class Shuffles(TableBody):
    """The function of one kernel while it is being built."""

    def __init__(self, kernel: Any, interface: Interface) -> None:
        super().__init__(kernel, interface)
        self.bytes = emit.vector_type(4 * self.lanes, emit.integer(8))
        self.shorts = emit.vector_type(2 * self.lanes, emit.integer(16))

    def look_up(self, s: ir.Value) -> None:
        """Look up the entries of a span, and add what they sum up to, scaled, to the totals."""
        self.sites = [
            (r, p, i)
            for r in range(len(self.records))
            for p in range(self.vectors // VECTORS)
            for i in range(self.kernel.planes)
        ]
        steps = emit.index(self.rows.quads // STEP)
        first = arith.muli(s, steps)

        def step(i: ir.Value, *carried: ir.Value) -> Sequence[ir.Value]:
            return self._step(arith.addi(first, i), carried)

        off = self.rows.quads * self.rows.bias
        start = [self._splat16(-off * 257), self._splat16(-off)] * len(self.sites)
        sums = emit.loop(emit.index(0), steps, emit.index(1), step, start)

        def found(r: int, p: int, i: int) -> list[ir.Value]:
            site = self.sites.index((r, p, i))
            factor = 1 if self.factors is None else self.factors[i]
            return self._wide(sums[2 * site], sums[2 * site + 1], factor)

        if self.factors is None:
            self.add_scaled(s, found)
            return
        for r in range(len(self.records)):
            for p in range(self.vectors // VECTORS):
                joined = self.begin(s, r, p)
                for i in range(self.kernel.planes):
                    joined = list(map(arith.addi, joined, found(r, p, i)))
                self.add_joined(s, r, p, joined)

    def _step(self, number: ir.Value, carried: Sequence[ir.Value]) -> list[ir.Value]:
        """Add the entries of `STEP` quads to the sums: of each site all, then the odd ones."""
        table = functools.cache(lambda r, q: self._table(r, number, q))
        words = functools.cache(lambda p, i, pair: self._word(p, i, number, pair))
        keys = functools.cache(lambda p, i, q: self._keys(words(p, i, q // 2), q))
        sums = list(carried)
        folded = self.rows.folded
        for start in range(0, STEP, folded):
            for site, (r, p, i) in enumerate(self.sites):
                quads = range(start, start + folded)
                found = [self._look_up(table(r, q), keys(p, i, q)) for q in quads]
                total = vector.bitcast(self.shorts, functools.reduce(arith.addi, found))
                odd = arith.shrui(total, self._splat16(8))
                sums[2 * site] = arith.addi(sums[2 * site], total)
                sums[2 * site + 1] = arith.addi(sums[2 * site + 1], odd)
        return sums

    def _table(self, r: int, number: ir.Value, q: int) -> ir.Value:
        """Load a table into all 128-bit parts of a register."""
        at = arith.addi(arith.muli(number, emit.index(STEP * WORDS)), emit.index(q * WORDS))
        words = emit.load(WORDS, self.a, [self.records[r], at])
        spread = vector.shuffle(words, words, list(range(WORDS)) * (self.lanes // WORDS))
        return vector.bitcast(self.bytes, spread)

    def _keys(self, word: ir.Value, q: int) -> ir.Value:
        """Return the keys of quad `q` of a step, one in each byte."""
        if q % 2:
            word = arith.shrui(word, emit.splat(self.lanes, self.i32, 4))
        masked = arith.andi(word, emit.splat(self.lanes, self.i32, 0x0F0F0F0F))
        return vector.bitcast(self.bytes, masked)

    def _word(self, p: int, i: int, number: ir.Value, pair: int) -> ir.Value:
        panel, _ = self.panel(p * VECTORS)
        row = arith.addi(arith.muli(number, emit.index(STEP // 2)), emit.index(pair))
        at = [self.item, panel, row, emit.index(i), emit.index(0)]
        ahead = max(1, self.ahead_bytes // (4 * self.lanes * self.kernel.planes))
        self.fetch(self.signs, at, 2, ahead)
        return emit.load(self.lanes, self.signs, at)

    def _look_up(self, table: ir.Value, keys: ir.Value) -> ir.Value:
        name = "llvm.x86.avx512.pshuf.b.512" if self.lanes == 16 else "llvm.x86.avx2.pshuf.b"
        found: ir.Value = emit.intrinsic(name, [table, keys], self.bytes)
        return found

    def _wide(self, every: ir.Value, odd: ir.Value, factor: int) -> list[ir.Value]:
        """Return the sums of a register of bytes in 32 bits, times `factor`, in column order."""
        even = arith.subi(every, arith.shli(odd, self._splat16(8)))
        return [
            self._chosen(part, factor << 16 if upper else factor)
            for upper in (False, True)
            for part in (even, odd)
        ]

    def _chosen(self, shorts: ir.Value, factors: int) -> ir.Value:
        """Return the short of each 32-bit lane that has a factor other than 0, times that."""
        return multiply_shorts(self.lanes, shorts, emit.splat(self.lanes, self.i32, factors))

    def _splat16(self, value: int) -> ir.Value:
        return emit.splat(2 * self.lanes, emit.integer(16), value & 0xFFFF)
