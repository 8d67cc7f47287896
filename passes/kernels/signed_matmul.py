"""A matmul by binary-coded weights for CPUs that adds activations by signs, without tables.

A weight is planes of signs and, for each group of K, a scale that is a sum of powers of two.  With
rows r and vectors of columns v::

    for g in groups:
      for word of 32 inputs (or shorter group) in g, plane i:
        W[r, v] = 0
        for k in word:                                            // the inner loop
          W[r, v] += splat(A[m + r, k]) ^ (sign[i, v] & 1 << 31);  sign[i, v] <<= 1
        P[i, r, v] += W[r, v]
      for plane i:
        total[r, v] += sum over terms t of P[i, r, v] shifted by term[g, i, t, v]

Two operations a sign and row, and two for the sign itself, which rows share.  The order of all
sums is that of the definition (:func:`..formats.binary_codes.product`), so a kernel of any tile
gives its bits.  How signs and terms are stored: :mod:`..formats.signed_panels`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

from iree.compiler import ir
from iree.compiler.dialects import arith, vector

from ..formats.floats import F32
from ..formats.signed_panels import WORD
from . import emit, exponents
from .blocked_matmul import BlockedMatmul, Body
from .executable import Interface
from .tiles import AHEAD_BYTES, STREAMED_ROWS

STEP = 8  # inputs of one round of the inner loop


@dataclass(frozen=True)
class SignedMatmul(BlockedMatmul):
    """``C[batch, m, n] = sum over k, i of ±A[batch, m, k] * scale[batch, n, g(k), i]``.

    Bindings: A in f32; words of signs ``[batch of B, panels, words * planes, columns]`` and terms
    ``[batch of B, panels, G * planes, columns]``, both i32; C.  N and K are known.

    Attributes
    ----------
    planes, group, terms : int
        Planes of signs, inputs that share a scale, and powers of two of a scale.
    """

    planes: int = field(kw_only=True)
    group: int = field(kw_only=True)
    terms: int = field(kw_only=True)

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        what = f"p{self.planes}g{self.group}t{self.terms}"
        tile = f"{self.tile.name}{'b' * self.b_batch}"
        return f"signs_{what}_{self.sizes_name}_{tile}{self.epilogue_name}"

    @property
    def words(self) -> int:
        """Words of the signs of a column and plane."""
        return -(-(self.k or 0) // WORD)

    @property
    def groups(self) -> int:
        """Groups of K."""
        return -(-(self.k or 0) // self.group)

    @property
    def bits_per_weight(self) -> float:
        """Bits that a weight takes in panels, terms and what fills up K counted."""
        return 32 * self.planes * (self.words + self.groups) / (self.k or 1)

    def describe(self) -> str:
        """Say which kernel it is."""
        return f"{super().describe()}, signs turned by XOR"

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        _SignedBody(self, interface).emit()


def refusal(group: int, k: int) -> str:
    """Say why there is no kernel for groups of a weight; "" if there is."""
    if group < k and group % STEP:
        return f"a group of {group} is no multiple of {STEP}"
    return ""


Sums = list[ir.Value]  # of a row and a vector each, row by row


class _SignedBody(Body):
    def __init__(self, kernel: SignedMatmul, interface: Interface) -> None:
        self.kernel = kernel
        super().__init__(kernel, interface)

    def bind(self) -> None:
        kernel, columns = self.kernel, self.tile.columns
        self.a = self.buffer(0, ("batch", "m", "k"), self.f32)
        self.b = self.panel_buffer(1, kernel.words * kernel.planes, columns, self.i32)
        self.terms = self.panel_buffer(2, kernel.groups * kernel.planes, columns, self.i32)
        self.bind_result(3)

    def reserve(self) -> None:
        """Reserve nothing: rows are read where they are."""

    def left(self, m: ir.Value, r: int, k: ir.Value) -> ir.Value:
        """Return the pattern of A of row ``m + r`` in all lanes."""
        at = [self.item, arith.addi(m, emit.index(r)), k]
        value = emit.broadcast_scalar(self.lanes, self.a, at)
        return vector.bitcast(emit.vector_type(self.lanes, self.i32), value)

    def weights(self, p: ir.Value, k: ir.Value, *, ahead: bool) -> Sequence[ir.Value]:
        """Return the words of signs at row `k` of panel `p`: word and plane."""
        found = []
        for v in range(self.tile.vectors):
            lane = emit.index(v * self.lanes)
            if ahead:
                later = arith.addi(k, emit.index(AHEAD_BYTES // (4 * self.tile.columns)))
                emit.prefetch(self.b, [self.b_item, p, later, lane])
            found.append(emit.load(self.lanes, self.b, [self.b_item, p, k, lane]))
        return found

    def accumulate(self, total: ir.Value, left: ir.Value, weight: ir.Value) -> ir.Value:
        """Return `total` and `left` with the sign in the highest bit of `weight` (1 is minus)."""
        sign = arith.andi(weight, self._bits(F32.sign_mask))
        return arith.addf(total, emit.as_floats(arith.xori(left, sign), self.lanes))

    # -- groups ------------------------------------------------------------------------------------

    def sums(
        self, m: ir.Value, rows: int, p: ir.Value, started: Sequence[ir.Value]
    ) -> Sequence[ir.Value]:
        """Build the sums of all of K: whole groups, then what is left."""
        kernel, k = self.kernel, self.kernel.k or 0
        self.place, self.rows, self.p = m, rows, p
        if kernel.group < WORD:
            return self._short_groups(started)
        whole = k // kernel.group

        def group(g: ir.Value, *totals: ir.Value) -> Sums:
            return self._group(g, kernel.group // WORD, 0, totals)

        totals = list(started)
        if whole:
            totals = emit.loop(emit.index(0), emit.index(whole), emit.index(1), group, totals)
        rest = k % kernel.group
        if rest:
            totals = self._group(emit.index(whole), rest // WORD, rest % WORD, totals)
        return totals

    def _group(self, g: ir.Value, words: int, tail: int, totals: Sequence[ir.Value]) -> Sums:
        """Add group `g`, of so many whole `words` and a `tail`, to the totals."""
        kernel, size = self.kernel, len(totals)
        first = arith.muli(g, emit.index(kernel.group // WORD))

        def word(w: ir.Value, *parts: ir.Value) -> Sums:
            return self._word(w, WORD, parts)

        parts = [self._zero()] * (kernel.planes * size)
        if words > 1:
            last = arith.addi(first, emit.index(words))
            parts = emit.loop(first, last, emit.index(1), word, parts)
        elif words:
            parts = word(first, *parts)
        if tail:
            parts = self._word(arith.addi(first, emit.index(words)), tail, parts)
        return self._scaled(g, parts, totals)

    def _word(self, w: ir.Value, count: int, parts: Sequence[ir.Value]) -> Sums:
        """Add the sums of the first `count` inputs of word `w` to `parts`, plane by plane."""
        size, found = len(parts) // self.kernel.planes, []
        start = arith.muli(w, emit.index(WORD))
        for i in range(self.kernel.planes):
            sums, _ = self._inputs(start, count, self._signs(w, i))
            before = parts[i * size : (i + 1) * size]
            found += list(map(arith.addf, before, sums))
        return found

    def _short_groups(self, started: Sequence[ir.Value]) -> Sums:
        """Add groups that are parts of words."""
        k = self.kernel.k or 0

        def word(w: ir.Value, *totals: ir.Value) -> Sums:
            return self._parts_of_word(w, WORD, totals)

        totals, whole = list(started), k // WORD
        if whole:
            totals = emit.loop(emit.index(0), emit.index(whole), emit.index(1), word, totals)
        if k % WORD:
            totals = self._parts_of_word(emit.index(whole), k % WORD, totals)
        return totals

    def _parts_of_word(self, w: ir.Value, count: int, totals: Sequence[ir.Value]) -> Sums:
        """Add the groups of the first `count` inputs of word `w` to the totals."""
        kernel, size = self.kernel, len(totals)
        start = arith.muli(w, emit.index(WORD))
        first = arith.muli(w, emit.index(WORD // kernel.group))

        def part(i: ir.Value, *carried: ir.Value, length: int = kernel.group) -> Sums:
            found, words = list(carried[:size]), list(carried[size:])
            at = arith.addi(start, arith.muli(i, emit.index(kernel.group)))
            sums: Sums = []
            left: Sums = []
            for plane in range(kernel.planes):
                signs = words[plane * self.tile.vectors : (plane + 1) * self.tile.vectors]
                added, signs = self._inputs(at, length, signs)
                sums, left = sums + added, left + signs
            return [*self._scaled(arith.addi(first, i), sums, found), *left]

        carried = [*totals, *(word for i in range(kernel.planes) for word in self._signs(w, i))]
        whole = emit.index(count // kernel.group)
        carried = emit.loop(emit.index(0), whole, emit.index(1), part, carried)
        if count % kernel.group:
            carried = part(whole, *carried, length=count % kernel.group)
        return carried[:size]

    # -- inputs ------------------------------------------------------------------------------------

    def _signs(self, w: ir.Value, i: int) -> Sequence[ir.Value]:
        row = arith.addi(arith.muli(w, emit.index(self.kernel.planes)), emit.index(i))
        return self.weights(self.p, row, ahead=self.rows <= STREAMED_ROWS)

    def _inputs(self, start: ir.Value, count: int, signs: Sequence[ir.Value]) -> tuple[Sums, Sums]:
        """Return the signed sums of `count` inputs from `start` on, and the signs that are left."""
        size = self.rows * self.tile.vectors

        def step(i: ir.Value, *carried: ir.Value, length: int = STEP) -> Sums:
            sums, words = list(carried[:size]), list(carried[size:])
            first = arith.addi(start, i)
            for t in range(length):
                k = arith.addi(first, emit.index(t))
                for r in range(self.rows):
                    left = self.left(self.place, r, k)
                    for v, word in enumerate(words):
                        at = r * len(words) + v
                        sums[at] = self.accumulate(sums[at], left, word)
                words = [arith.shli(word, self._bits(1)) for word in words]
            return [*sums, *words]

        carried = [*[self._zero()] * size, *signs]
        whole = count // STEP * STEP
        if whole > STEP:
            stop, by = emit.index(whole), emit.index(STEP)
            carried = emit.loop(emit.index(0), stop, by, step, carried)
        elif whole:
            carried = step(emit.index(0), *carried)
        if count > whole:
            carried = step(emit.index(whole), *carried, length=count - whole)
        return list(carried[:size]), list(carried[size:])

    # -- scales ------------------------------------------------------------------------------------

    def _scaled(self, g: ir.Value, parts: Sequence[ir.Value], totals: Sequence[ir.Value]) -> Sums:
        """Add the sums of group `g`, shifted by the terms of their scales, to the totals."""
        size, found = len(totals), list(totals)
        for i in range(self.kernel.planes):
            row = arith.addi(arith.muli(g, emit.index(self.kernel.planes)), emit.index(i))
            for v in range(self.tile.vectors):
                at = [self.b_item, self.p, row, emit.index(v * self.lanes)]
                words = emit.load(self.lanes, self.terms, at)
                terms = [exponents.unpacked(words, t, self.lanes) for t in range(self.kernel.terms)]
                none = [exponents.is_zero(term, self.lanes) for term in terms]
                for r in range(self.rows):
                    place = r * self.tile.vectors + v
                    value = vector.bitcast(words.type, parts[i * size + place])
                    each = [
                        self._shifted(value, term, zero)
                        for term, zero in zip(terms, none, strict=True)
                    ]
                    added = functools.reduce(arith.addf, each)
                    found[place] = arith.addf(found[place], added)
        return found

    def _shifted(self, value: ir.Value, term: ir.Value, is_zero: ir.Value) -> ir.Value:
        moved = exponents.shifted(value, term, self.lanes)
        return emit.as_floats(arith.select(is_zero, self._bits(0), moved), self.lanes)

    def _zero(self) -> ir.Value:
        return emit.splat(self.lanes, self.f32, 0.0)

    def _bits(self, pattern: int) -> ir.Value:
        return exponents.bits(self.lanes, pattern)
