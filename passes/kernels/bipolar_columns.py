"""Code the columns of an activation as bipolar integers: the dispatch before their product.

Columns lie side by side in registers, so that all of them are coded at once.  What it writes is
what the product reads as its right operand, in panels of columns::

    words, planes: bits of 32 inputs of a column          [batch, panels, words * planes, columns]
    one row more: scales of the columns, f32 or fields

Columns that fill up the last panel have no bits and the scale of zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith, vector

from ..formats.bipolar_products import WORD
from . import emit
from .bipolar_codes import BipolarCodes, Coder
from .executable import Interface
from .tiles import Tile

UNROLLED = 8  # inputs of a word


@dataclass(frozen=True)
class BipolarColumns:
    """``f32 [batch, k, n]`` → ``i32 [batch, panels, words * planes + 1, columns]``.

    Attributes
    ----------
    batch, n : int or None
        Sizes; None where they are known only at run time.
    codes : BipolarCodes
        K, planes and scales.
    tile : Tile
        That of the product: lanes and columns of a panel.
    """

    batch: int | None
    n: int | None
    codes: BipolarCodes
    tile: Tile

    @property
    def rows(self) -> int:
        """Rows of a panel."""
        return self.codes.words * self.codes.planes + 1

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        sizes = "x".join("d" if s is None else str(s) for s in (self.batch, self.codes.k, self.n))
        return f"code_{sizes}_p{self.codes.name}v{self.tile.lanes}x{self.tile.vectors}"

    @property
    def translation(self) -> str:
        """How IREE goes on from the kernel's body."""
        return "#iree_codegen.translation_info<pipeline = #iree_cpu.pipeline<Default>>"

    def grid(self, batch: ir.Value, n: ir.Value) -> list[ir.Value]:
        """Return the workgroups along x, y and z."""
        panels = arith.ceildivui(n, emit.index(self.tile.columns))
        return [panels, batch, emit.index(1)]

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        _Body(self, interface).emit()


class _Body:
    def __init__(self, kernel: BipolarColumns, interface: Interface) -> None:
        self.kernel, self.codes, self.tile = kernel, kernel.codes, kernel.tile
        self.lanes = kernel.tile.lanes
        self.f32, self.i32 = ir.F32Type.get(), emit.integer(32)
        self.coder = Coder(kernel.codes, self.lanes)
        sizes = (kernel.batch, kernel.n)
        numbers = iter([interface.constant(i) for i in range(sizes.count(None))])
        batch, n = (next(numbers) if size is None else emit.index(size) for size in sizes)
        unknown = ir.ShapedType.get_dynamic_size()
        known = [unknown if size is None else size for size in sizes]
        opened = [v for v, size in zip((batch, n), sizes, strict=True) if size is None]
        source = emit.buffer_type([known[0], self.codes.k, known[1]], self.f32)
        self.source = interface.buffer(0, source, opened, is_input=True)
        columns = emit.index(self.tile.columns)
        panels = unknown if kernel.n is None else -(-kernel.n // self.tile.columns)
        target = emit.buffer_type([known[0], panels, kernel.rows, self.tile.columns], self.i32)
        counts = [*([batch] if kernel.batch is None else [])]
        counts += [arith.ceildivui(n, columns)] if kernel.n is None else []
        self.target = interface.buffer(1, target, counts, is_input=False)
        self.panel, self.item = interface.workgroup(0), interface.workgroup(1)
        self.column = arith.muli(self.panel, columns)
        self.masks = [
            None
            if kernel.n is not None and kernel.n % self.tile.columns == 0
            else emit.mask_of(self.lanes, arith.subi(n, self._at(self.column, v)))
            for v in range(self.tile.vectors)
        ]

    def emit(self) -> None:
        vectors, coder = range(self.tile.vectors), self.coder
        zero, nothing = coder.float(0.0), coder.int(0)

        def measure(k: ir.Value, *carried: ir.Value) -> Sequence[ir.Value]:
            highest, totals = list(carried[: len(vectors)]), list(carried[len(vectors) :])
            for v in vectors:
                magnitude = coder.magnitude(self._load(k, v))
                highest[v] = arith.maxui(highest[v], magnitude)
                if totals:
                    totals[v] = arith.addf(totals[v], coder.number(magnitude))
            return [*highest, *totals]

        start = [nothing] * len(vectors)
        start += [zero] * len(vectors) if self.codes.planes == 1 else []
        k = emit.index(self.codes.k)
        found = emit.loop(emit.index(0), k, emit.index(1), measure, start)
        self.reach: list[ir.Value | None] = [None] * len(vectors)
        last = emit.index(self.kernel.rows - 1)
        for v in vectors:
            highest = found[v]
            total = found[len(vectors) + v] if self.codes.planes == 1 else zero
            self._store(coder.scale(highest, total), last, v)
            if self.codes.planes > 1:
                self.reach[v] = coder.reach(highest)
        whole = self.codes.k // WORD
        emit.each(emit.index(0), emit.index(whole), 1, lambda w: self._word(w, WORD))
        if self.codes.k % WORD:
            self._word(emit.index(whole), self.codes.k % WORD)

    def _word(self, w: ir.Value, count: int) -> None:
        """Store the bits of the `count` inputs of word `w`."""
        vectors, planes = self.tile.vectors, self.codes.planes
        first = arith.muli(w, emit.index(WORD))

        def step(i: ir.Value, *words: ir.Value, length: int = UNROLLED) -> Sequence[ir.Value]:
            found = list(words)
            place = arith.index_cast(self.i32, i)
            for t in range(length):
                at = arith.addi(place, arith.constant(self.i32, t))
                bit = arith.shli(arith.constant(self.i32, 1), at)
                spread = _broadcast(self.lanes, bit)
                k = arith.addi(arith.addi(first, i), emit.index(t))
                for v in range(vectors):
                    is_set = self.coder.planes(self._load(k, v), self.reach[v])
                    for plane, mask in enumerate(is_set):
                        before = found[v * planes + plane]
                        more = arith.ori(before, spread)
                        found[v * planes + plane] = arith.select(mask, more, before)
            return found

        words: list[ir.Value] = [self.coder.int(0)] * (vectors * planes)
        whole = count // UNROLLED * UNROLLED
        if whole:
            stop = emit.index(whole)
            words = emit.loop(emit.index(0), stop, emit.index(UNROLLED), step, words)
        if count > whole:
            words = list(step(emit.index(whole), *words, length=count - whole))
        row = arith.muli(w, emit.index(planes))
        for v in range(vectors):
            for plane in range(planes):
                at = arith.addi(row, emit.index(plane))
                self._store(words[v * planes + plane], at, v)

    def _load(self, k: ir.Value, v: int) -> ir.Value:
        at = [self.item, k, self._at(self.column, v)]
        found: ir.Value = emit.load(self.lanes, self.source, at, self.masks[v])
        return found

    def _store(self, value: ir.Value, row: ir.Value, v: int) -> None:
        emit.store(value, self.target, [self.item, self.panel, row, self._at(emit.index(0), v)])

    def _at(self, column: ir.Value, v: int) -> ir.Value:
        return arith.addi(column, emit.index(v * self.lanes))


def _broadcast(lanes: int, value: ir.Value) -> ir.Value:
    found: ir.Value = vector.broadcast(emit.vector_type(lanes, value.type), value)
    return found
