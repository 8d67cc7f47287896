"""Round rows of f32 activations to 8 bits: the dispatch before a product of small integers.

A row becomes a record of words of 32 bits, which one dispatch writes and the next reads::

    codes, in quads as the product reads them (:class:`.integer_dot.IntegerDot`)   chunks x quads
    scales, f32: one for the row, or one for each group
    sums of the codes of each group, negated, i32, for the weights' zero points    groups

The definition is :func:`..formats.activations.quantize`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith, math, vector

from ..formats.activations import LARGEST, MAGNITUDE_MASK, SMALLEST_MAXIMUM
from ..formats.floats import F32, bits_of
from . import emit
from .executable import Interface
from .integer_dot import IntegerDot

ROWS = 8  # of a workgroup: a row takes a few microseconds
SMALLEST = int(bits_of(SMALLEST_MAXIMUM, F32))  # compared as a pattern


@dataclass(frozen=True)
class IntegerRows:
    """``f32 [m, k]`` → records ``i32 [m, words]``.

    Attributes
    ----------
    m : int or None
        Rows; None where they are known only at run time.
    k, group : int
        Length of a row; how many of its elements share a sum, and a scale if `per_group`.
    per_group : bool
        Whether each group has a scale; else the row has one.
    dot : IntegerDot
        How quads are stored.
    """

    m: int | None
    k: int
    group: int
    per_group: bool
    dot: IntegerDot

    @property
    def groups(self) -> int:
        """How many groups a row has."""
        return -(-self.k // self.group)

    @property
    def chunks(self) -> int:
        """Chunks of K, with what pads the last group."""
        return self.groups * self.group // self.dot.chunk

    @property
    def scales(self) -> int:
        """How many scales a row has."""
        return self.groups if self.per_group else 1

    @property
    def first_scale(self) -> int:
        """The word of a record where the scales begin."""
        return self.chunks * self.dot.quads * self.dot.stride

    @property
    def first_sum(self) -> int:
        """The word of a record where the sums begin."""
        return self.first_scale + self.scales

    @property
    def words(self) -> int:
        """Words of a record: whole cache lines, so that all begin on one."""
        return -(-(self.first_sum + self.groups) // 16) * 16

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

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        _Body(self, interface).emit()


class _Body:
    def __init__(self, kernel: IntegerRows, interface: Interface) -> None:
        self.kernel = kernel
        self.lanes = kernel.dot.isa.lanes
        self.f32, self.i32 = ir.F32Type.get(), emit.integer(32)
        known = kernel.m is not None
        self.m = emit.index(kernel.m) if kernel.m is not None else interface.constant(0)
        rows = kernel.m if kernel.m is not None else ir.ShapedType.get_dynamic_size()
        opened = [] if known else [self.m]
        source = emit.buffer_type([rows, kernel.k], self.f32)
        target = emit.buffer_type([rows, kernel.words], self.i32)
        self.source = interface.buffer(0, source, opened, is_input=True)
        self.target = interface.buffer(1, target, opened, is_input=False)
        self.first = arith.muli(interface.workgroup(0), emit.index(ROWS))

    def emit(self) -> None:
        last = arith.minui(arith.addi(self.first, emit.index(ROWS)), self.m)
        emit.each(self.first, last, 1, self._row)

    def _row(self, row: ir.Value) -> None:
        kernel = self.kernel
        self.row = row
        if not kernel.per_group:
            largest = self._largest(emit.index(0), kernel.k)
            reciprocal = self._scale(largest, emit.index(0))
        full = kernel.k // kernel.group

        def group(g: ir.Value, length: int) -> None:
            start = arith.muli(g, emit.index(kernel.group))
            scaled = reciprocal if not kernel.per_group else None
            if scaled is None:
                scaled = self._scale(self._largest(start, length), g)
            self._codes(g, start, length, scaled)

        emit.each(emit.index(0), emit.index(full), 1, lambda g: group(g, kernel.group))
        if kernel.k % kernel.group:
            group(emit.index(full), kernel.k % kernel.group)
        self._fill()

    def _largest(self, start: ir.Value, length: int) -> ir.Value:
        """Return the largest pattern of a magnitude: as integers NaN > inf > every number."""
        zero = emit.splat(self.lanes, self.i32, 0)

        def step(i: ir.Value, most: ir.Value) -> Sequence[ir.Value]:
            return [arith.maxui(most, self._magnitude(self._load(start, i, length)))]

        (most,) = emit.loop(emit.index(0), emit.index(length), emit.index(self.lanes), step, [zero])
        return vector.reduction(self.i32, vector.CombiningKind.MAXUI, most)

    def _magnitude(self, value: ir.Value) -> ir.Value:
        bits = vector.bitcast(emit.vector_type(self.lanes, self.i32), value)
        return arith.andi(bits, emit.splat(self.lanes, self.i32, MAGNITUDE_MASK))

    def _load(self, start: ir.Value, i: ir.Value, length: int) -> ir.Value:
        mask = None
        if length % self.lanes:
            mask = emit.mask_of(self.lanes, arith.subi(emit.index(length), i))
        return emit.load(self.lanes, self.source, [self.row, arith.addi(start, i)], mask)

    def _scale(self, largest: ir.Value, number: ir.Value) -> ir.Value:
        """Store the scale of a magnitude's pattern; return its reciprocal in all lanes."""
        amax = arith.bitcast(self.f32, largest)
        most = arith.constant(self.f32, float(LARGEST))
        zero = arith.constant(self.f32, 0.0)
        limit = arith.constant(self.i32, SMALLEST)
        is_small = arith.cmpi(arith.CmpIPredicate.ult, largest, limit)
        scale = arith.select(is_small, zero, arith.divf(amax, most))
        reciprocal = arith.select(is_small, zero, arith.divf(most, amax))
        place = arith.addi(number, emit.index(self.kernel.first_scale))
        emit.store_scalar(arith.bitcast(self.i32, scale), self.target, [self.row, place])
        return vector.broadcast(emit.vector_type(self.lanes, self.f32), reciprocal)

    def _codes(self, g: ir.Value, start: ir.Value, length: int, reciprocal: ir.Value) -> None:
        """Store the codes of a group and their sum."""
        zero = emit.splat(self.lanes, self.i32, 0)

        def block(i: ir.Value, total: ir.Value) -> Sequence[ir.Value]:
            value = arith.mulf(self._load(start, i, length), reciprocal)
            is_number = arith.cmpf(arith.CmpFPredicate.ORD, value, value)
            value = arith.select(is_number, value, emit.splat(self.lanes, self.f32, 0.0))
            whole = math.roundeven(value)
            codes = arith.fptosi(emit.vector_type(self.lanes, self.i32), whole)
            self._store_quads(arith.addi(start, i), codes)
            return [arith.addi(total, codes)]

        (total,) = emit.loop(
            emit.index(0), emit.index(length), emit.index(self.lanes), block, [zero]
        )
        found = vector.reduction(self.i32, vector.CombiningKind.ADD, total)
        found = arith.subi(arith.constant(self.i32, 0), found)
        place = arith.addi(g, emit.index(self.kernel.first_sum))
        emit.store_scalar(found, self.target, [self.row, place])

    def _store_quads(self, k: ir.Value, codes: ir.Value) -> None:
        stride = self.kernel.dot.stride
        place = arith.muli(arith.divui(k, emit.index(4)), emit.index(stride))
        quads = self.lanes // 4
        if stride == 4:
            words = codes
        elif stride == 1:
            narrow = arith.trunci(emit.vector_type(self.lanes, emit.integer(8)), codes)
            words = vector.bitcast(emit.vector_type(quads, self.i32), narrow)
        else:
            narrow = arith.trunci(emit.vector_type(self.lanes, emit.integer(16)), codes)
            # (0, 2) and (1, 3) of each quad, as the codes of a weight come apart.
            order = [4 * quad + j for quad in range(quads) for j in (0, 2, 1, 3)]
            moved = vector.shuffle(narrow, narrow, order)
            words = vector.bitcast(emit.vector_type(2 * quads, self.i32), moved)
        emit.store(words, self.target, [self.row, place])

    def _fill(self) -> None:
        """Write zeros for the codes between the last element's vector and the last chunk."""
        kernel, stride = self.kernel, self.kernel.dot.stride
        written = -(-kernel.k // self.lanes) * self.lanes
        first = written // 4 * stride
        zero = arith.constant(self.i32, 0)
        emit.each(
            emit.index(first), emit.index(kernel.first_scale), 1,
            lambda word: emit.store_scalar(zero, self.target, [self.row, word]),
        )  # fmt: skip
