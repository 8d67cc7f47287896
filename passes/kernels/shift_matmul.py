"""A matmul by weights that are powers of two for CPUs: two additions a product.

The loops are those of :mod:`.blocked_matmul`.  A term is an exponent field E and a sign, and a
product is an integer addition of it to the pattern of an activation; zeros among activations are
masked, zeros among terms are not added::

    pattern[r, k] = bits(A[m + r, k]) - (96 << 23)               // a few operations per element
    mask[r, k]    = A[m + r, k] is no zero or subnormal number
    w[v]          = sign << 31 | E << 23
    sum[r, v]    += bitcast((pattern[r, k] + w[v]) & mask[r, k])   where w[v] is no zero

That is the definition (:func:`..formats.powers.shift`) as long as no exponent leaves those of
normal numbers.  Each panel says between which exponents activations must lie for that
(:mod:`..formats.shift_panels`).  Where one of a block of rows does not, infinities and NaN
included, the block takes a second loop that has all rules and several times the operations.

Sums of an output are in the order of k, so every tile gives the bits of the definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith, scf, vector

from ..formats.floats import F32
from ..formats.shift_panels import WAYS
from . import emit, exponents
from .blocked_matmul import BlockedMatmul, Body
from .executable import Interface
from .tiles import AHEAD_BYTES

_U = arith.CmpIPredicate

Left = tuple[ir.Value, ...]  # pattern and mask, or the bits of the activation
Weight = tuple[ir.Value, ir.Value]  # w, and where it is a zero


@dataclass(frozen=True)
class ShiftMatmul(BlockedMatmul):
    """``C[batch, m, n] = sum over k of A[batch, m, k] shifted by B[batch, k, n]``.

    Bindings: A in f32; words of terms ``[batch of B, panels, K, columns / 4]`` and ranges
    ``[batch of B, panels, 1, 2]``, both i32; C.  N and K are known.
    """

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        return f"shift_{self.sizes_name}_{self.tile.name}{'b' * self.b_batch}{self.epilogue_name}"

    @property
    def words(self) -> int:
        """Words of one row of a panel."""
        return self.tile.columns // WAYS

    def describe(self) -> str:
        """Say which kernel it is."""
        return f"{super().describe()}, exponents added as integers"

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        _ShiftBody(self, interface).emit()


class _ShiftBody(Body):
    fields: tuple[ir.Value, ir.Value]  # lowest and highest of the nonzero activations of the block

    def __init__(self, kernel: ShiftMatmul, interface: Interface) -> None:
        self.kernel, self.has_all_rules = kernel, False
        super().__init__(kernel, interface)

    def bind(self) -> None:
        self.a = self.buffer(0, ("batch", "m", "k"), self.f32)
        self.b = self.panel_buffer(1, None, self.kernel.words, self.i32)
        self.ranges = self.panel_buffer(2, 1, 2, self.i32)
        self.bind_result(3)

    def reserve(self) -> None:
        shape = [self.tile.rows, self.tile.k_block]
        self.patterns, self.masks = (emit.scratch(shape, self.i32) for _ in range(2))

    # -- operands ----------------------------------------------------------------------------------

    def prepare(self, m: ir.Value, rows: int) -> None:
        """Fill the scratch buffers with `rows` rows of A, and find between what they lie."""
        zero, none = self._bits(0), self._bits(-1)

        def step(k: ir.Value, low: ir.Value, high: ir.Value) -> Sequence[ir.Value]:
            exists = self.k_mask(k)
            for r in range(rows):
                at = [self.item, arith.addi(m, emit.index(r)), arith.addi(self.kb, k)]
                value = emit.load(self.lanes, self.a, at, exists)
                bits = vector.bitcast(zero.type, value)
                magnitude = arith.andi(bits, self._bits(F32.magnitude_mask))
                counts = arith.cmpi(_U.uge, magnitude, self._bits(exponents.SMALLEST))
                place = [emit.index(r), k]
                emit.store(arith.subi(bits, self._bits(exponents.BIAS)), self.patterns, place)
                emit.store(arith.select(counts, none, zero), self.masks, place)
                low = arith.minui(low, arith.select(counts, magnitude, none))
                high = arith.maxui(high, magnitude)
            return [low, high]

        by = emit.index(self.lanes)
        low, high = emit.loop(emit.index(0), self.count, by, step, [none, zero])
        shift = arith.constant(self.i32, exponents.MANTISSA)
        self.fields = (
            arith.shrui(vector.reduction(self.i32, vector.CombiningKind.MINUI, low), shift),
            arith.shrui(vector.reduction(self.i32, vector.CombiningKind.MAXUI, high), shift),
        )

    def left(self, m: ir.Value, r: int, k: ir.Value) -> Left:
        if self.has_all_rules:
            at = [self.item, arith.addi(m, emit.index(r)), arith.addi(self.kb, k)]
            value = emit.broadcast_scalar(self.lanes, self.a, at)
            return (vector.bitcast(emit.vector_type(self.lanes, self.i32), value),)
        at = [emit.index(r), k]
        return tuple(
            emit.broadcast_scalar(self.lanes, source, at) for source in (self.patterns, self.masks)
        )

    def weights(self, p: ir.Value, k: ir.Value, *, ahead: bool) -> list[Weight]:
        row = arith.addi(self.kb, k)
        found: list[Weight] = []
        for v in range(self.tile.vectors // WAYS):
            at = [self.b_item, p, row, emit.index(v * self.lanes)]
            words = emit.load(self.lanes, self.b, at)
            if ahead:
                later = arith.addi(row, emit.index(max(1, AHEAD_BYTES // (4 * self.kernel.words))))
                emit.prefetch(self.b, [self.b_item, p, later, emit.index(v * self.lanes)])
            found += [self._unpacked(words, way) for way in range(WAYS)]
        return found

    def _unpacked(self, words: ir.Value, way: int) -> Weight:
        """Return the `way`-th term of each word."""
        bits = exponents.unpacked(words, way, self.lanes)
        return bits, exponents.is_zero(bits, self.lanes)

    # -- products ----------------------------------------------------------------------------------

    def sums(
        self, m: ir.Value, rows: int, p: ir.Value, started: Sequence[ir.Value]
    ) -> Sequence[ir.Value]:
        """Build both inner loops; which one is taken depends on the rows and on the panel."""
        head = [self.b_item, p, emit.index(0)]
        lowest, highest = (emit.load_scalar(self.ranges, [*head, emit.index(i)]) for i in range(2))
        low, high = self.fields
        # No activation but zeros: the lowest field is that of no number.
        reaches = arith.andi(arith.cmpi(_U.sge, low, lowest), arith.cmpi(_U.sle, high, highest))
        choice = scf.IfOp(reaches, [value.type for value in started], has_else=True)
        for block, has_all_rules in ((choice.then_block, False), (choice.else_block, True)):
            with ir.InsertionPoint(block):
                self.has_all_rules = has_all_rules
                scf.YieldOp(list(super().sums(m, rows, p, started)))
        return list(choice.results)

    def accumulate(self, total: ir.Value, left: Left, weight: Weight) -> ir.Value:
        bits, is_zero = weight
        if self.has_all_rules:
            product = exponents.shifted(left[0], bits, self.lanes)
        else:
            pattern, mask = left
            product = arith.andi(arith.addi(pattern, bits), mask)
        value = vector.bitcast(emit.vector_type(self.lanes, self.f32), product)
        # One masked addition.
        return arith.select(is_zero, total, arith.addf(total, value))

    def _bits(self, pattern: int) -> ir.Value:
        return exponents.bits(self.lanes, pattern)
