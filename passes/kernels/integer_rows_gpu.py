"""Round rows of f32 activations to 8 bits on a GPU: the dispatch before a product of integers.

A row becomes a record of words of 32 bits, which one dispatch writes and the next reads::

    codes, four to a word in the order of k, filled up with zeros                  padded K / 4
    scales, f32: one for the row, or one for each group                            1, or groups
    sums of the codes of each group, negated, i32, if weights have zero points     groups, or 0

The definition is :func:`..formats.activations.quantize`.  A workgroup makes a row, or a part of one
whose groups have their own scales.  A warp takes 128 neighbouring elements at a time, in which it
finds the maxima of whole groups by shuffles, or one group that is longer; what all of a row share
goes through workgroup memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith, memref, scf

from ..formats import gpu_rows
from ..formats.activations import LARGEST, MAGNITUDE_MASK, SMALLEST_MAXIMUM
from ..formats.floats import F32, bits_of
from . import emit, gpu
from .executable import Interface
from .integer_rows import IntegerRecords

QUAD = 4
STEP = gpu.WARP * QUAD  # elements that a warp takes at a time
Combine = Callable[[ir.Value, ir.Value], ir.Value]
SMALLEST = int(bits_of(SMALLEST_MAXIMUM, F32))  # compared as a pattern


@dataclass(frozen=True)
class IntegerRowsGpu(IntegerRecords):
    """What makes records for GPUs; `has_sums` says whether sums are stored."""

    has_sums: bool

    @property
    def groups(self) -> int:
        """How many groups a row has, with those that fill it up."""
        return gpu_rows.groups_of(self.k, self.group)

    @property
    def padded(self) -> int:
        """Codes of a record."""
        return gpu_rows.padded(self.k, self.group)

    @property
    def first_scale(self) -> int:
        """The word of a record where the scales begin."""
        return self.padded // QUAD

    @property
    def sums(self) -> int:
        """How many sums a record has."""
        return self.groups * self.has_sums

    @property
    def spans(self) -> int:
        """How many parts of a row warps take, where these have scales of their own; else 0."""
        if not self.per_group or self.groups == 1:
            return 0
        return self.padded // max(STEP, self.group)

    @property
    def warps(self) -> int:
        """Warps of a workgroup."""
        return min(4, self.spans) if self.spans else min(16, -(-self.padded // STEP))

    @property
    def parts(self) -> int:
        """How many workgroups make a row: several, where they need not wait for each other."""
        return -(-self.spans // self.warps) if self.spans else 1

    @property
    def threads(self) -> tuple[int, int, int]:
        """Threads of a workgroup along x, y and z."""
        return (self.warps * gpu.WARP, 1, 1)

    @property
    def shared_bytes(self) -> int:
        """Bytes of workgroup memory."""
        return 8 * max(2, self.warps)

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        m = "d" if self.m is None else str(self.m)
        kind = f"{'g' if self.per_group else 'r'}{'s' if self.has_sums else ''}"
        return f"round_gpu_{m}x{self.k}g{self.group}{kind}"

    @property
    def translation(self) -> str:
        """How IREE goes on from the kernel's body."""
        return gpu.translation("ptx", self.threads)

    def grid(self, m: ir.Value) -> list[ir.Value]:
        """Return the workgroups along x, y and z."""
        return [m, emit.index(self.parts), emit.index(1)]

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        _Body(self, interface).emit()


class _Body:
    def __init__(self, kernel: IntegerRowsGpu, interface: Interface) -> None:
        self.kernel = kernel
        self.f32, self.i32 = ir.F32Type.get(), emit.integer(32)
        opened = [interface.constant(0)] if kernel.m is None else []
        self.wide = kernel.k % QUAD == 0
        lanes = QUAD if self.wide else 1
        self.x = gpu.buffer(interface, 0, [kernel.m, kernel.k], self.f32, opened, lanes=lanes)
        self.record = gpu.buffer(
            interface, 1, [kernel.m, kernel.words], self.i32, opened, is_input=False
        )
        self.row, self.part = interface.workgroup(0), interface.workgroup(1)
        self.thread = gpu.thread("x")
        self.lane = arith.remui(self.thread, emit.index(gpu.WARP))
        self.warp = arith.divui(self.thread, emit.index(gpu.WARP))
        self.warps = kernel.warps
        self.scratch = gpu.shared([2, max(2, self.warps)], self.i32)
        self.used = 0  # rows of scratch

    def emit(self) -> None:
        kernel = self.kernel
        if kernel.per_group and kernel.groups > 1:
            self._each_span(None)
            return
        quads = kernel.padded // QUAD
        start, step = self.thread, emit.index(kernel.threads[0])
        (most,) = emit.loop(
            start, emit.index(quads), step, lambda q, most: [self._larger(q, most)], [gpu.word(0)]
        )
        pattern = self._of_row(most, arith.maxui)
        scale, reciprocal = self._scale(pattern)
        self._by_first(lambda: self._store(scale, emit.index(0), kernel.first_scale))
        if kernel.has_sums and kernel.groups > 1:
            self._each_span(reciprocal)
            return
        (total,) = emit.loop(
            start, emit.index(quads), step,
            lambda q, total: [self._code(q, reciprocal, total)], [gpu.word(0)],
        )  # fmt: skip
        if kernel.has_sums:
            total = arith.subi(gpu.word(0), self._of_row(total, arith.addi))
            self._by_first(lambda: self._store(total, emit.index(0), kernel.first_sum))

    # -- whole rows --------------------------------------------------------------------------------

    def _of_row(self, value: ir.Value, combine: Combine) -> ir.Value:
        """Return what all threads of the workgroup have together."""
        value = self._of_lanes(value, gpu.WARP, combine)
        if self.warps == 1:
            return value
        at = emit.index(self.used)
        self.used += 1
        memref.store(value, self.scratch, [at, self.warp])
        gpu.barrier()
        found = memref.load(self.scratch, [at, emit.index(0)])
        for warp in range(1, self.warps):
            found = combine(found, memref.load(self.scratch, [at, emit.index(warp)]))
        return found

    def _by_first(self, body: Callable[[], None]) -> None:
        first = arith.cmpi(arith.CmpIPredicate.eq, self.thread, emit.index(0))
        with gpu.when(first):
            body()
            scf.YieldOp([])

    # -- spans: 128 elements, or a group that is longer --------------------------------------------

    def _each_span(self, reciprocal: ir.Value | None) -> None:
        """Make the codes of all groups; their scales too, unless `reciprocal` is the row's."""
        kernel = self.kernel
        span = max(STEP, kernel.group)
        spans = kernel.padded // span
        emit.each(
            arith.addi(gpu.scaled(self.part, self.warps), self.warp),
            emit.index(spans), self.warps * kernel.parts,
            lambda number: self._span(number, span // STEP, reciprocal),
        )  # fmt: skip

    def _span(self, number: ir.Value, steps: int, reciprocal: ir.Value | None) -> None:
        kernel, lanes = self.kernel, min(gpu.WARP, self.kernel.group // QUAD)
        first = arith.addi(gpu.scaled(number, steps * gpu.WARP), self.lane)
        group = arith.divui(gpu.scaled(first, QUAD), emit.index(kernel.group))
        leads = arith.cmpi(
            arith.CmpIPredicate.eq, arith.remui(self.lane, emit.index(lanes)), emit.index(0)
        )

        def over(body: Combine, start: ir.Value) -> ir.Value:
            if steps == 1:
                return body(first, start)
            (found,) = emit.loop(
                emit.index(0), emit.index(steps * gpu.WARP), emit.index(gpu.WARP),
                lambda i, carried: [body(arith.addi(first, i), carried)], [start],
            )  # fmt: skip
            return found

        if reciprocal is None:
            pattern = self._of_lanes(over(self._larger, gpu.word(0)), lanes, arith.maxui)
            scale, reciprocal = self._scale(pattern)
            with gpu.when(leads):
                self._store(scale, group, kernel.first_scale)
                scf.YieldOp([])
        factor = reciprocal
        total = over(lambda q, carried: self._code(q, factor, carried), gpu.word(0))
        if kernel.has_sums:
            total = arith.subi(gpu.word(0), self._of_lanes(total, lanes, arith.addi))
            with gpu.when(leads):
                self._store(total, group, kernel.first_sum)
                scf.YieldOp([])

    # -- quads -------------------------------------------------------------------------------------

    def _larger(self, quad: ir.Value, most: ir.Value) -> ir.Value:
        """Return the largest pattern of a magnitude: as integers NaN > inf > every number."""
        for value in self._values(quad):
            bits = arith.bitcast(self.i32, value)
            most = arith.maxui(most, arith.andi(bits, gpu.word(MAGNITUDE_MASK)))
        return most

    def _scale(self, pattern: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return the scale of a largest magnitude, as bits, and its reciprocal."""
        amax = arith.bitcast(self.f32, pattern)
        zero, most = (arith.constant(self.f32, float(value)) for value in (0, LARGEST))
        is_small = arith.cmpi(arith.CmpIPredicate.ult, pattern, gpu.word(SMALLEST))
        scale = arith.select(is_small, zero, arith.divf(amax, most))
        reciprocal = arith.select(is_small, zero, arith.divf(most, amax))
        return arith.bitcast(self.i32, scale), reciprocal

    def _code(self, quad: ir.Value, reciprocal: ir.Value, total: ir.Value) -> ir.Value:
        """Store the codes of a quad; return `total` and their sum."""
        packed = gpu.word(0)
        zero = arith.constant(self.f32, 0.0)
        for place, element in enumerate(self._values(quad)):
            value = arith.mulf(element, reciprocal)
            is_number = arith.cmpf(arith.CmpFPredicate.ORD, value, value)
            code = gpu.round_to_int(arith.select(is_number, value, zero))
            total = arith.addi(total, code)
            byte = arith.andi(code, gpu.word(255))
            packed = arith.ori(packed, arith.shli(byte, gpu.word(8 * place)))
        memref.store(packed, self.record, [self.row, quad])
        return total

    def _values(self, quad: ir.Value) -> Sequence[ir.Value]:
        """Return four elements of the row; zeros beyond its end."""
        kernel, zero = self.kernel, arith.constant(self.f32, 0.0)
        if self.wide:
            if kernel.k == kernel.padded:
                return gpu.lanes_of(memref.load(self.x, [self.row, quad]))
            last = emit.index(kernel.k // QUAD - 1)
            inside = arith.cmpi(arith.CmpIPredicate.ule, quad, last)
            loaded = memref.load(self.x, [self.row, arith.minui(quad, last)])
            return [arith.select(inside, value, zero) for value in gpu.lanes_of(loaded)]
        found = []
        last = emit.index(kernel.k - 1)
        for place in range(QUAD):
            at = gpu.add(gpu.scaled(quad, QUAD), place)
            inside = arith.cmpi(arith.CmpIPredicate.ule, at, last)
            loaded = memref.load(self.x, [self.row, arith.minui(at, last)])
            found.append(arith.select(inside, loaded, zero))
        return found

    def _of_lanes(self, value: ir.Value, lanes: int, combine: Combine) -> ir.Value:
        """Return what `lanes` neighbouring threads have together."""
        distance = 1
        while distance < lanes:
            value = combine(value, gpu.shuffle_xor(value, distance))
            distance *= 2
        return value

    def _store(self, value: ir.Value, number: ir.Value, first: int) -> None:
        memref.store(value, self.record, [self.row, gpu.add(number, first)])
