"""Round rows of f32 activations to 8 bits: the dispatch before a product of small integers.

A row becomes a record of words of 32 bits, which one dispatch writes and the next reads::

    codes, in quads as the product reads them (:class:`.integer_dot.IntegerDot`)   chunks x quads
    scales, f32: one for the row, or one for each group
    sums of the codes of each group, negated, i32, for the weights' zero points    groups

The definition is :func:`..formats.activations.quantize`.  A product of very few rows rounds them
itself, by the same code, in each of its workgroups: that costs less than a second dispatch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith, vector

from ..formats.activations import LARGEST, MAGNITUDE_MASK, SMALLEST_MAXIMUM
from ..formats.floats import F32, bits_of
from . import emit
from .executable import Interface
from .integer_dot import IntegerDot

ROWS = 4  # of a workgroup: a row of 4096 elements takes 0.6 microseconds
# Makes what is carried of values, the place of the first, and what was carried.
Step = Callable[[ir.Value, ir.Value, ir.Value], ir.Value]

UNROLLED = 4  # vectors of a row
ROUNDING = 1.5 * 2.0**23  # whole numbers around it are its neighbours
ROUNDING_BITS = int(bits_of(ROUNDING, F32))
SMALLEST = int(bits_of(SMALLEST_MAXIMUM, F32))  # compared as a pattern


@dataclass(frozen=True)
class IntegerRecords(ABC):
    """``f32 [m, k]`` → records ``i32 [m, words]``: codes, scales, sums of groups.

    Attributes
    ----------
    m : int or None
        Rows; None where they are known only at run time.
    k, group : int
        Length of a row; how many of its elements share a sum, and a scale if `per_group`.
    per_group : bool
        Whether each group has a scale; else the row has one.
    """

    m: int | None
    k: int
    group: int
    per_group: bool

    @property
    def groups(self) -> int:
        """How many groups a row has."""
        return -(-self.k // self.group)

    @property
    def scales(self) -> int:
        """How many scales a row has."""
        return self.groups if self.per_group else 1

    @property
    @abstractmethod
    def first_scale(self) -> int:
        """The word of a record where the scales begin."""

    @property
    def first_sum(self) -> int:
        """The word of a record where the sums begin."""
        return self.first_scale + self.scales

    @property
    def sums(self) -> int:
        """How many sums a record has."""
        return self.groups

    @property
    def words(self) -> int:
        """Words of a record: whole cache lines, so that all begin on one."""
        return -(-(self.first_sum + self.sums) // 16) * 16

    @property
    def making_bytes(self) -> int:
        """Bytes on the stack that making records takes."""
        return 0


@dataclass(frozen=True)
class IntegerRows(IntegerRecords):
    """What makes records for CPUs; `dot` says how quads are stored."""

    dot: IntegerDot

    @property
    def chunks(self) -> int:
        """Chunks of K, with what pads the last group."""
        return self.groups * self.group // self.dot.chunk

    @property
    def first_scale(self) -> int:
        """The word of a record where the scales begin."""
        return self.chunks * self.dot.quads * self.dot.stride

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        m = "d" if self.m is None else str(self.m)
        kind = f"{self.dot.strategy}{self.dot.isa.lanes}"
        return f"round_{m}x{self.k}g{self.group}{'g' if self.per_group else 'r'}_{kind}"

    @property
    def translation(self) -> str:
        """How IREE goes on from the kernel's body."""
        return "#iree_codegen.translation_info<pipeline = #iree_cpu.pipeline<Default>>"

    def grid(self, m: ir.Value) -> list[ir.Value]:
        """Return the workgroups along x, y and z."""
        return [arith.ceildivui(m, emit.index(ROWS)), emit.index(1), emit.index(1)]

    def maker(self, source: ir.Value, target: ir.Value) -> Rounding:
        """Return what builds records in `target` of rows of `source`."""
        return Rounding(self, source, target)

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        _Body(self, interface).emit()


class _Body:
    def __init__(self, kernel: IntegerRows, interface: Interface) -> None:
        known = kernel.m is not None
        self.m = emit.index(kernel.m) if kernel.m is not None else interface.constant(0)
        rows = kernel.m if kernel.m is not None else ir.ShapedType.get_dynamic_size()
        opened = [] if known else [self.m]
        f32, i32 = ir.F32Type.get(), emit.integer(32)
        source = emit.buffer_type([rows, kernel.k], f32)
        target = emit.buffer_type([rows, kernel.words], i32)
        self.rounding = kernel.maker(
            interface.buffer(0, source, opened, is_input=True),
            interface.buffer(1, target, opened, is_input=False),
        )
        self.first = arith.muli(interface.workgroup(0), emit.index(ROWS))

    def emit(self) -> None:
        last = arith.minui(arith.addi(self.first, emit.index(ROWS)), self.m)
        emit.each(self.first, last, 1, lambda row: self.rounding.row(row, row))


class Rounding:
    """Builds records in `target`, ``i32 [rows, words]``, of rows of `source`, ``f32 [rows, k]``."""

    def __init__(self, kernel: IntegerRows, source: ir.Value, target: ir.Value) -> None:
        self.kernel, self.source, self.target = kernel, source, target
        self.lanes = kernel.dot.isa.lanes
        self.f32, self.i32 = ir.F32Type.get(), emit.integer(32)

    def row(self, number: ir.Value, record: ir.Value) -> None:
        """Build one row, in passes: scales of many groups at once, and no group waits for its own.

        Until a group's sum is known, the reciprocal of its scale stands in its place.
        """
        kernel, self.number, self.record = self.kernel, number, record
        if kernel.per_group:
            self._groups(self._store_largest)
        else:
            self._store_largest(emit.index(0), emit.index(0), kernel.k)
        for first in range(0, kernel.scales, self.lanes):
            self._store_scales(first, min(self.lanes, kernel.scales - first))
        if kernel.per_group:
            self._groups(lambda g, start, size: self._codes(g, start, size, self._reciprocal(g)))
        else:
            shared = self._reciprocal(emit.index(0))
            self._groups(lambda g, start, size: self._codes(g, start, size, shared))
        self._fill()

    def _groups(self, body: Callable[[ir.Value, ir.Value, int], None]) -> None:
        """Build ``body(group, its first element, how many it has)`` for every group of a row."""
        kernel, full = self.kernel, self.kernel.k // self.kernel.group

        def run(g: ir.Value, length: int) -> None:
            body(g, arith.muli(g, emit.index(kernel.group)), length)

        emit.each(emit.index(0), emit.index(full), 1, lambda g: run(g, kernel.group))
        if kernel.k % kernel.group:
            run(emit.index(full), kernel.k % kernel.group)

    def _over(self, start: ir.Value, length: int, body: Step, carried: ir.Value) -> ir.Value:
        """Build ``carried = body(values, where they are, carried)`` for vectors of `length` values.

        Unrolled as far as it goes; beyond `length` values are zero.
        """

        def step(i: ir.Value, total: ir.Value, mask: ir.Value | None = None) -> ir.Value:
            at = arith.addi(start, i)
            return body(emit.load(self.lanes, self.source, [self.number, at], mask), at, total)

        def steps(i: ir.Value, total: ir.Value) -> Sequence[ir.Value]:
            for number in range(UNROLLED):
                total = step(arith.addi(i, emit.index(number * self.lanes)), total)
            return [total]

        whole, block = length // self.lanes, UNROLLED * self.lanes
        done = whole // UNROLLED * block if whole > 2 * UNROLLED else 0
        if done:
            stop, by = emit.index(done), emit.index(block)
            (carried,) = emit.loop(emit.index(0), stop, by, steps, [carried])
        for i in range(done, whole * self.lanes, self.lanes):
            carried = step(emit.index(i), carried)
        if length % self.lanes:
            mask = emit.mask_of(self.lanes, emit.index(length % self.lanes))
            carried = step(emit.index(whole * self.lanes), carried, mask)
        return carried

    # -- scales ------------------------------------------------------------------------------------

    def _store_largest(self, g: ir.Value, start: ir.Value, length: int) -> None:
        """Store the largest pattern of a magnitude: as integers NaN > inf > every number."""

        def step(value: ir.Value, _at: ir.Value, most: ir.Value) -> ir.Value:
            bits = vector.bitcast(most.type, value)
            magnitude = arith.andi(bits, emit.splat(self.lanes, self.i32, MAGNITUDE_MASK))
            return arith.maxui(most, magnitude)

        most = self._over(start, length, step, emit.splat(self.lanes, self.i32, 0))
        largest = vector.reduction(self.i32, vector.CombiningKind.MAXUI, most)
        emit.store_scalar(largest, self.target, self._of_group(g, self.kernel.first_scale))

    def _store_scales(self, first: int, count: int) -> None:
        """Replace `count` patterns by their scales; store the reciprocals where sums will be."""
        mask = None if count == self.lanes else emit.mask_of(self.lanes, emit.index(count))
        at = self._of_group(emit.index(first), self.kernel.first_scale)
        pattern = emit.load(self.lanes, self.target, at, mask)
        amax = emit.as_floats(pattern, self.lanes)
        zero = emit.splat(self.lanes, self.f32, 0.0)
        most = emit.splat(self.lanes, self.f32, float(LARGEST))
        limit = emit.splat(self.lanes, self.i32, SMALLEST)
        is_small = arith.cmpi(arith.CmpIPredicate.ult, pattern, limit)
        scale = arith.select(is_small, zero, arith.divf(amax, most))
        reciprocal = arith.select(is_small, zero, arith.divf(most, amax))
        emit.store(vector.bitcast(pattern.type, scale), self.target, at, mask)
        at = self._of_group(emit.index(first), self.kernel.first_sum)
        emit.store(vector.bitcast(pattern.type, reciprocal), self.target, at, mask)

    def _reciprocal(self, g: ir.Value) -> ir.Value:
        place = self._of_group(g, self.kernel.first_sum)
        return emit.as_floats(emit.broadcast_scalar(self.lanes, self.target, place), self.lanes)

    def _of_group(self, g: ir.Value, first: int) -> list[ir.Value]:
        return [self.record, arith.addi(g, emit.index(first))]

    # -- codes -------------------------------------------------------------------------------------

    def _codes(self, g: ir.Value, start: ir.Value, length: int, reciprocal: ir.Value) -> None:
        """Store the codes of a group and their sum, negated.

        A number that is added to :data:`ROUNDING` is rounded to the nearest whole one, ties to
        even, and stands in the low bits of the pattern of the sum.
        """
        zero = emit.splat(self.lanes, self.f32, 0.0)
        rounding = emit.splat(self.lanes, self.f32, ROUNDING)

        def step(value: ir.Value, at: ir.Value, total: ir.Value) -> ir.Value:
            value = arith.mulf(value, reciprocal)
            is_number = arith.cmpf(arith.CmpFPredicate.ORD, value, value)
            value = arith.addf(arith.select(is_number, value, zero), rounding)
            bits = vector.bitcast(total.type, value)
            self._store_quads(at, bits)
            return arith.addi(total, bits)

        total = self._over(start, length, step, emit.splat(self.lanes, self.i32, 0))
        found = vector.reduction(self.i32, vector.CombiningKind.ADD, total)
        count = -(-length // self.lanes) * self.lanes
        added = emit.wrapped(self.i32, count * ROUNDING_BITS)
        place = self._of_group(g, self.kernel.first_sum)
        emit.store_scalar(arith.subi(added, found), self.target, place)

    def _store_quads(self, k: ir.Value, bits: ir.Value) -> None:
        """Store the codes in the low bits of patterns, as the product reads them."""
        stride = self.kernel.dot.stride
        place = arith.muli(arith.divui(k, emit.index(4)), emit.index(stride))
        quads = self.lanes // 4
        if stride == 4:
            words = arith.subi(bits, emit.splat(self.lanes, self.i32, ROUNDING_BITS))
        elif stride == 1:
            words = self._lowest(bits, 8, range(self.lanes))
        else:
            # (0, 2) and (1, 3) of each quad, as the codes of a weight come apart.
            words = self._lowest(bits, 16, [4 * q + j for q in range(quads) for j in (0, 2, 1, 3)])
        emit.store(words, self.target, [self.record, place])

    def _lowest(self, bits: ir.Value, width: int, order: Sequence[int]) -> ir.Value:
        """Return the low `width` bits of the lanes in that `order`, as words."""
        parts = 32 // width
        narrow = vector.bitcast(emit.vector_type(self.lanes * parts, emit.integer(width)), bits)
        chosen = vector.shuffle(narrow, narrow, [lane * parts for lane in order])
        return vector.bitcast(emit.vector_type(self.lanes // parts, self.i32), chosen)

    def _fill(self) -> None:
        """Write zeros for the codes between the last element's vector and the last chunk."""
        kernel, stride = self.kernel, self.kernel.dot.stride
        written = -(-kernel.k // self.lanes) * self.lanes
        first = written // 4 * stride
        zero = arith.constant(self.i32, 0)
        emit.each(
            emit.index(first), emit.index(kernel.first_scale), 1,
            lambda word: emit.store_scalar(zero, self.target, [self.record, word]),
        )  # fmt: skip
