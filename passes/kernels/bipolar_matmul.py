"""A matmul of two activations as bipolar integers for CPUs: XOR, and counts of bits.

The right operand comes coded (:mod:`.bipolar_columns`); rows of the left one are coded here, a
block of them at a time.  With rows r, vectors of columns v, planes i and j::

    a[r, w, i], s[r] = coded(A[m + r])
    for words w of K:
      bits[i + j, r, v] += count(splat(a[r, w, i]) ^ b[w, j, v])         // in each byte
    D[r, v] = sum over levels l and the four bytes of a lane of bits[l, r, v] << l
    C[r, v] = (K (2^n - 1)^2 - 2 D[r, v]) * s[r] * t[v]

Bits are counted in bytes: one instruction with AVX-512 BITALG and on Arm, two look-ups in a
register with AVX2 and AVX-512BW.  With VNNI ``vpdpbusd`` adds the bytes of a lane times ``2^l``.
The sums are exact, so every kernel gives the bits of the definition
(:mod:`..formats.bipolar_products`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from iree.compiler import ir
from iree.compiler.dialects import arith, math, vector

from ..formats import bipolar
from ..formats.bipolar_products import SPECIAL, WORD
from . import emit, exponents
from .bipolar_codes import BipolarCodes, Coder
from .blocked_matmul import BlockedMatmul, Body
from .executable import Interface
from .tiles import Isa

BYTE_BITS = 8
MOST = 255  # bits that a byte can count


@dataclass(frozen=True)
class BipolarMatmul(BlockedMatmul):
    """``C[batch, m, n]`` of the bipolar integers of both operands; K is known.

    Bindings: A in f32; panels of coded columns ``[batch, panels, words * planes + 1, columns]``; C.

    Attributes
    ----------
    codes : BipolarCodes
        Planes and scales.
    isa : Isa
        The vector unit.
    """

    codes: BipolarCodes = field(kw_only=True)
    isa: Isa = field(kw_only=True)

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        flags = "n" * self.isa.vnni + "b" * self.b_batch
        kind = f"p{self.codes.name}_{self.sizes_name}_{self.tile.name}{flags}"
        return f"xor_{kind}{self.epilogue_name}"

    @property
    def chunk(self) -> int:
        """Words whose bits a byte can count: those of a level come from several pairs of planes."""
        return MOST // (BYTE_BITS * self.codes.planes)

    def describe(self) -> str:
        """Say which kernel it is."""
        how = "bits counted in bytes"
        return f"{super().describe()}, {how}{', added by vpdpbusd' if self.isa.vnni else ''}"

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        _BipolarBody(self, interface).emit()


class _BipolarBody(Body):
    def __init__(self, kernel: BipolarMatmul, interface: Interface) -> None:
        self.kernel, self.codes = kernel, kernel.codes
        super().__init__(kernel, interface)
        self.bytes = emit.vector_type(4 * self.lanes, emit.integer(8))
        self.ints = emit.vector_type(self.lanes, self.i32)

    def bind(self) -> None:
        codes = self.codes
        self.a = self.buffer(0, ("batch", "m", "k"), self.f32)
        rows = codes.words * codes.planes + 1
        self.b = self.panel_buffer(1, rows, self.tile.columns, self.i32)
        self.bind_result(2)

    def reserve(self) -> None:
        """Reserve room for coded rows, and for magnitudes that are added."""
        rows, codes = self.tile.rows, self.codes
        self.words = emit.scratch([rows, codes.words * codes.planes], self.i32)
        self.scales = emit.scratch([rows], self.i32)
        if codes.planes == 1:
            self.magnitudes = emit.scratch([rows, WORD], self.f32)

    # -- rows --------------------------------------------------------------------------------------

    def prepare(self, m: ir.Value, rows: int) -> None:
        """Code `rows` rows of A, 32 inputs of one at a time."""
        coder, single = Coder(self.codes, WORD), Coder(self.codes, 0)
        at = [arith.addi(m, emit.index(r)) for r in range(rows)]

        def measure(w: ir.Value, *before: ir.Value) -> Sequence[ir.Value]:
            found = []
            for r in range(rows):
                magnitude = coder.magnitude(self._inputs(at[r], w))
                found.append(arith.maxui(before[r], magnitude))
                if is_summed:
                    number = coder.number(magnitude)
                    emit.store(number, self.magnitudes, [emit.index(r), emit.index(0)])
            return [*found, *self._with_magnitudes(before[rows:])]

        is_summed = self.codes.planes == 1
        words, one = emit.index(self.codes.words), emit.index(1)
        zero = arith.constant(self.f32, 0.0)
        nothing = [coder.int(0)] * rows + [zero] * rows * is_summed
        most = emit.loop(emit.index(0), words, one, measure, nothing)
        highest = [vector.reduction(self.i32, vector.CombiningKind.MAXUI, v) for v in most[:rows]]
        totals = most[rows:] if is_summed else [zero] * rows
        for r in range(rows):
            scale = single.scale(highest[r], totals[r])
            emit.store_scalar(scale, self.scales, [emit.index(r)])
        reach = [
            _spread(WORD, single.reach(top)) if self.codes.planes > 1 else None for top in highest
        ]

        def code(w: ir.Value) -> None:
            exists = self._exists(w)
            for r in range(rows):
                is_set = coder.planes(self._inputs(at[r], w), reach[r], exists)
                for i, mask in enumerate(is_set):
                    packed = vector.bitcast(emit.vector_type(1, self.i32), mask)
                    row = arith.addi(arith.muli(w, emit.index(self.codes.planes)), emit.index(i))
                    emit.store(packed, self.words, [emit.index(r), row])

        emit.each(emit.index(0), words, 1, code)

    def _with_magnitudes(self, totals: Sequence[ir.Value]) -> Sequence[ir.Value]:
        """Return the sum of each row and of the magnitudes of a word, from the first to the last.

        Those of inputs that a row does not have are 0.
        """
        if not totals:
            return []

        def add(k: ir.Value, *before: ir.Value) -> Sequence[ir.Value]:
            return [
                arith.addf(total, emit.load_scalar(self.magnitudes, [emit.index(r), k]))
                for r, total in enumerate(before)
            ]

        return emit.loop(emit.index(0), emit.index(WORD), emit.index(1), add, list(totals))

    def _inputs(self, row: ir.Value, w: ir.Value) -> ir.Value:
        k = arith.muli(w, emit.index(WORD))
        found: ir.Value = emit.load(WORD, self.a, [self.item, row, k], self._exists(w))
        return found

    def _exists(self, w: ir.Value) -> ir.Value | None:
        if self.codes.k % WORD == 0:
            return None
        k = arith.muli(w, emit.index(WORD))
        return emit.mask_of(WORD, arith.subi(self.k, k))

    # -- products ----------------------------------------------------------------------------------

    def left(self, m: ir.Value, r: int, k: ir.Value) -> ir.Value:
        """Return word `k` of the codes of row ``m + r`` in all lanes."""
        return emit.broadcast_scalar(self.lanes, self.words, [emit.index(r), k])

    def weights(self, p: ir.Value, k: ir.Value, *, ahead: bool) -> Sequence[ir.Value]:
        """Return row `k` of panel `p`: words of one plane, or scales."""
        lanes = [emit.index(v * self.lanes) for v in range(self.tile.vectors)]
        return [emit.load(self.lanes, self.b, [self.b_item, p, k, lane]) for lane in lanes]

    def accumulate(self, total: ir.Value, left: ir.Value, weight: ir.Value) -> ir.Value:
        """Return `total`, in bytes, and how many bits differ in each."""
        differ = vector.bitcast(self.bytes, arith.xori(left, weight))
        return arith.addi(total, math.ctpop(differ))

    def sums(
        self, m: ir.Value, rows: int, p: ir.Value, started: Sequence[ir.Value]
    ) -> Sequence[ir.Value]:
        """Build the sums of all words, and scale them."""
        words, chunk = self.codes.words, self.kernel.chunk
        counts: list[ir.Value] = [exponents.bits(self.lanes, 0)] * len(started)

        def counted(c: ir.Value, *before: ir.Value) -> Sequence[ir.Value]:
            first = arith.muli(c, emit.index(chunk))
            return self._counted(m, rows, p, first, chunk, before)

        whole = words // chunk
        if whole > 1:
            counts = emit.loop(emit.index(0), emit.index(whole), emit.index(1), counted, counts)
        elif whole:
            counts = list(counted(emit.index(0), *counts))
        if words % chunk:
            first = emit.index(whole * chunk)
            counts = self._counted(m, rows, p, first, words % chunk, counts)
        return self._scaled(rows, p, counts)

    def _counted(
        self, m: ir.Value, rows: int, p: ir.Value, first: ir.Value, words: int,
        counts: Sequence[ir.Value],
    ) -> list[ir.Value]:  # fmt: skip
        """Add to D the bits that differ in so many words: no byte of a level can overflow."""
        planes, size = self.codes.planes, len(counts)
        zero = emit.splat(4 * self.lanes, emit.integer(8), 0)

        def word(w: ir.Value, *carried: ir.Value) -> Sequence[ir.Value]:
            found, row = list(carried), arith.muli(w, emit.index(planes))
            right = [
                self.weights(p, arith.addi(row, emit.index(j)), ahead=False) for j in range(planes)
            ]
            for r in range(rows):
                for i in range(planes):
                    left = self.left(m, r, arith.addi(row, emit.index(i)))
                    for j in range(planes):
                        for v, weight in enumerate(right[j]):
                            at = (i + j) * size + r * self.tile.vectors + v
                            found[at] = self.accumulate(found[at], left, weight)
            return found

        levels: list[ir.Value] = [zero] * (self.codes.levels * size)
        if words == 1:
            levels = list(word(first, *levels))
        else:
            last = arith.addi(first, emit.index(words))
            levels = emit.loop(first, last, emit.index(1), word, levels)
        found = list(counts)
        for level in range(self.codes.levels):
            for place in range(size):
                found[place] = self._widened(found[place], levels[level * size + place], level)
        return found

    def _widened(self, total: ir.Value, counts: ir.Value, level: int) -> ir.Value:
        """Return `total` and the four bytes of each lane of `counts`, times ``2^level``."""
        if self.kernel.isa.vnni:
            name = f"llvm.x86.avx512.vpdpbusd.{32 * self.lanes}"
            weight = emit.splat(4 * self.lanes, emit.integer(8), 1 << level)
            found: ir.Value = emit.intrinsic(name, [total, counts, weight], total.type)
            return found
        value = vector.bitcast(self.ints, counts)
        for width, mask in ((8, 0x00FF00FF), (16, 0x0000FFFF)):
            upper = arith.shrui(value, exponents.bits(self.lanes, width))
            kept = exponents.bits(self.lanes, mask)
            value = arith.addi(arith.andi(value, kept), arith.andi(upper, kept))
        moved = arith.shli(value, exponents.bits(self.lanes, level)) if level else value
        return arith.addi(total, moved)

    # -- scales ------------------------------------------------------------------------------------

    def _scaled(self, rows: int, p: ir.Value, counts: Sequence[ir.Value]) -> list[ir.Value]:
        """Return C from D and the scales of rows and columns."""
        codes, found = self.codes, []
        most = exponents.bits(self.lanes, codes.k * bipolar.largest(codes.planes) ** 2)
        columns = self.weights(p, emit.index(codes.words * codes.planes), ahead=False)
        for r in range(rows):
            row = emit.broadcast_scalar(self.lanes, self.scales, [emit.index(r)])
            for v, column in enumerate(columns):
                count = counts[r * self.tile.vectors + v]
                total = arith.subi(most, arith.shli(count, exponents.bits(self.lanes, 1)))
                value = arith.sitofp(emit.vector_type(self.lanes, self.f32), total)
                found.append(self._times(value, row, column))
        return found

    def _times(self, value: ir.Value, row: ir.Value, column: ir.Value) -> ir.Value:
        if self.codes.scales == "f32":
            row, column = (emit.as_floats(scale, self.lanes) for scale in (row, column))
            return arith.mulf(arith.mulf(value, row), column)
        moved = vector.bitcast(self.ints, value)
        special = exponents.bits(self.lanes, SPECIAL)
        for scale in (row, column):
            up = arith.shli(scale, exponents.bits(self.lanes, exponents.MANTISSA))
            moved = exponents.scaled(moved, up, self.lanes)
        is_nan = arith.ori(
            *(arith.cmpi(arith.CmpIPredicate.eq, scale, special) for scale in (row, column))
        )
        nan = emit.splat(self.lanes, self.f32, float("nan"))
        return arith.select(is_nan, nan, emit.as_floats(moved, self.lanes))


def _spread(lanes: int, value: ir.Value) -> ir.Value:
    found: ir.Value = vector.broadcast(emit.vector_type(lanes, value.type), value)
    return found
