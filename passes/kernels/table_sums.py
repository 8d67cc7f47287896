"""What kernels of look-ups have in common: spans and groups, and how their sums are scaled."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from iree.compiler import ir
from iree.compiler.dialects import arith, vector

from ..formats import key_panels
from . import emit
from .executable import Interface
from .integer_dot import multiply_shorts
from .record_matmul import RecordBody

if TYPE_CHECKING:
    from .table_matmul import TableMatmul

VECTORS = key_panels.ROWS  # registers of f32 sums of a panel


class TableBody(RecordBody):
    """The function of one kernel while it is being built."""

    def __init__(self, kernel: TableMatmul, interface: Interface) -> None:
        super().__init__(kernel, interface)
        self.kernel, self.rows = kernel, kernel.rows
        self.signs, *self.scales = self.weights
        self.factors = kernel.scaling.factors(kernel.planes)
        self.per_group = kernel.per_group
        self.parts = self.totals
        if kernel.has_parts:
            self.parts = emit.scratch(kernel.sums, self.f32)

    @abstractmethod
    def look_up(self, s: ir.Value) -> None:
        """Look up the entries of a span, and add what they sum up to, scaled, to the totals."""

    def add_products(self) -> None:
        """Add the products of the records and the panels to the totals of all places."""
        if not self.kernel.has_parts:
            emit.each(emit.index(0), emit.index(self.rows.spans), 1, self.look_up)
            return
        emit.each(emit.index(0), emit.index(self.kernel.groups), 1, self._group)

    def _group(self, g: ir.Value) -> None:
        zero = emit.splat(self.lanes, self.f32, 0.0)
        for r, v in self.places:
            emit.store(zero, self.parts, self.total(r, v))
        first = arith.muli(g, emit.index(self.per_group))
        last = arith.addi(first, emit.index(self.per_group))
        emit.each(first, arith.minui(last, emit.index(self.rows.spans)), 1, self.look_up)
        for r, v in self.places:
            part = emit.load(self.lanes, self.parts, self.total(r, v))
            self._add(r, v, part, self._half(g, v))

    # -- scales of their own for planes ------------------------------------------------------------

    def add_scaled(self, s: ir.Value, sums: Callable[[int, int, int], Sequence[ir.Value]]) -> None:
        """Scale the sums of a span's planes and add them to the totals.

        ``sums(r, p, i)`` are those of a row, a panel and a plane, in i32.
        """
        g = self._group_of(s)
        scale = functools.cache(lambda p, i: self._scales(g, p, i))
        for r in range(len(self.records)):
            power = self._power(s, r)
            for p in range(self.vectors // VECTORS):
                parts: list[ir.Value] = []
                for i in range(self.kernel.planes):
                    found, scales = map(self._floats, sums(r, p, i)), scale(p, i)
                    if not parts:
                        parts = list(map(arith.mulf, found, scales))
                    else:
                        parts = list(map(vector.fma, found, scales, parts))
                for j, part in enumerate(parts):
                    self._add(r, p * VECTORS + j, part, power)

    def _scales(self, g: ir.Value, p: int, i: int) -> list[ir.Value]:
        """Return a plane's scales of a panel's columns, f32 in the order of the columns."""
        panel, _ = self.panel(p * VECTORS)
        source = self.scales[0]
        if self.kernel.scaling.shared:
            at = [self.item, panel, g, emit.index(i), emit.index(0)]
            return [emit.broadcast_scalar(self.lanes, source, at)] * VECTORS
        found = []
        for h in range(VECTORS // 2):
            at = [self.item, panel, g, emit.index(i), emit.index(h * self.lanes)]
            self.fetch(source, at, 2, 1)
            words = emit.load(self.lanes, source, at)
            low = arith.shli(words, emit.splat(self.lanes, self.i32, 16))
            high = arith.andi(words, emit.splat(self.lanes, self.i32, 0xFFFF0000))
            found += [emit.as_floats(low, self.lanes), emit.as_floats(high, self.lanes)]
        return found

    # -- planes that are joined --------------------------------------------------------------------

    def begin(self, s: ir.Value, r: int, p: int) -> list[ir.Value]:
        """Return where the joined sums of a panel start: what zero points take from them."""
        zero = emit.splat(self.lanes, self.i32, 0)
        if self.kernel.scaling.kind == "ternary":
            return [zero] * VECTORS
        at = [self.records[r], arith.addi(s, emit.index(self.rows.first_sum))]
        ones = emit.broadcast_scalar(self.lanes, self.a, at)
        if self.kernel.scaling.symmetric:
            return [arith.subi(zero, ones)] * VECTORS
        # -z' O = (2^b - 1) O - 2 z O
        twice = arith.addi(ones, ones)
        most = arith.shli(ones, emit.splat(self.lanes, self.i32, self.kernel.planes))
        most, down = arith.subi(most, ones), arith.subi(zero, twice)
        found = []
        for v in range(p * VECTORS, (p + 1) * VECTORS):
            stored = emit.load(self.lanes, self.scales[1], self._of_group(self._group_of(s), v))
            codes = arith.extui(emit.vector_type(self.lanes, self.i32), stored)
            # Both fit 16 bits, and the upper halves of codes are 0.
            found.append(arith.addi(multiply_shorts(self.lanes, codes, down), most))
        return found

    def add_joined(self, s: ir.Value, r: int, p: int, sums: Sequence[ir.Value]) -> None:
        """Scale the joined sums of a panel and add them to the totals, or to those of a group."""
        power = self._power(s, r)
        if self.kernel.scaling.kind in ("ternary", "quads"):
            power = arith.mulf(power, emit.splat(self.lanes, self.f32, 0.5))
        for j, found in enumerate(sums):
            v, value = p * VECTORS + j, self._floats(found)
            if self.kernel.scaling.kind != "bits" or self.kernel.has_parts:
                self._add(r, v, value, power, self.parts)
            else:
                moved = arith.mulf(value, power)
                self._add(r, v, moved, self._half(self._group_of(s), v))

    def _half(self, g: ir.Value, v: int) -> ir.Value:
        """Return halves of the scales of a vector of columns."""
        found: ir.Value = emit.load(self.lanes, self.scales[0], self._of_group(g, v))
        return found

    # -- both --------------------------------------------------------------------------------------

    def _add(
        self, r: int, v: int, value: ir.Value, factor: ir.Value, target: ir.Value | None = None
    ) -> None:
        target, at = self.totals if target is None else target, self.total(r, v)
        before = emit.load(self.lanes, target, at)
        emit.store(vector.fma(value, factor, before), target, at)

    def _power(self, s: ir.Value, r: int) -> ir.Value:
        return self.record_scalar(r, arith.addi(s, emit.index(self.rows.first_scale)))

    def _group_of(self, s: ir.Value) -> ir.Value:
        start = arith.muli(s, emit.index(self.rows.format.span))
        return arith.divui(start, emit.index(self.kernel.group))

    def _of_group(self, g: ir.Value, v: int) -> list[ir.Value]:
        panel, number = self.panel(v)
        return [self.item, panel, g, emit.index(number * self.lanes)]

    def _floats(self, value: ir.Value) -> ir.Value:
        return arith.sitofp(emit.vector_type(self.lanes, self.f32), value)
