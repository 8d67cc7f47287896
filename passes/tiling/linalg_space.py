"""Tiles of a contraction on CPUs that stays with IREE's code generator.

IREE's own choice is the default.  The others are what ``#iree_cpu.lowering_config`` takes: tiles of
workgroups, and inner ones that become vectors; K is walked one by one, as sums of forms with an
order need it.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..kernels import tiles
from .problem import Problem
from .tilings import STOCK, LinalgTiling

ROWS = (1, 2, 4, 8)
VECTORS = (1, 2, 4)
DISTRIBUTED = (16, 32, 64, 128)
LOOPS = 3  # m, n, k
STACK_BYTES = 32 << 10  # of a workgroup's result, which may lie there


def default(_problem: Problem) -> LinalgTiling:
    """Return IREE's own choice: no attribute."""
    return STOCK


def candidates(problem: Problem) -> Iterator[LinalgTiling]:
    """Yield the legal tiles."""
    yield STOCK
    lanes = tiles.ISAS[problem.unit].lanes
    for rows in ROWS:
        for vectors in VECTORS:
            columns = vectors * lanes
            for down in _parts(problem.m, rows):
                for across in _parts(problem.n, columns):
                    found = _tiling(problem, down, across, rows, columns)
                    if not illegal(problem, found):
                        yield found


def _parts(size: int | None, inner: int) -> list[int]:
    """Return tiles of workgroups: whole inner ones, and none that holds more than there is."""
    whole = None if size is None else -(-size // inner) * inner
    found = {
        max(inner, tile) if whole is None else max(inner, min(tile, whole)) for tile in DISTRIBUTED
    }
    return sorted(found)


def _tiling(problem: Problem, down: int, across: int, rows: int, columns: int) -> LinalgTiling:
    batch = (1,) if _has_batch(problem) else ()
    none = (0,) * len(batch)
    return LinalgTiling((*batch, down, across, 0), (*batch, rows, columns, 0), (*none, 0, 0, 1))


def illegal(problem: Problem, tiling: LinalgTiling) -> str:
    """Say why code generation cannot have `tiling`; "" if it can."""
    if tiling == STOCK:
        return ""
    loops = LOOPS + _has_batch(problem)
    if len(tiling.distribution) != loops:
        return f"the product has {loops} loops"
    (down, across, _), (rows, columns, _) = tiling.distribution[-3:], tiling.parallel[-3:]
    if not rows or not columns or down % rows or across % columns:
        return "workgroups have no whole vector tiles"
    registers = tiles.ISAS[problem.unit].registers
    if rows * columns > registers * tiles.ISAS[problem.unit].lanes:
        return f"its sums do not fit {registers} registers"
    if 4 * down * across > STACK_BYTES:
        return f"a workgroup's result takes {4 * down * across} bytes"
    for size, inner, what in ((problem.m, rows, "rows"), (problem.n, columns, "columns")):
        if size is not None and inner >= 2 * size:
            return f"there are only {size} {what}"
    return ""


def _has_batch(problem: Problem) -> bool:
    return problem.batch != 1
