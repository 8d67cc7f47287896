"""A product of few rows of f32 activations and a weight of 4 or 8 bits for GPUs.

A code becomes an f32 by one logic instruction and one subtraction: its bits, where they stand in a
word, in the mantissa of a power of two whose bit 4 p is worth 1::

    f = bitcast(word & 15 << 4 p | pattern of 2^(23 - 4 p)) - (2^(23 - 4 p) + zero)
    part[row, m] += f * x[m]                      // of a group
    sum[row, m] += part[row, m] * scale

Only bits below 2^20 can stand so: a shift by 12 brings the last three codes of a word there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith, memref, vector

from ..formats import gpu_rows
from . import emit, gpu
from .executable import Interface
from .few_rows_gpu import Fetched, FewBody, FewRowsGpu

MOST_ROWS = 8
MAGIC = 0x4B000000  # the pattern of 2^23
TWO23 = 2.0**23
SHIFT = 12  # to the right, for the codes from bit 20 on


@dataclass(frozen=True)
class DequantFewGpu(FewRowsGpu):
    """``C[batch, m, n] = sum over k of A[batch, m, k] * (code - zero)[batch, n, k] * scale``.

    Bindings: A ``f32 [batch, m, padded K]``, zeros beyond K; codes in float order, scales, and
    unless symmetric zero points; C.
    """

    @property
    def span(self) -> int:
        """Pieces of a block of the float order."""
        return gpu_rows.span_of(self.k, self.group, self.bits)

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        return f"few_dequant_{self.stem}"

    def describe(self) -> str:
        """Say which kernel it is."""
        return f"dequantising kernel for GPUs, {self.describe_tile()}"

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        _Body(self, interface).emit()


class _Body(FewBody):
    kernel: DequantFewGpu

    def bind(self, interface: Interface, of_groups: Sequence[int]) -> None:
        kernel = self.kernel
        length = gpu_rows.padded(kernel.k, kernel.group)
        shape = [kernel.batch, kernel.m, length]
        self.x = gpu.buffer(interface, 0, shape, self.f32, lanes=4)
        self.quads = gpu_rows.per_piece(kernel.bits) // 4
        block = kernel.span * self.quads * 4
        # Scales of a piece, loaded as so many vectors.
        self.count = 1 if kernel.groups == 1 else max(1, block // kernel.group)
        self.lanes = min(4, self.count)
        self.scales = gpu.buffer(interface, 2, of_groups, self.f32, lanes=self.lanes)
        if not kernel.symmetric:
            self.zeros = gpu.buffer(interface, 3, of_groups, emit.integer(8), lanes=self.count)

    # -- a unit: one step --------------------------------------------------------------------------

    def fetch(self, unit: ir.Value) -> Fetched:
        kernel, rows = self.kernel, range(self.tile.rows)
        piece = self.piece(unit, 0)
        words = [self.words(r, piece) for r in rows]
        block = arith.divui(piece, emit.index(kernel.span))
        first = emit.index(0)
        if kernel.groups > 1:
            first = arith.divui(
                gpu.scaled(block, kernel.span * self.quads * 4), emit.index(kernel.group)
            )
        scales, zeros = [], []
        for r in rows:
            head = [self.item, self.readable[r]]
            vectors = arith.divui(first, emit.index(self.lanes))
            scales += [
                memref.load(self.scales, [*head, gpu.add(vectors, i)])
                for i in range(self.count // self.lanes)
            ]
            if not kernel.symmetric:
                place = arith.divui(first, emit.index(self.count))
                zeros.append(memref.load(self.zeros, [*head, place]))
        return [*words, *scales, *zeros]

    def add(self, unit: ir.Value, fetched: Fetched, state: Fetched) -> Fetched:
        kernel, rows = self.kernel, self.tile.rows
        per_row = self.count // self.lanes
        words = [gpu.lanes_of(piece) for piece in fetched[:rows]]
        end = rows + rows * per_row
        scales = [self._flat(fetched[rows + r * per_row : rows + (r + 1) * per_row])
                  for r in range(rows)]  # fmt: skip
        zeros = [self._flat([zero]) for zero in fetched[end:]]
        if kernel.bits == 4:
            shifted = [[arith.shrui(w, gpu.word(SHIFT)) for w in row] for row in words]
        of_group = self.quads // self.count
        found, start = list(state), arith.constant(self.f32, 0.0)
        for number in range(self.count):
            parts = [start] * len(found)
            for j in range(number * of_group, (number + 1) * of_group):
                place = _place(j) if kernel.bits == 4 else 0
                x = [self._activations(unit, m, j) for m in range(kernel.m)]
                for r in range(rows):
                    own = [words, shifted][j > 4][r] if kernel.bits == 4 else words[r]
                    base = self._base(zeros[r][number] if zeros else None, place)
                    for i in range(4):
                        value = arith.subf(self._raised(own, j, i, place), base)
                        for m in range(kernel.m):
                            at = r * kernel.m + m
                            parts[at] = emit.multiply_add(value, x[m][i], parts[at])
            for at, part in enumerate(parts):
                scale = scales[at // kernel.m][number]
                found[at] = emit.multiply_add(part, scale, found[at])
        return found

    def _raised(self, words: Sequence[ir.Value], j: int, i: int, place: int) -> ir.Value:
        """Return code i of quad j, which stands at bit 4 * `place`, plus 2^(23 - 4 * `place`)."""
        if self.kernel.bits == 4:
            bits = gpu.masked_or(words[i], 15 << 4 * place, MAGIC - (4 * place << 23))
        else:
            moved = arith.shrui(words[j], gpu.word(8 * i)) if i else words[j]
            bits = gpu.masked_or(moved, 255, MAGIC)
        return arith.bitcast(self.f32, bits)

    def _base(self, zero: ir.Value | None, place: int) -> ir.Value:
        """Return 2^(23 - 4 * `place`) and the zero point: exact."""
        power = 2.0 ** (23 - 4 * place)
        if zero is None:
            return arith.constant(self.f32, power + float(1 << self.kernel.bits - 1))
        bits = arith.ori(arith.extui(self.i32, zero), gpu.word(MAGIC))
        raised = arith.bitcast(self.f32, bits)
        if place == 0:
            return raised
        return arith.addf(raised, arith.constant(self.f32, power - TWO23))

    def _activations(self, unit: ir.Value, m: int, j: int) -> list[ir.Value]:
        """Load quad j of the activations that meet this thread's piece."""
        span = self.kernel.span
        piece = self.piece(unit, 0)
        block, own = (op(piece, emit.index(span)) for op in (arith.divui, arith.remui))
        at = gpu.add(arith.addi(gpu.scaled(block, span * self.quads), own), span * j)
        loaded = memref.load(self.x, [self.item, emit.index(m), at])
        return gpu.lanes_of(loaded)

    def _flat(self, values: Sequence[ir.Value]) -> list[ir.Value]:
        """Return the elements of vectors, or of scalars."""
        found: list[ir.Value] = []
        for value in values:
            if not isinstance(value.type, ir.VectorType):
                found.append(value)
                continue
            size = ir.VectorType(value.type).shape[0]
            found += [vector.extract(value, [], [i]) for i in range(size)]
        return found


def _place(quad: int) -> int:
    """Return where the codes of a quad stand, in units of 4 bits, after a shift or without."""
    return quad if quad <= 4 else quad - SHIFT // 4
