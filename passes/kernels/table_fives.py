"""Look-ups for five ternary weights at once: the sums of a span, for CPUs with AVX2.

A byte of a weight is the sign and the magnitude of five ternary weights' key
(``formats/trits.py``).  Its low seven bits are looked up in 128 entries; where the sign is set, the
entry is taken from twice what was added to all entries::

    for pair of fives in span:
      b[r] = turned(T[r, first][key & 127], key) + …          // bytes, two of 7 bits
      all[r] += b[r]; odd[r] += b[r] >> 8                      // 16 bits

With VBMI a permutation of bytes in two registers (``vpermi2b``) is the look-up, and ignores the
sign: 320 weights take it, a mask of signs and a subtraction, and 2 to 3 instructions for the sums.
Without, eight byte shuffles look the low four bits up in 16 entries each, and bits 4, 5 and 6
choose among what they found: 8 shuffles, 7 choices and 4 instructions for keys and masks, where two
planes of signs take 10 shuffles and 30 others for as many weights.

Tables are 26 bytes for an input: panels are read side by side, so that these come from the second
cache seldom.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from iree.compiler import ir
from iree.compiler.dialects import arith, vector

from ..formats.tables import ENTRIES
from . import emit
from .table_rows import WORDS
from .table_shuffles import Shuffles
from .table_sums import VECTORS

PAIR = 2


class Fives(Shuffles):
    """The function of one kernel while it is being built."""

    @property
    def bias(self) -> int:
        """What was added to entries."""
        return self.rows.bias

    @property
    def folded(self) -> int:
        """How many entries of a pair a byte can hold the sum of."""
        return min(self.rows.folded, PAIR)

    def look_up(self, s: ir.Value) -> None:
        """Look up the entries of a span, and add what they sum up to, scaled, to the totals."""
        self.sites = [
            (r, p, 0) for r in range(len(self.records)) for p in range(self.vectors // VECTORS)
        ]
        first = arith.muli(s, emit.index(self.rows.quads))

        def step(i: ir.Value, *carried: ir.Value) -> Sequence[ir.Value]:
            return self._pair(arith.addi(first, i), carried)

        off = self.rows.quads * self.bias
        start = [self._splat16(-off * 257), self._splat16(-off)] * len(self.sites)
        stop, by = emit.index(self.rows.quads), emit.index(PAIR)
        sums = emit.loop(emit.index(0), stop, by, step, start)
        for site, (r, p, _) in enumerate(self.sites):
            self.add_joined(s, r, p, self._wide(sums[2 * site], sums[2 * site + 1], 1))

    def _pair(self, number: ir.Value, carried: Sequence[ir.Value]) -> list[ir.Value]:
        """Add the entries of two fives to the sums: of each site all, then the odd ones."""
        fives = [arith.addi(number, emit.index(i)) if i else number for i in range(PAIR)]
        tables = functools.cache(lambda r, i: self.tables_of(r, fives[i]))
        keys = functools.cache(lambda p, i: self._bytes_of(p, fives[i]))
        sums = list(carried)
        for start in range(0, PAIR, self.folded):
            for site, (r, p, _) in enumerate(self.sites):
                numbers = range(start, start + self.folded)
                found = [self.entry(tables(r, i), keys(p, i)) for i in numbers]
                total = vector.bitcast(self.shorts, functools.reduce(arith.addi, found))
                odd = arith.shrui(total, self._splat16(8))
                sums[2 * site] = arith.addi(sums[2 * site], total)
                sums[2 * site + 1] = arith.addi(sums[2 * site + 1], odd)
        return sums

    def tables_of(self, r: int, five: ir.Value) -> list[ir.Value]:
        """Return the entries of a table: of a register's bytes, or 16 in each part of one."""
        count = self.lanes if self.rows.isa.vbmi else WORDS
        start = arith.muli(five, emit.index(self.rows.table_words))
        found = []
        for first in range(0, self.rows.table_words, count):
            place = arith.addi(start, emit.index(first)) if first else start
            words = emit.load(count, self.a, [self.records[r], place])
            if count < self.lanes:
                words = vector.shuffle(words, words, list(range(count)) * (self.lanes // count))
            found.append(vector.bitcast(self.bytes, words))
        return found

    def _bytes_of(self, p: int, five: ir.Value) -> ir.Value:
        panel, _ = self.panel(p * VECTORS)
        at = [self.item, panel, five, emit.index(0)]
        return vector.bitcast(self.bytes, emit.load(self.lanes, self.signs, at))

    def entry(self, tables: Sequence[ir.Value], keys: ir.Value) -> ir.Value:
        """Return the entries of keys, with what is added to all of them."""
        if self.rows.isa.vbmi:
            found = self.permuted(tables, keys)
        else:
            found = self._chosen_entry(tables, keys)
        twice = self.splat8(2 * self.bias)
        turned: ir.Value = arith.select(self._has(keys, 7), arith.subi(twice, found), found)
        return turned

    def permuted(self, tables: Sequence[ir.Value], keys: ir.Value) -> ir.Value:
        """Look the low seven bits of keys up in two registers of entries."""
        name = "llvm.x86.avx512.vpermi2var.qi.512"
        found: ir.Value = emit.intrinsic(name, [tables[0], keys, tables[1]], self.bytes)
        return found

    def _chosen_entry(self, tables: Sequence[ir.Value], keys: ir.Value) -> ir.Value:
        low = arith.andi(keys, self.splat8(ENTRIES - 1))
        found = [self._look_up(table, low) for table in tables]
        for bit in (4, 5, 6):
            is_set = self._has(keys, bit)
            pairs = zip(found[::2], found[1::2], strict=True)
            found = [arith.select(is_set, second, first) for first, second in pairs]
        (entry,) = found
        return entry

    def _has(self, keys: ir.Value, bit: int) -> ir.Value:
        """Return which keys have a bit: as a sign, which costs nothing to choose by."""
        moved = keys
        if bit < 7:
            words = vector.bitcast(self.shorts, keys)
            moved = vector.bitcast(self.bytes, arith.shli(words, self._splat16(7 - bit)))
        zero = self.splat8(0)
        found: ir.Value = arith.cmpi(arith.CmpIPredicate.slt, moved, zero)
        return found

    def splat8(self, value: int) -> ir.Value:
        """Return a register with `value` in all bytes, of which the low eight bits count."""
        return emit.splat(4 * self.lanes, emit.integer(8), value & 0xFF)
