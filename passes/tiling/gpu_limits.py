"""What no tile for a GPU may be, whoever generates the code."""

from __future__ import annotations

from ..kernels.gpu import MAX_WORKGROUPS
from .problem import Problem

MOST_SUMS = 64  # of a thread, in registers: f32
MOST_THREADS = {"spirv": 128, "ptx": 256}  # of a workgroup
MOST_SHARED = {"spirv": 16 << 10, "ptx": 48 << 10}  # bytes that every such GPU has


def too_many(problem: Problem, rows: int, columns: int) -> str:
    """Say why workgroups of so many rows and columns are too many; "" if they are not."""
    for size, each in ((problem.m, rows), (problem.n, columns), (problem.batch, 1)):
        if size is not None and -(-size // each) > MAX_WORKGROUPS:
            return f"a GPU starts at most {MAX_WORKGROUPS} workgroups along one axis"
    return ""
