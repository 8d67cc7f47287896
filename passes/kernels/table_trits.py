"""Look-ups for four ternary weights at once: the sums of a span, for CPUs with AVX-512 VBMI.

The tables are those of planes of signs (``table_rows.py``), and so are the sums, to the bit: a byte
of a weight says which two of the 16 entries of a table are added for its four weights
(``formats/trit_quads.py``).  All such sums are made of a table, 128 bytes in two registers, and one
permutation looks a byte up for each of 64 columns::

    for pair of quads in span:
      low = T[r, quad] four times + T[r, quad][second key of each number]      // of each quad
      high = 2 * bias - low                                 // bit 6 of a byte: negated weights
      for p in panels side by side:
        b = permuted(low, high)[bytes[p, quad]] + …         // two of 7 bits; of 8 one by one
        all[p] += b; odd[p] += b >> 8                       // 16 bits

So 256 weights take a permutation and 3 instructions for the sum (2 with tables of 6 bits), beside 3
to make the registers of a table, which the panels side by side share: eight, or four where there
are few (``tiles.choose_trits``); two planes of signs take 7.
"""

from __future__ import annotations

from collections.abc import Sequence

from iree.compiler import ir
from iree.compiler.dialects import arith, vector

from ..formats.tables import ENTRIES
from ..formats.trit_quads import seconds
from . import emit
from .table_fives import PAIR, Fives
from .table_rows import WORDS


class TritQuads(Fives):
    """The function of one kernel while it is being built."""

    @property
    def bias(self) -> int:
        """What was added to entries, which are two of a table."""
        return 2 * self.rows.bias

    @property
    def folded(self) -> int:
        """How many entries of a pair a byte can hold the sum of."""
        return min(max(1, self.rows.folded // 2), PAIR)

    def tables_of(self, r: int, quad: ir.Value) -> list[ir.Value]:
        """Return the sums that weights can choose, and those of the negated weights."""
        at = arith.muli(quad, emit.index(WORDS))
        words = emit.load(WORDS, self.a, [self.records[r], at])
        four = list(range(WORDS)) * (self.lanes // WORDS)
        first = vector.bitcast(self.bytes, vector.shuffle(words, words, four))
        places = [i // ENTRIES * ENTRIES + key for i, key in enumerate(seconds())]
        low = arith.addi(first, vector.shuffle(first, first, places))
        return [low, arith.subi(self.splat8(2 * self.bias), low)]

    def entry(self, tables: Sequence[ir.Value], keys: ir.Value) -> ir.Value:
        """Return the entries of keys, with what is added to all of them."""
        return self.permuted(tables, keys)
