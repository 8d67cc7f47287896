"""See the operands of any contraction as batches of matrices, and the result as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from iree.compiler import ir
from iree.compiler.dialects import arith, linalg

from . import build
from .base import Refusal
from .contraction import dims_of, indexing_maps

Side = Literal["rows", "columns"]


@dataclass(frozen=True)
class Matrices:
    """Which loops of a contraction are batch, rows, columns and K, outermost first.

    ``rows`` come from one operand and ``columns`` from the other; where the columns' operand has no
    batch loops, those count as rows.  ``sizes`` gives every loop's size, None where it is dynamic.
    """

    batch_loops: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    summed: tuple[int, ...]
    sizes: tuple[int | None, ...]
    maps: dict[str, ir.AffineMap]
    batch_in_columns: bool

    @classmethod
    def of_weight(
        cls, rows: Sequence[int], columns: Sequence[int], sizes: Sequence[int]
    ) -> Matrices:
        """Return those of a product whose loops are numbered as its result, with K last.

        `rows` are the loops of the activation's dimensions, `columns` those of the weight's without
        K, `sizes` all loops' sizes, DYNAMIC where they are.
        """
        k = len(sizes) - 1
        batch = tuple(d for d in range(k) if d in rows and d in columns)
        return cls(
            batch_loops=batch,
            rows=tuple(d for d in range(k) if d in rows and d not in columns),
            columns=tuple(d for d in range(k) if d in columns and d not in rows),
            summed=(k,),
            sizes=tuple(None if size == build.DYNAMIC else size for size in sizes),
            maps={
                "rows": build.dims_map(k + 1, rows),
                "columns": build.dims_map(k + 1, [*columns, k]),
                "result": build.dims_map(k + 1, range(k)),
            },
            batch_in_columns=bool(batch),
        )

    @property
    def batch(self) -> int | None:
        """Size of the batch."""
        return self._size(self.batch_loops)

    @property
    def m(self) -> int | None:
        """Number of rows."""
        return self._size(self.rows)

    @property
    def n(self) -> int | None:
        """Number of columns."""
        return self._size(self.columns)

    @property
    def k(self) -> int | None:
        """How many products are summed."""
        return self._size(self.summed)

    def _size(self, loops: tuple[int, ...]) -> int | None:
        total = 1
        for loop in loops:
            size = self.sizes[loop]
            if size is None:
                return None
            total *= size
        return total

    def values(self, op: Any) -> dict[str, ir.Value]:
        """Return batch, m, n and k as index values, from the operands of `op`."""
        parts = {
            "batch": self.batch_loops, "m": self.rows, "n": self.columns, "k": self.summed,
        }  # fmt: skip
        return {name: self._value(op, loops) for name, loops in parts.items()}

    def _value(self, op: Any, loops: tuple[int, ...]) -> ir.Value:
        known = self._size(loops)
        if known is not None:
            return build.index(known)
        total = build.index(1)
        for loop in loops:
            total = arith.muli(total, self.loop_size(op, loop))
        return total

    def loop_size(self, op: Any, loop: int) -> ir.Value:
        """Return the size of one loop as an index value."""
        size = self.sizes[loop]
        if size is not None:
            return build.index(size)
        for value, map_ in zip(op.operands, indexing_maps(op), strict=True):
            dims = dims_of(map_)
            if loop in dims:
                return build.dim(value, dims.index(loop))
        raise ValueError(f"no operand has the loop {loop}")


def as_matrices(op: Any, columns: int, stored: tuple[int, ...] | None = None) -> Matrices | Refusal:
    """Describe the contraction `op`, whose operand number `columns` has the columns.

    Changes nothing.  `stored` are the loops that this operand really has, where it is a weight that
    the model repeats along others.
    """
    maps = indexing_maps(op)
    loops = maps[0].n_dims
    left, right, out = (dims_of(maps[i]) for i in (1 - columns, columns, 2))
    right = right if stored is None else stored
    batch = tuple(d for d in out if d in left and d in right)
    rows = tuple(d for d in out if d in left and d not in right)
    free = tuple(d for d in out if d in right and d not in left)
    summed = tuple(d for d in range(loops) if d not in out)
    if len(batch) + len(rows) + len(free) != len(out):
        return Refusal("the result has a dimension that no operand has")
    if any(d not in left or d not in right for d in summed):
        return Refusal("an operand is summed over a dimension that the other does not have")
    sizes = _sizes(op, maps)
    named = {"rows": maps[1 - columns], "columns": maps[columns], "result": maps[2]}
    return Matrices(batch, rows, free, summed, sizes, named, batch_in_columns=bool(batch))


def to_matrices(value: ir.Value, matrices: Matrices, side: Side) -> ir.Value:
    """Return an operand as ``[batch, rows, K]`` or ``[batch, K, columns]``."""
    outer, inner = matrices.rows, matrices.summed
    if side == "columns":
        outer, inner = matrices.summed, matrices.columns
    parts = [matrices.batch_loops, outer, inner]
    wanted = [loop for part in parts for loop in part]
    dims = dims_of(matrices.maps[side])
    ordered = _transposed(value, [dims.index(loop) for loop in wanted])
    return _grouped(ordered, [len(part) for part in parts])


def from_matrices(value: ir.Value, matrices: Matrices, op: Any) -> ir.Value:
    """Return ``[batch, rows, columns]`` in the shape of the result of `op`."""
    parts = [matrices.batch_loops, matrices.rows, matrices.columns]
    loops = [loop for part in parts for loop in part]
    split = _split(value, [len(part) for part in parts], [matrices.loop_size(op, d) for d in loops],
                   [matrices.sizes[d] for d in loops])  # fmt: skip
    wanted = dims_of(matrices.maps["result"])
    return _transposed(split, [loops.index(loop) for loop in wanted])


def _transposed(value: ir.Value, order: list[int]) -> ir.Value:
    if order == sorted(order):
        return value
    shape = build.shape_of(value)
    sizes = [build.dim(value, axis) for axis in order if shape[axis] == build.DYNAMIC]
    init = build.empty([shape[axis] for axis in order], build.element_of(value), sizes)
    moved: ir.Value = linalg.transpose(value, outs=[init], permutation=order).results[0]
    return moved


def _grouped(value: ir.Value, counts: list[int]) -> ir.Value:
    """Collapse the dimensions into three groups of so many; a group of none becomes a 1."""
    groups: list[list[int]] = []
    axis = 0
    for count in counts:
        groups.append(list(range(axis, axis + count)))
        axis += count
    filled = [group for group in groups if group]
    if len(filled) < axis:
        value = build.collapse(value, filled)
    return build.insert_units(value, [i for i, group in enumerate(groups) if not group])


def _split(
    value: ir.Value, counts: list[int], sizes: list[ir.Value], known: list[int | None]
) -> ir.Value:
    """Undo :func:`_grouped`: expand each of three dimensions into `counts` of its sizes."""
    units = [i for i, count in enumerate(counts) if not count]
    value = build.drop_units(value, units)
    kept = [count for count in counts if count]
    if all(count == 1 for count in kept):
        return value
    return build.expand(value, kept, sizes, known)


def _sizes(op: Any, maps: Any) -> tuple[int | None, ...]:
    sizes: dict[int, int] = {}
    for value, map_ in zip(op.operands, maps, strict=True):
        for loop, size in zip(dims_of(map_), build.shape_of(value), strict=True):
            if size != build.DYNAMIC:
                sizes[loop] = size
    return tuple(sizes.get(loop) for loop in range(maps[0].n_dims))
