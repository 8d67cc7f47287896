"""A product of 8-bit activations and a weight in few bits for Vulkan, by products of four bytes.

``OpSDot`` (SPV_KHR_integer_dot_product) multiplies four signed bytes of a word by four of another,
and adds the products.  A byte of a word of codes holds those of one k (:mod:`..formats.panels`), so
that a shift and a mask give four codes of a column, and activations are read four to a word::

    for quad in chunk, column in own columns:
      c = w[column] >> place & mask                  // four codes, 0 … 2^bits - 1
      sum[r, column] += SDot(c, a[r])
      ones[r]        += SDot(0x01010101, a[r])       // once for all columns
    sum[r, column] - zero[column] * ones[r]

Codes of 8 bits and their zero points are 128 less, to be signed.  All of it is exact in i32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith, memref, vector

from ..formats import panels
from . import emit, gpu
from .dequant_threads import LANES, Body, DequantThreads
from .executable import Interface

ONES, SIGNS = 0x01010101, 0x80808080
QUADS = 4  # of activations, that a thread loads at once


@dataclass(frozen=True)
class DequantDots(DequantThreads):
    """The same product; A is ``i8 [batch, m, K]``, read as words."""

    stem = "dots"

    @property
    def is_whole(self) -> bool:
        """Sums of a group are in i32."""
        return True

    @property
    def has_zeros(self) -> bool:
        """Whether something is subtracted from codes once they are signed."""
        return not (self.bits == 8 and self.symmetric)

    def _threads(self) -> str:
        return f"four products an instruction (OpSDot), {super()._threads()}"

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        _Dots(self, interface).emit()


class _Dots(Body):
    kernel: DequantDots

    def _activations(self, shape: Sequence[int | None]) -> ir.Value:
        return self._buffer([*shape[:-1], self.kernel.k // 4], self.i32, QUADS)

    def _empty(self) -> list[ir.Value]:
        """Return sums of each row and column, and behind them those of each row's activations."""
        rows, columns = self.tile.rows, self.tile.vectors * LANES
        return [gpu.word(0)] * (rows * columns + rows * self.kernel.has_zeros)

    def _chunk(
        self, chunk: ir.Value, zeros: Sequence[ir.Value], carried: Sequence[ir.Value]
    ) -> list[ir.Value]:
        kernel, parts = self.kernel, list(carried)
        rows, columns = self.tile.rows, self.tile.vectors * LANES
        words = self._words(chunk)
        quads = kernel.chunk // 4
        start = arith.muli(chunk, emit.index(quads // QUADS))
        loaded: list[list[ir.Value]] = []
        for quad, pieces in enumerate(panels.parts(kernel.bits, quads)):
            block, own = divmod(quad, QUADS)
            if own == 0:
                at = gpu.add(start, block)
                vectors = [memref.load(self.a, [self.item, row, at]) for row in self.rows]
                loaded = [gpu.lanes_of(value) for value in vectors]
            codes = [
                code for words_of in words for code in gpu.lanes_of(self._quad(words_of, pieces))
            ]
            for r, of_row in enumerate(loaded):
                for column, code in enumerate(codes):
                    i = r * columns + column
                    parts[i] = arith.addi(parts[i], signed_dot(code, of_row[own]))
                if kernel.has_zeros:
                    i = rows * columns + r
                    parts[i] = arith.addi(parts[i], signed_dot(gpu.word(ONES), of_row[own]))
        return parts

    def _quad(self, words: Sequence[ir.Value], pieces: Sequence[panels.Part]) -> ir.Value:
        """Return the codes of a quad, of four columns, as signed bytes."""
        found = None
        for piece in pieces:
            value = words[piece.vector]
            if piece.bit:
                value = arith.shrui(value, emit.splat(LANES, self.i32, piece.bit))
            if piece.width < 8:
                mask = ((1 << piece.width) - 1) * ONES
                value = arith.andi(value, emit.splat(LANES, self.i32, mask))
            if piece.shift:
                value = arith.shli(value, emit.splat(LANES, self.i32, piece.shift))
            found = value if found is None else arith.ori(found, value)
        if self.kernel.bits == 8:
            found = arith.xori(found, emit.splat(LANES, self.i32, SIGNS))
        return found

    def _whole(self, parts: Sequence[ir.Value], zeros: Sequence[ir.Value]) -> list[ir.Value]:
        """Return the sums of a group in vectors of columns, less what zero points take."""
        rows, vectors, found = self.tile.rows, self.tile.vectors, []
        for i in range(rows * vectors):
            r, v = divmod(i, vectors)
            total = vector.from_elements(self.whole, list(parts[i * LANES : (i + 1) * LANES]))
            if self.kernel.has_zeros:
                ones = vector.broadcast(self.whole, parts[rows * vectors * LANES + r])
                zero = zeros[v]
                if self.kernel.bits == 8:
                    zero = arith.subi(zero, emit.splat(LANES, self.i32, 128))
                total = arith.subi(total, arith.muli(zero, ones))
            found.append(total)
        return found


def signed_dot(a: ir.Value, b: ir.Value) -> ir.Value:
    """Return the sum of the products of four signed bytes of a word by those of another."""
    packed = ir.Attribute.parse("#spirv.packed_vector_format<PackedVectorFormat4x8Bit>")
    return ir.Operation.create(
        "spirv.SDot", results=[emit.integer(32)], operands=[a, b], attributes={"format": packed}
    ).result
