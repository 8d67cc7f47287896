"""Tiles of a contraction on GPUs that stays with IREE's code generator.

IREE's own choice is the default.  The others cut the result into workgroups of threads that each
have some rows and columns, and walk K by a few: for Vulkan one row and a vector of four columns a
thread, since IREE 3.13 makes no code of several vectors there; for CUDA, of several rows.
"""

from __future__ import annotations

from collections.abc import Iterator

from .gpu_limits import MOST_SUMS, MOST_THREADS, too_many
from .problem import Problem
from .tilings import STOCK, LinalgTiling

VECTOR = 4  # columns of a thread
ROWS = {"spirv": (1,), "ptx": (1, 2, 4, 8)}
THREADS = {
    "spirv": ((8, 4), (8, 8), (8, 16), (16, 1), (16, 4), (16, 8), (32, 1), (32, 2), (32, 4)),
    "ptx": ((16, 4), (16, 8), (16, 16), (32, 1), (32, 2), (32, 4), (32, 8), (64, 1), (128, 1)),
}
STEPS = (2, 4, 8, 16)  # of K


def default(_problem: Problem) -> LinalgTiling:
    """Return IREE's own choice: no attribute."""
    return STOCK


def candidates(problem: Problem) -> Iterator[LinalgTiling]:
    """Yield the legal tiles."""
    yield STOCK
    batch, none = ((1,), (0,)) if problem.batch != 1 else ((), ())
    for rows in ROWS[problem.unit]:
        for across, down in THREADS[problem.unit]:
            for step in STEPS:
                found = LinalgTiling(
                    (*batch, rows * down, VECTOR * across, 0),
                    (*batch, rows, VECTOR, 0),
                    (*none, 0, 0, step),
                )
                if not illegal(problem, found):
                    yield found


def illegal(problem: Problem, tiling: LinalgTiling) -> str:
    """Say why code generation cannot have `tiling`; "" if it can."""
    if tiling == STOCK:
        return ""
    loops = 3 + (problem.batch != 1)
    if len(tiling.distribution) != loops:
        return f"the product has {loops} loops"
    (down, across, _), (rows, columns, _) = tiling.distribution[-3:], tiling.parallel[-3:]
    step = tiling.reduction[-1]
    if min(down, across, rows, columns, step) < 1 or down % rows or across % columns:
        return "workgroups have no whole threads"
    if problem.unit == "spirv" and (rows > 1 or columns != VECTOR):
        return f"a thread for Vulkan has one row of {VECTOR} columns"
    if rows * columns > MOST_SUMS:
        return f"a thread has at most {MOST_SUMS} sums"
    threads, most = down // rows * (across // columns), MOST_THREADS[problem.unit]
    if threads > most:
        return f"a workgroup has at most {most} threads"
    for size, each, what in (
        (problem.m, down, "rows"), (problem.n, across, "columns"), (problem.k, step, "of K"),
    ):  # fmt: skip
        if size is not None and each > 1 and each >= 2 * size:
            return f"there are only {size} {what}"
    return too_many(problem, down, across)


def workgroup(tiling: LinalgTiling) -> tuple[int, int, int]:
    """Return the threads of a workgroup along x, y and z."""
    (down, across, _), (rows, columns, _) = tiling.distribution[-3:], tiling.parallel[-3:]
    return (across // columns, down // rows, 1)
