"""What threads of a GPU do with their sums: the epilogue, and the store of those that exist.

A thread has rows that follow each other, and some vectors of four neighbouring columns.  Where rows
of the result are whole vectors, epilogues work on vectors, else on one sum after the other.  A long
epilogue stands once for a row, in a loop that reads the thread's stored sums again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith, memref, scf, vector

from . import emit, gpu
from .epilogue import Epilogue
from .executable import Interface

LANES = 4
ELEMENTS = ("f32", "i32")  # of what epilogues read: every GPU has them in its buffers
UNROLLED = 2  # vectors of sums for which a long epilogue may stand each time


def can_read(epilogue: Epilogue) -> bool:
    """Whether kernels for GPUs can read what `epilogue` reads."""
    return all(given.element in ELEMENTS for given in epilogue.inputs)


class Extra:
    """What an epilogue reads, bound from `ordinal` on, in vectors of `lanes` columns.

    ``known`` and ``sizes`` are batch, m and n: the first None where known only at run time.
    """

    def __init__(
        self, epilogue: Epilogue, interface: Interface, ordinal: int,
        known: dict[str, int | None], sizes: dict[str, ir.Value], lanes: int,
    ) -> None:  # fmt: skip
        self.epilogue, self.buffers = epilogue, []
        known = {**known, "one": 1}
        for i, given in enumerate(epilogue.inputs):
            shape = [known[name] for name in given.sizes]
            opened = [sizes[name] for name in given.sizes if known[name] is None]
            width = 1 if given.kind == "scalar" else lanes
            element = ir.Type.parse(given.element)
            self.buffers.append(
                gpu.buffer(interface, ordinal + i, shape, element, opened, lanes=width)
            )

    def apply(self, value: ir.Value, at: Sequence[ir.Value]) -> ir.Value:
        """Return what becomes of sums; `at` is batch, row and column, in vectors of `lanes`."""
        places = {"scalar": [emit.index(0)], "columns": [at[-1]], "full": at}
        inputs = [
            memref.load(buffer, list(places[given.kind]))
            for given, buffer in zip(self.epilogue.inputs, self.buffers, strict=True)
        ]
        return self.epilogue.finish(value, inputs)


class Results:
    """The result ``[batch, m, n]`` of a kernel whose threads have vectors of four columns.

    It is bound behind what the epilogue reads, from `ordinal` on; `sizes` are batch, m and n.
    """

    def __init__(
        self, kernel: Any, interface: Interface, ordinal: int, sizes: dict[str, ir.Value]
    ) -> None:
        known = {name: getattr(kernel, name) for name in ("batch", "m", "n")}
        self.m, self.n = sizes["m"], sizes["n"]
        self.wide = kernel.n is not None and kernel.n % LANES == 0
        lanes, epilogue = LANES if self.wide else 1, kernel.epilogue
        self.extra: Extra | None = None
        if epilogue is not None:
            self.extra = Extra(epilogue, interface, ordinal, known, sizes, lanes)
            ordinal += len(epilogue.inputs)
        opened = [sizes[name] for name, size in known.items() if size is None]
        self.c = gpu.buffer(
            interface, ordinal, list(known.values()), ir.F32Type.get(), opened, lanes=lanes,
            is_input=False,
        )  # fmt: skip

    def store(
        self, sums: Sequence[ir.Value], item: ir.Value, rows: Sequence[ir.Value],
        columns: Sequence[ir.Value],
    ) -> None:  # fmt: skip
        """Store the sums of rows that follow each other times vectors of columns."""
        extra = self.extra
        is_apart = extra is not None and extra.epilogue.is_long and len(sums) > UNROLLED
        for r, row in enumerate(rows):
            inside = arith.cmpi(arith.CmpIPredicate.ult, row, self.m)
            with gpu.when(inside):
                for v, column in enumerate(columns):
                    value = sums[r * len(columns) + v]
                    self._store(value, [item, row], column, finished=not is_apart)
                scf.YieldOp([])
        if is_apart:
            end = arith.minui(gpu.add(rows[-1], 1), self.m)
            emit.each(rows[0], end, 1, lambda row: self._finish(item, row, columns))

    def _store(
        self, value: ir.Value, head: list[ir.Value], column: ir.Value, *, finished: bool
    ) -> None:
        """Store four columns, those of them that exist."""
        extra = self.extra if finished else None
        for own, at, end in self._parts(value, column):
            with gpu.when(arith.cmpi(arith.CmpIPredicate.ult, at, end)):
                found = own if extra is None else extra.apply(own, [*head, at])
                memref.store(found, self.c, [*head, at])
                scf.YieldOp([])

    def _parts(
        self, value: ir.Value, column: ir.Value
    ) -> list[tuple[ir.Value, ir.Value, ir.Value]]:
        """Return what is stored at once, its place in the row, and the place behind the last."""
        if self.wide:
            return [(value, column, arith.divui(self.n, emit.index(LANES)))]
        first = gpu.scaled(column, LANES)
        return [
            (vector.extract(value, [], [lane]), gpu.add(first, lane), self.n)
            for lane in range(LANES)
        ]

    def _finish(self, item: ir.Value, row: ir.Value, columns: Sequence[ir.Value]) -> None:
        """Read the sums of a row again, which this thread has just stored, and finish them."""
        extra = self.extra
        if extra is None:
            return

        def one(at: ir.Value, end: ir.Value) -> None:
            with gpu.when(arith.cmpi(arith.CmpIPredicate.ult, at, end)):
                place = [item, row, at]
                memref.store(extra.apply(memref.load(self.c, place), place), self.c, place)
                scf.YieldOp([])

        for column in columns:
            if self.wide:
                one(column, arith.divui(self.n, emit.index(LANES)))
            else:
                first = gpu.scaled(column, LANES)
                emit.each(first, gpu.add(first, LANES), 1, lambda at: one(at, self.n))
