"""A matmul of added bit patterns (L-Mul, PAM) for CPUs: two additions a product.

The loops are those of :mod:`.blocked_matmul`; rows are prepared into a scratch buffer, and a
product is an integer addition, summed by a float one::

    scratch[r, k] = clamp(|A[m + r, kb + k]|) | sign - C             // a few operations per element
    sum[r, v] += bitcast(splat(scratch[r, k]) + b[v])

Two port operations per vector of products bound it: half the rate of a fused multiply-add.  Sums of
an output are in the order of k, so that a kernel of any tile gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith, vector

from .. import additive
from ..additive import Addition
from ..formats.floats import F32, FORMATS
from ..formats.lmul import clamp_bounds
from ..formats.stored import StoredFloat
from . import emit
from .blocked_matmul import BlockedMatmul, Body
from .executable import Interface
from .tiles import AHEAD_BYTES

Weight = tuple[ir.Value, ir.Value | None]  # a pattern, and where it stands for zero (fp8)


@dataclass(frozen=True)
class AdditiveMatmul(BlockedMatmul):
    """``C[batch, m, n] = sum over k of A[batch, m, k] (+) B[batch, k, n]``.

    A is f32 as the model has it (`prepares`), or i32 patterns from which the constant was
    subtracted.  B holds panels (:func:`..formats.stored.pack_panels`) of i32 words, or is f32 as
    the model has it (`packs`) and is packed into a scratch buffer, a block of K and a group of
    panels at a time.

    Attributes
    ----------
    product : Addition
        What is subtracted, clamped and truncated.
    stored : StoredFloat
        The format in B.
    prepares : bool
        Whether A is still to be prepared.
    packs : bool
        Whether B is still to be prepared and packed.
    """

    product: Addition
    stored: StoredFloat
    prepares: bool
    packs: bool = False

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        what = f"c{self.product.constant:x}m{self.product.mantissa_bits}"
        flags = "".join(
            letter
            for letter, is_set in (("p", self.prepares), ("b", self.b_batch), ("w", self.packs))
            if is_set
        )
        how = f"{self.sizes_name}_{self.tile.name}{flags}{self.epilogue_name}"
        return f"add_{what}_{self.stored.name}_{how}"

    @property
    def words(self) -> int:
        """Words of i32 in one row of a panel."""
        return self.tile.columns * self.stored.width // 32

    @property
    def subtracted(self) -> int:
        """What a prepared pattern lacks: the constant, less what narrow weights lack themselves."""
        rebias = additive.rebias(self.stored) if self.stored.is_scaled else 0
        return self.product.constant - rebias

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        _AdditiveBody(self, interface).emit()


class _AdditiveBody(Body):
    def __init__(self, kernel: AdditiveMatmul, interface: Interface) -> None:
        self.kernel = kernel
        super().__init__(kernel, interface)

    def bind(self) -> None:
        kernel = self.kernel
        self.a = self.buffer(0, ("batch", "m", "k"), self.f32 if kernel.prepares else self.i32)
        if kernel.packs:
            self.b = self.matrix_buffer(1)
        else:
            self.b = self.panel_buffer(1, None, kernel.words, self.i32)
        self.bind_result(2)

    def reserve(self) -> None:
        self.scratch = emit.scratch([self.tile.rows, self.tile.k_block], self.i32)
        if self.kernel.packs:
            shape = [self.tile.panels, self.tile.k_block, self.tile.columns]
            self.packed = emit.scratch(shape, self.i32)

    # -- operands ----------------------------------------------------------------------------------

    def prepared(self, value: ir.Value) -> ir.Value:
        if self.kernel.prepares:
            return arith.subi(self.packing(value), self._bits(self.kernel.subtracted))
        less = self.kernel.subtracted - self.kernel.product.constant
        return arith.subi(value, self._bits(less)) if less else value

    def packing(self, value: ir.Value) -> ir.Value:
        bits = vector.bitcast(emit.vector_type(self.lanes, self.i32), value)
        low, high = clamp_bounds(F32)
        magnitude = arith.andi(bits, self._bits(F32.magnitude_mask))
        magnitude = arith.minui(arith.maxui(magnitude, self._bits(low)), self._bits(high))
        if self.kernel.product.truncates:
            magnitude = arith.andi(magnitude, self._bits(self.kernel.product.magnitude_mask))
        sign = arith.andi(bits, self._bits(F32.sign_mask))
        return arith.ori(sign, magnitude)

    # -- products ----------------------------------------------------------------------------------

    def left(self, m: ir.Value, r: int, k: ir.Value) -> ir.Value:
        return emit.broadcast_scalar(self.lanes, self.scratch, [emit.index(r), k])

    def accumulate(self, total: ir.Value, left: ir.Value, weight: Weight) -> ir.Value:
        bits, is_zero = weight
        product = arith.addi(left, bits)
        value = vector.bitcast(emit.vector_type(self.lanes, self.f32), product)
        more = arith.addf(total, value)
        # One masked addition.
        return more if is_zero is None else arith.select(is_zero, total, more)

    def weights(self, p: ir.Value, k: ir.Value, *, ahead: bool) -> list[Weight]:
        if self.kernel.packs:
            return [(bits, None) for bits in self.packed_row(p, k)]
        row = arith.addi(self.kb, k)
        ways = 32 // self.kernel.stored.width
        found: list[Weight] = []
        for v in range(self.tile.vectors // ways):
            at = [self.b_item, p, row, emit.index(v * self.lanes)]
            words = emit.load(self.lanes, self.b, at)
            if ahead:
                later = arith.addi(row, emit.index(max(1, AHEAD_BYTES // (4 * self.kernel.words))))
                emit.prefetch(self.b, [self.b_item, p, later, emit.index(v * self.lanes)])
            found += [self._unpacked(words, way) for way in range(ways)]
        return found

    def _unpacked(self, words: ir.Value, way: int) -> Weight:
        """Return the `way`-th narrow weight of each word as an f32 pattern."""
        stored = self.kernel.stored
        if stored.width == 32:
            return words, None
        shift = 32 - stored.width * (way + 1)
        if stored.width == 16:
            if shift:
                return arith.shli(words, self._bits(shift)), None
            return arith.andi(words, self._bits(0xFFFF0000)), None
        fmt = FORMATS[stored.name]
        raised = arith.shli(words, self._bits(shift)) if shift else words
        # The sign moves down with the exponent; its copies above are masked.
        moved = arith.shrsi(raised, self._bits(F32.exponent_bits - fmt.exponent_bits))
        magnitude = fmt.magnitude_mask << (F32.mantissa_bits - fmt.mantissa_bits)
        bits = arith.andi(moved, self._bits(F32.sign_mask | magnitude))
        rest = arith.andi(bits, self._bits(magnitude))
        return bits, arith.cmpi(arith.CmpIPredicate.eq, rest, self._bits(0))

    def _bits(self, pattern: int) -> ir.Value:
        return emit.splat(self.lanes, self.i32, pattern & 0xFFFFFFFF)
