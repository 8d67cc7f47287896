"""A product of few rows of 8-bit activations and a weight of 4 or 8 bits for GPUs, by ``dp4a``.

The sum of a group is exact in i32: threads that share one add up theirs by shuffles before it is
scaled.  Of symmetric 4-bit weights codes stand in the high halves of bytes, so that a sum is 16
times as large, until it is scaled::

    D = dp4a(word & 0xf0f0f0f0, q[4…7]) + dp4a(word << 4 & 0xf0f0f0f0, q[0…3])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith, memref

from ..formats import gpu_rows
from . import emit, gpu
from .executable import Interface
from .few_rows_gpu import Fetched, FewBody, FewRowsGpu
from .integer_rows_gpu import IntegerRowsGpu

MOST_ROWS = 4  # more are multiplied by tensor cores
HIGH, LOW = 0xF0F0F0F0, 0x0F0F0F0F


@dataclass(frozen=True)
class IntegerFewGpu(FewRowsGpu):
    """``C[batch, m, n] = sum over g of D[batch, m, n, g] * scales``, ``D`` exact in i32.

    Bindings: records (:class:`.integer_rows_gpu.IntegerRowsGpu`) ``[batch * m, words]``; codes in
    integer order, scales, and unless symmetric zero points; C.

    Attributes
    ----------
    per_group : bool
        Whether an activation has a scale per group; else one for its row.
    """

    per_group: bool = True

    @property
    def rows(self) -> IntegerRowsGpu:
        """What rounds the activations."""
        count = self.batch * self.m
        return IntegerRowsGpu(count, self.k, self.group, self.per_group, not self.symmetric)

    @property
    def unit(self) -> int:
        """Steps of a group that all lanes share, or 1."""
        whole = self.tile.lanes * gpu_rows.per_piece(self.bits)
        return max(1, self.group // whole) if self.groups > 1 else 1

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        return f"few_integer_{self.stem}{'g' if self.per_group else 'r'}"

    def describe(self) -> str:
        """Say which kernel it is."""
        return f"integer kernel for GPUs (dp4a), {self.describe_tile()}"

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        _Body(self, interface).emit()


class _Body(FewBody):
    kernel: IntegerFewGpu

    def bind(self, interface: Interface, of_groups: Sequence[int]) -> None:
        kernel = self.kernel
        self.layout = kernel.rows
        count = [kernel.batch * kernel.m, self.layout.words]
        self.q = gpu.buffer(interface, 0, count, self.i32, lanes=4)
        self.values = gpu.buffer(interface, 0, count, self.i32)
        self.scales = gpu.buffer(interface, 2, of_groups, self.f32)
        if not kernel.symmetric:
            self.zeros = gpu.buffer(interface, 3, of_groups, emit.integer(8))
        self.per_piece = gpu_rows.per_piece(kernel.bits)
        self.whole = kernel.groups == 1
        # Groups of which a thread has some, and the threads that share one.
        self.parts = 1 if self.whole else max(1, self.per_piece // kernel.group)
        shared = kernel.group // self.per_piece
        self.sharing = 1 if self.whole else max(1, min(self.tile.lanes, shared))
        records = gpu.scaled(self.item, kernel.m)
        self.records = [gpu.add(records, m) for m in range(kernel.m)]

    def zero(self) -> ir.Value:
        return gpu.word(0) if self.whole else super().zero()

    def first_distance(self) -> int:
        return self.sharing

    # -- a unit ------------------------------------------------------------------------------------

    def fetch(self, unit: ir.Value) -> Fetched:
        kernel, rows = self.kernel, range(self.tile.rows)
        steps = range(kernel.unit)
        words = [self.words(r, self.piece(unit, step)) for step in steps for r in rows]
        if self.whole:
            return words
        at = [[self.item, self.readable[r], group] for r in rows for group in self._groups(unit)]
        scales = [memref.load(self.scales, place) for place in at]
        zeros = [] if kernel.symmetric else [memref.load(self.zeros, place) for place in at]
        return [*words, *scales, *zeros]

    def _groups(self, unit: ir.Value) -> list[ir.Value]:
        """Return the groups of this thread's pieces."""
        first = gpu.scaled(self.piece(unit, 0), self.per_piece)
        group = arith.divui(first, emit.index(self.kernel.group))
        return [gpu.add(group, part) for part in range(self.parts)]

    def add(self, unit: ir.Value, fetched: Fetched, state: Fetched) -> Fetched:
        kernel, rows = self.kernel, self.tile.rows
        words = fetched[: kernel.unit * rows]
        zero = gpu.word(0)
        sums = [state[i] if self.whole else zero for i in range(rows * kernel.m * self.parts)]
        for step in range(kernel.unit):
            piece = self.piece(unit, step)
            quads = [self._activations(m, piece) for m in range(kernel.m)]
            for r in range(rows):
                piece_words = gpu.lanes_of(words[step * rows + r])
                codes = codes_of(piece_words, kernel.bits, symmetric=kernel.symmetric)
                for m in range(kernel.m):
                    first = (r * kernel.m + m) * self.parts
                    for i, code in enumerate(codes):
                        place = first + i * self.parts // len(codes)
                        sums[place] = gpu.dot4(
                            code, quads[m][i], sums[place], signed=kernel.symmetric
                        )
        return sums if self.whole else self._scaled(unit, fetched[len(words) :], sums, state)

    def _activations(self, m: int, piece: ir.Value) -> list[ir.Value]:
        """Load the quads of a record that meet a piece."""
        vectors = self.per_piece // 16
        first = gpu.scaled(piece, vectors)
        found = []
        for i in range(vectors):
            loaded = memref.load(self.q, [self.records[m], gpu.add(first, i)])
            found += gpu.lanes_of(loaded)
        return found

    # -- scales ------------------------------------------------------------------------------------

    def _scaled(self, unit: ir.Value, values: Fetched, sums: Fetched, state: Fetched) -> Fetched:
        """Return `state` with the sums of whole groups, each times its scales."""
        kernel, parts, found = self.kernel, self.parts, list(state)
        distance = 1
        while distance < self.sharing:
            sums = [arith.addi(d, gpu.shuffle_xor(d, distance)) for d in sums]
            distance *= 2
        groups, count = self._groups(unit), self.tile.rows * parts
        scales, zeros = values[:count], values[count:]
        for i in range(len(state)):
            r, m = divmod(i, kernel.m)
            for part, group in enumerate(groups):
                total = sums[i * parts + part]
                scale = scales[r * parts + part]
                if zeros:
                    total = self._without_zero(total, zeros[r * parts + part], m, group)
                if kernel.per_group:
                    scale = arith.mulf(scale, self._activation_scale(m, group))
                value = arith.sitofp(self.f32, total)
                found[i] = emit.multiply_add(value, self._exactly(scale), found[i])
        return found

    def finish(self, value: ir.Value, r: int, m: int) -> ir.Value:
        kernel, first = self.kernel, emit.index(0)
        if self.whole:
            at = [self.item, self.readable[r], first]
            if not kernel.symmetric:
                value = self._without_zero(value, memref.load(self.zeros, at), m, first)
            scale = self._exactly(memref.load(self.scales, at))
            if kernel.per_group:
                scale = arith.mulf(scale, self._activation_scale(m, first))
            value = arith.mulf(arith.sitofp(self.f32, value), scale)
        if kernel.per_group:
            return value
        return arith.mulf(value, self._activation_scale(m, first))

    def _exactly(self, scale: ir.Value) -> ir.Value:
        """Return a scale of sums that may be 16 times too large."""
        if self.kernel.bits == 8 or not self.kernel.symmetric:
            return scale
        return arith.mulf(scale, arith.constant(self.f32, 1 / 16))

    def _without_zero(self, total: ir.Value, zero: ir.Value, m: int, group: ir.Value) -> ir.Value:
        """Return a sum less its zero point; sums of activations are stored negated."""
        place = gpu.add(group, self.layout.first_sum)
        negated = memref.load(self.values, [self.records[m], place])
        return arith.addi(total, arith.muli(arith.extui(self.i32, zero), negated))

    def _activation_scale(self, m: int, group: ir.Value) -> ir.Value:
        place = gpu.add(group, self.layout.first_scale)
        return arith.bitcast(self.f32, memref.load(self.values, [self.records[m], place]))


def codes_of(words: Sequence[ir.Value], bits: int, *, symmetric: bool) -> list[ir.Value]:
    """Return quads in the order of k, of words in integer order; symmetric 4-bit codes times 16."""
    if bits == 8:
        return list(words)
    found, four = [], gpu.word(4)
    for word in words:
        if symmetric:
            found.append(arith.andi(arith.shli(word, four), gpu.word(HIGH)))
            found.append(arith.andi(word, gpu.word(HIGH)))
        else:
            found.append(arith.andi(word, gpu.word(LOW)))
            found.append(arith.andi(arith.shrui(word, four), gpu.word(LOW)))
    return found
