"""A matmul of binary-coded weights by look-up in tables of sums of activations, for CPUs.

A byte shuffle (``vpshufb``) looks up 16 entries of a byte in every 128 bits of a register, so one
instruction adds up four inputs of a plane for each of 64 columns (32 with AVX2).  For a panel of
columns, with rows r and planes i::

    for s in spans:                                        // one power of two each
      for pair of quads in span:
        k[i] = keys[p, pair, i]
        b[r, i] = T[r, even quad][k[i] & 15] + T[r, odd quad][k[i] >> 4 & 15]      // bytes
        all[r, i] += b[r, i]; odd[r, i] += b[r, i] >> 8                            // 16 bits
      even = all - (odd << 8)
      total[r] += 2^e[r, s] * sum over i of scale[p, g(s), i] * f32(even, odd)[r, i]

Entries come with 2^(bits-1) added: none is negative, so no byte borrows from its neighbour, and as
many are added in bytes as do not exceed 255 (four of 6 bits, two of 7, one of 8).
What was added is taken off by where the 16-bit sums start.  They are exact: a span is short enough
(:func:`refusal`).  How keys and scales are stored: ``formats/key_panels.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith, vector

from ..formats.key_panels import ROWS as VECTORS
from ..formats.tables import QUAD, TableFormat
from . import emit
from .epilogue import Epilogue
from .executable import Interface
from .integer_dot import multiply_shorts
from .record_matmul import RecordBody, RecordMatmul
from .table_rows import WORDS, TableRows
from .tiles import Tile, tables_together

STEP = 4  # quads that the inner loop takes at a time: what bytes of 6 bits can hold
SHORT = 1 << 15


@dataclass(frozen=True)
class TableMatmul(RecordMatmul):
    """``C[batch, m, n] = sum over s, i of P[batch, m, n, s, i] * 2^e * scale``, P exact.

    Bindings: records of the rows (:class:`.table_rows.TableRows`), panels of keys and of scales of
    the weight (:mod:`..formats.key_panels`), and C.

    Attributes
    ----------
    batch, m, n, tile, epilogue
        As :class:`.record_matmul.RecordMatmul` has them.
    rows : TableRows
        The records: K, spans, where scales stand.
    planes, group : int
        Planes of signs, and how many inputs share a scale: whole spans, or all of K.
    """

    batch: int
    m: int | None
    n: int
    rows: TableRows
    planes: int
    group: int
    tile: Tile
    epilogue: Epilogue | None = None

    @property
    def record_words(self) -> int:
        """Words of a record."""
        return self.rows.words

    @property
    def groups(self) -> int:
        """Groups of K."""
        return -(-self.rows.k // self.group)

    @property
    def pairs(self) -> int:
        """Pairs of quads of all spans."""
        return self.rows.spans * self.rows.quads // 2

    @property
    def bits_per_weight(self) -> float:
        """Bits that a weight takes in panels, scales and what fills up K counted."""
        return self.planes * (8 * self.pairs + 16 * self.groups) / self.rows.k

    @property
    def weights(self) -> list[tuple[list[int], int]]:
        """Keys and scales."""
        columns = self.tile.columns
        return [
            ([self.pairs, self.planes, columns // 4], 32),
            ([self.groups, self.planes, columns // 2], 32),
        ]

    def together(self, rows: int) -> int:
        """Return how many panels are read side by side for a block of `rows`."""
        return min(tables_together(self.rows.isa, rows, self.planes), self.tile.panels)

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        m = "d" if self.m is None else str(self.m)
        tile = f"t{self.tile.rows}x{self.tile.vectors}g{self.tile.panels}c{self.tile.row_chunk}"
        after = "" if self.epilogue is None else f"_{self.epilogue.name}"
        kind = f"b{self.planes}g{self.group}"
        return f"lookup_{kind}_{self.batch}x{m}x{self.n}_{self.rows.name}_{tile}{after}"

    def describe(self) -> str:
        """Say which kernel it is."""
        size = f"{self.tile.rows} x {self.tile.columns}"
        text = f"look-up kernel (vpshufb, i{self.rows.format.bits}), {size} sums in registers"
        return text if self.epilogue is None else f"{text}, {self.epilogue.describe()}"

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        _Body(self, interface).emit()


def refusal(fmt: TableFormat, group: int, k: int) -> str:
    """Say why there is no kernel for tables of `fmt` and groups of a weight; "" if there is."""
    if fmt.span % (QUAD * STEP):
        return f"a span of {fmt.span} is no multiple of {QUAD * STEP}"
    if group < k and group % fmt.span:
        return f"a group of {group} is not whole spans of {fmt.span}"
    if fmt.span // QUAD * fmt.largest >= SHORT:
        return f"sums over spans of {fmt.span} do not fit 16 bits"
    return ""


class _Body(RecordBody):
    def __init__(self, kernel: TableMatmul, interface: Interface) -> None:
        super().__init__(kernel, interface)
        self.kernel, self.rows = kernel, kernel.rows
        self.keys, self.scales = self.weights
        self.bytes = emit.vector_type(4 * self.lanes, emit.integer(8))
        self.shorts = emit.vector_type(2 * self.lanes, emit.integer(16))
        self.words = emit.vector_type(self.lanes, self.i32)

    def add_products(self) -> None:
        panels = range(self.vectors // VECTORS)
        self.sites = [
            (r, p, i)
            for r in range(len(self.records))
            for p in panels
            for i in range(self.kernel.planes)
        ]
        emit.each(emit.index(0), emit.index(self.rows.spans), 1, self._span)

    def _span(self, s: ir.Value) -> None:
        steps = emit.index(self.rows.quads // STEP)
        first = arith.muli(s, steps)

        def step(i: ir.Value, *carried: ir.Value) -> Sequence[ir.Value]:
            return self._step(arith.addi(first, i), carried)

        off = self.rows.quads * self.rows.bias
        start = [self._splat16(-off * 257), self._splat16(-off)] * len(self.sites)
        sums = emit.loop(emit.index(0), steps, emit.index(1), step, start)
        self._scale(s, sums)

    # -- look-ups ----------------------------------------------------------------------------------

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
        self.fetch(self.keys, at, 2, ahead)
        return emit.load(self.lanes, self.keys, at)

    def _look_up(self, table: ir.Value, keys: ir.Value) -> ir.Value:
        name = "llvm.x86.avx512.pshuf.b.512" if self.lanes == 16 else "llvm.x86.avx2.pshuf.b"
        found: ir.Value = emit.intrinsic(name, [table, keys], self.bytes)
        return found

    # -- scales ------------------------------------------------------------------------------------

    def _scale(self, s: ir.Value, sums: Sequence[ir.Value]) -> None:
        """Add the scaled sums of a span to the totals."""
        start = arith.muli(s, emit.index(self.rows.format.span))
        g = arith.divui(start, emit.index(self.kernel.group))
        scale = functools.cache(lambda p, i: self._scales(g, p, i))
        place = arith.addi(s, emit.index(self.rows.first_scale))
        panels = range(self.vectors // VECTORS)
        for r in range(len(self.records)):
            power = self.record_scalar(r, place)
            for p in panels:
                parts: list[ir.Value] = []
                for i in range(self.kernel.planes):
                    site = self.sites.index((r, p, i))
                    found = self._floats(sums[2 * site], sums[2 * site + 1])
                    scales = scale(p, i)
                    if not parts:
                        parts = list(map(arith.mulf, found, scales))
                    else:
                        parts = list(map(vector.fma, found, scales, parts))
                for j, part in enumerate(parts):
                    at = self.total(r, p * VECTORS + j)
                    before = emit.load(self.lanes, self.totals, at)
                    emit.store(vector.fma(part, power, before), self.totals, at)

    def _scales(self, g: ir.Value, p: int, i: int) -> list[ir.Value]:
        """Return a plane's scales of a panel's columns, f32 in the order of the columns."""
        panel, _ = self.panel(p * VECTORS)
        found = []
        for h in range(VECTORS // 2):
            at = [self.item, panel, g, emit.index(i), emit.index(h * self.lanes)]
            self.fetch(self.scales, at, 2, 1)
            words = emit.load(self.lanes, self.scales, at)
            low = arith.shli(words, emit.splat(self.lanes, self.i32, 16))
            high = arith.andi(words, emit.splat(self.lanes, self.i32, 0xFFFF0000))
            found += [emit.as_floats(low, self.lanes), emit.as_floats(high, self.lanes)]
        return found

    def _floats(self, every: ir.Value, odd: ir.Value) -> list[ir.Value]:
        """Return the sums of a register of bytes as f32, in the order of the columns."""
        even = arith.subi(every, arith.shli(odd, self._splat16(8)))
        found = []
        for upper in (False, True):
            for part in (even, odd):
                wide = self._half(part, upper=upper)
                found.append(arith.sitofp(emit.vector_type(self.lanes, self.f32), wide))
        return found

    def _half(self, shorts: ir.Value, *, upper: bool) -> ir.Value:
        """Return the lower or the upper short of each 32-bit lane: a product with 1 and 0."""
        chosen = emit.splat(self.lanes, self.i32, 1 << 16 if upper else 1)
        return multiply_shorts(self.lanes, shorts, chosen)

    def _splat16(self, value: int) -> ir.Value:
        return emit.splat(2 * self.lanes, emit.integer(16), value & 0xFFFF)
