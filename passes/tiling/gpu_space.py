"""Tiles of the kernels of added products for GPUs: the sums of one thread."""

from __future__ import annotations

from collections.abc import Iterator

from ..kernels import additive_matmul_gpu
from ..kernels.additive_matmul_gpu import LANES, MAX_WORKGROUPS, SIDE, ThreadTile
from .problem import Problem
from .tilings import ThreadTiling

ROWS = (1, 2, 4, 6, 8, 12, 16)
VECTORS = (1, 2, 4)
MOST_SUMS = 64  # of a thread, in registers: f32


def default(problem: Problem) -> ThreadTiling:
    """Return the tile that lowc takes without a model."""
    return ThreadTiling(additive_matmul_gpu.choose_tile(problem.m, problem.n))


def candidates(problem: Problem) -> Iterator[ThreadTiling]:
    """Yield the legal tiles."""
    for rows in ROWS:
        for vectors in VECTORS:
            found = ThreadTiling(ThreadTile(rows, vectors))
            if not illegal(problem, found):
                yield found


def illegal(problem: Problem, tiling: ThreadTiling) -> str:
    """Say why the kernel of `problem` cannot have `tiling`; "" if it can."""
    tile, m, n = tiling.tile, problem.m, problem.n
    if min(tile.rows, tile.vectors) < 1:
        return "a part of it is 0"
    if tile.rows * tile.vectors * LANES > MOST_SUMS:
        return f"a thread has at most {MOST_SUMS} sums"
    if m is not None and tile.rows > 1 and SIDE * (tile.rows - 1) >= m:
        return f"there are only {m} rows"
    if n is not None and tile.vectors > 1 and SIDE * LANES * (tile.vectors - 1) >= n:
        return f"there are only {n} columns"
    for size, each in ((m, SIDE * tile.rows), (n, tile.columns), (problem.batch, 1)):
        if size is not None and -(-size // each) > MAX_WORKGROUPS:
            return f"a GPU starts at most {MAX_WORKGROUPS} workgroups along one axis"
    return ""
