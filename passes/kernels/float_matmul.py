"""A matmul in f32 for CPUs: one fused multiply-add a product, where the processor has it.

The loops are those of :mod:`.blocked_matmul`.  Rows are read where they are, or copied to a scratch
buffer (:func:`.float_tiles.copies`).  A panel streams from the second cache while a block of rows
lies in the first; the inner loop asks for it some rows ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import emit
from .blocked_matmul import BlockedMatmul, Body
from .executable import Interface
from .float_tiles import stays_near
from .tiles import AHEAD_BYTES

ROW_PADDING = 16  # f32 between copied rows: they begin in different sets of the cache
CACHED_AHEAD_BYTES = 1536  # how far ahead the second cache is asked


@dataclass(frozen=True)
class FloatMatmul(BlockedMatmul):
    """``C[batch, m, n] = sum over k of A[batch, m, k] * B[batch, k, n]``, all f32.

    Attributes
    ----------
    packs : bool
        Whether B is ``[batch, K, N]`` as the model has it, and packed by the kernel unless it is
        read :attr:`in_place`; else it holds panels (:func:`..formats.panels.float_panels`).
    copies : bool
        Whether rows of A are copied.
    """

    packs: bool = False
    copies: bool = False

    @property
    def in_place(self) -> bool:
        """Whether a B that is not in panels is read where it is: all of it fits the first cache."""
        if not self.packs or self.n is None or self.k is None:
            return False
        return self.n % self.tile.columns == 0 and stays_near(self.n, self.k)

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        flags = "b" * self.b_batch + "w" * self.packs + "c" * self.copies
        return f"f32_{self.sizes_name}_{self.tile.name}{flags}{self.epilogue_name}"

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        FloatBody(self, interface).emit()


class FloatBody(Body):
    """The function of one kernel while it is being built."""

    def __init__(self, kernel: FloatMatmul, interface: Interface) -> None:
        self.kernel = kernel
        super().__init__(kernel, interface)

    def bind(self) -> None:
        """Bind A, B and C."""
        self.a = self.buffer(0, ("batch", "m", "k"), self.f32)
        if self.kernel.packs:
            self.b = self.matrix_buffer(1)
        else:
            self.b = self.panel_buffer(1, None, self.tile.columns, self.f32)
        self.bind_result(2)

    def reserve(self) -> None:
        """Reserve room for copied rows and packed panels."""
        tile = self.tile
        if self.kernel.copies:
            self.scratch = emit.scratch([tile.rows, tile.k_block + ROW_PADDING], self.f32)
        if self.kernel.packs and not self.kernel.in_place:
            self.packed = emit.scratch([tile.panels, tile.k_block, tile.columns], self.f32)

    # -- products ----------------------------------------------------------------------------------

    def left(self, m: ir.Value, r: int, k: ir.Value) -> ir.Value:
        """Return A of row ``m + r`` in all lanes."""
        if self.kernel.copies:
            return emit.broadcast_scalar(self.lanes, self.scratch, [emit.index(r), k])
        at = [self.item, arith.addi(m, emit.index(r)), arith.addi(self.kb, k)]
        return emit.broadcast_scalar(self.lanes, self.a, at)

    def weights(self, p: ir.Value, k: ir.Value, *, ahead: bool) -> Sequence[ir.Value]:
        """Return the vectors of one row of a panel."""
        if self.kernel.packs and not self.kernel.in_place:
            return self.packed_row(p, k)
        lanes = [emit.index(v * self.lanes) for v in range(self.tile.vectors)]
        row = arith.addi(self.kb, k)
        if self.kernel.in_place:
            first = arith.muli(p, emit.index(self.tile.columns))
            at = [[self.b_item, row, arith.addi(first, lane)] for lane in lanes]
            return [emit.load(self.lanes, self.b, place) for place in at]
        distance = AHEAD_BYTES if ahead else CACHED_AHEAD_BYTES
        later = arith.addi(row, emit.index(max(1, distance // (4 * self.tile.columns))))
        for lane in lanes:
            emit.prefetch(self.b, [self.b_item, p, later, lane])
        return [emit.load(self.lanes, self.b, [self.b_item, p, row, lane]) for lane in lanes]

    def accumulate(self, total: ir.Value, left: ir.Value, weight: ir.Value) -> ir.Value:
        """Return ``total + left * weight``."""
        return emit.multiply_add(left, weight, total)
