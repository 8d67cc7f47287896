"""Softmax over the last dimension for CPUs: one pass over memory, and two in the first cache.

A workgroup takes some rows, one after another::

    for row in rows:
      largest = max over n of x[row, n] + addend[row, n]
      for n: e = exp(x[row, n] + addend[row, n] - largest); y[row, n] = e; total += e
      for n: y[row, n] *= 1 / total

The addend is the mask of an attention; along dimensions where it has size 1 it is the same for all.
Sums and maxima are of four vectors at a time, in an order of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith, vector
from iree.compiler.dialects import math as math_ops

from . import emit
from .executable import Interface
from .work_split import Costs, split

UNROLLED = 4  # vectors at a time: a maximum and a sum take some cycles each
ITEM_ELEMENTS = 8 << 10  # of a workgroup, about: some microseconds
PARTS = 2048  # that rows are cut into at most, before they are put together again
VECTOR_CYCLES = 48.0  # of which the exponential takes most


@dataclass(frozen=True)
class Softmax:
    """``y = softmax(x + addend)`` over the last dimension, all f32.

    Attributes
    ----------
    shape : tuple of int or None
        Sizes of x and y, at least one; None where they are known only at run time.
    addend : tuple of bool or None
        For each dimension whether the addend has its size, else it has size 1; None without one.
        The last is true.
    zeros : bool
        Whether a row of negative infinities alone gives zeros; else it gives NaN.
    lanes : int
        f32 in one vector register.
    """

    shape: tuple[int | None, ...]
    addend: tuple[bool, ...] | None
    zeros: bool
    lanes: int

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        sizes = "x".join("d" if size is None else str(size) for size in self.shape)
        added = "" if self.addend is None else "_a" + "".join("01"[own] for own in self.addend)
        return f"softmax_{sizes}{added}{'z' if self.zeros else ''}_v{self.lanes}"

    def describe(self) -> str:
        """Say which kernel it is."""
        added = "" if self.addend is None else " of a masked product"
        return f"softmax{added} in one dispatch, vectors of {self.lanes}"

    @property
    def translation(self) -> str:
        """How IREE goes on from the kernel's body."""
        return "#iree_codegen.translation_info<pipeline = #iree_cpu.pipeline<Default>>"

    def rows_of_item(self, sizes: Sequence[ir.Value]) -> ir.Value:
        """Return the rows of a workgroup, given the sizes of x."""
        length = self.shape[-1]
        if length is None:
            # Rows of nothing are counted as of one element: nobody divides by 0.
            length_here = arith.maxui(sizes[-1], emit.index(1))
            rows_here = arith.divui(emit.index(ITEM_ELEMENTS), length_here)
            return arith.maxui(rows_here, emit.index(1))
        each = max(1, ITEM_ELEMENTS // max(1, length))
        if None in self.shape:
            return emit.index(each)
        rows = math.prod(size or 0 for size in self.shape[:-1])
        step = max(1, each // 8, -(-rows // PARTS))
        cycles = length / self.lanes * VECTOR_CYCLES
        return emit.index(split(1, rows, 1, step, Costs(cycles, 0, 0), 1)[1])

    def rows(self, sizes: Sequence[ir.Value]) -> ir.Value:
        """Return how many rows x has, given its sizes."""
        found = emit.index(1)
        for size in sizes[:-1]:
            found = arith.muli(found, size)
        return found

    def grid(self, sizes: Sequence[ir.Value]) -> list[ir.Value]:
        """Return the workgroups along x, y and z, given the sizes of x."""
        count = arith.ceildivui(self.rows(sizes), self.rows_of_item(sizes))
        return [count, emit.index(1), emit.index(1)]

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        _Body(self, interface).emit()


class _Body:
    def __init__(self, kernel: Softmax, interface: Interface) -> None:
        self.kernel, self.lanes, self.f32 = kernel, kernel.lanes, ir.F32Type.get()
        open_sizes = [size for size in kernel.shape if size is None]
        numbers = iter([interface.constant(i) for i in range(len(open_sizes))])
        self.sizes = [next(numbers) if size is None else emit.index(size) for size in kernel.shape]
        bound = 0

        def buffer(own: Sequence[bool], *, is_input: bool) -> ir.Value:
            nonlocal bound
            unknown = ir.ShapedType.get_dynamic_size()
            known = [size if has else 1 for size, has in zip(kernel.shape, own, strict=True)]
            opened = [value for value, size in zip(self.sizes, known, strict=True) if size is None]
            type_ = emit.buffer_type([unknown if s is None else s for s in known], self.f32)
            bound += 1
            return interface.buffer(bound - 1, type_, opened, is_input=is_input)

        whole = [True] * len(kernel.shape)
        self.x = buffer(whole, is_input=True)
        self.added = None if kernel.addend is None else buffer(kernel.addend, is_input=True)
        self.y = buffer(whole, is_input=False)
        self.number = interface.workgroup(0)

    def emit(self) -> None:
        rows, each = self.kernel.rows(self.sizes), self.kernel.rows_of_item(self.sizes)
        first = arith.muli(self.number, each)
        emit.each(first, arith.minui(arith.addi(first, each), rows), 1, self._row)

    def _row(self, row: ir.Value) -> None:
        self.at = self._place(row)
        lowest = emit.splat(self.lanes, self.f32, -math.inf)

        def greater(i: ir.Value, mask: ir.Value | None, before: ir.Value) -> ir.Value:
            value = self._value(i, mask)
            if mask is not None:
                value = arith.select(mask, value, lowest)
            return larger(value, before)

        kind = vector.CombiningKind
        largest = self._over(greater, lowest, larger)
        most = largest_lane(largest, self.lanes)
        one, zero = (arith.constant(self.f32, number) for number in (1.0, 0.0))
        if self.kernel.zeros:
            # A row without a number has nothing to shift by: exp(-inf - 0) is 0.
            infinite = arith.constant(self.f32, -math.inf)
            is_empty = arith.cmpf(arith.CmpFPredicate.OEQ, most, infinite)
            most = arith.select(is_empty, zero, most)
        shifts = vector.broadcast(emit.vector_type(self.lanes, self.f32), most)
        none = emit.splat(self.lanes, self.f32, 0.0)

        def power(i: ir.Value, mask: ir.Value | None, before: ir.Value) -> ir.Value:
            value = math_ops.exp(arith.subf(self._value(i, mask), shifts))
            emit.store(value, self.y, [*self.at, i], mask)
            if mask is not None:
                value = arith.select(mask, value, none)
            return arith.addf(before, value)

        total = vector.reduction(self.f32, kind.ADD, self._over(power, none, arith.addf))
        if self.kernel.zeros:
            is_nothing = arith.cmpf(arith.CmpFPredicate.OEQ, total, zero)
            total = arith.select(is_nothing, one, total)
        factor = arith.divf(one, total)
        factors = vector.broadcast(emit.vector_type(self.lanes, self.f32), factor)

        def scale(i: ir.Value, mask: ir.Value | None, before: ir.Value) -> ir.Value:
            place = [*self.at, i]
            value = emit.load(self.lanes, self.y, place, mask)
            emit.store(arith.mulf(value, factors), self.y, place, mask)
            return before

        self._over(scale, none, None)

    def _place(self, row: ir.Value) -> list[ir.Value]:
        """Return the indices of a row, but for the last dimension."""
        found = []
        for size in reversed(self.sizes[:-1]):
            found.append(arith.remui(row, size))
            row = arith.divui(row, size)
        return found[::-1]

    def _value(self, i: ir.Value, mask: ir.Value | None = None) -> ir.Value:
        """Return x with its addend, from `i` on."""
        value = emit.load(self.lanes, self.x, [*self.at, i], mask)
        if self.added is None:
            return value
        own = self.kernel.addend or ()
        at = [
            place if has else emit.index(0) for place, has in zip([*self.at, i], own, strict=True)
        ]
        return arith.addf(value, emit.load(self.lanes, self.added, at, mask))

    def _over(
        self,
        step: Callable[[ir.Value, ir.Value | None, ir.Value], ir.Value],
        start: ir.Value,
        join: Callable[[ir.Value, ir.Value], ir.Value] | None,
    ) -> ir.Value:
        """Build a loop over a row: some vectors at a time, then one by one with a mask."""
        size, wide = self.sizes[-1], self.lanes * UNROLLED
        length = self.kernel.shape[-1]
        full = arith.muli(arith.divui(size, emit.index(wide)), emit.index(wide))

        def round_(i: ir.Value, *carried: ir.Value) -> list[ir.Value]:
            starts = [arith.addi(i, emit.index(v * self.lanes)) for v in range(UNROLLED)]
            return [step(at, None, before) for at, before in zip(starts, carried, strict=True)]

        found = emit.loop(emit.index(0), full, emit.index(wide), round_, [start] * UNROLLED)
        if length is None or length % wide:
            known = length is not None and length % self.lanes == 0

            def rest(i: ir.Value, before: ir.Value) -> list[ir.Value]:
                mask = None if known else emit.mask_of(self.lanes, arith.subi(size, i))
                return [step(i, mask, before)]

            found[:1] = emit.loop(full, size, emit.index(self.lanes), rest, found[:1])
        total = found[0]
        for other in found[1:] if join else ():
            total = join(total, other)  # type: ignore[misc]
        return total


def largest_lane(values: ir.Value, lanes: int) -> ir.Value:
    """Return the largest of `lanes` numbers, none of them NaN, by halves.

    ``vector.reduction`` takes them one after another, and for NaN in mind: 45 instructions in a row
    on 16 lanes, where this has 4 maxima.
    """
    while lanes > 1:
        lanes //= 2
        halves = [list(range(start, start + lanes)) for start in (0, lanes)]
        low, high = (vector.shuffle(values, values, half) for half in halves)
        values = larger(low, high)
    return vector.extract(values, [], [0])


def larger(value: ir.Value, before: ir.Value) -> ir.Value:
    """Return the larger one, `before` beside a NaN: that comes back with the sum."""
    return arith.select(arith.cmpf(arith.CmpFPredicate.OGT, value, before), value, before)
