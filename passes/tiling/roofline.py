"""Estimate times by what a tile must do at least: instructions, bytes, and waiting for threads.

A workgroup is worth the cycles of its register tiles, and of reading its panels and rows from as
near as they fit; threads get workgroups as IREE hands them out (:mod:`..kernels.work_split`).  The
constants are those of a present CPU; nothing was fitted.  It knows nothing of spills, of
prefetching or of what else makes two tiles of one size differ, and says so: it is unsure by a
third.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..formats.stored import STORED
from ..forms import WEIGHT_BITS
from ..kernels import tiles, work_split
from . import families
from .choice import Prediction
from .problem import Problem
from .record import Machine
from .tilings import KernelTiling, Tiling

UNSURE = 0.33  # standard deviation of the logarithm
CYCLES = 3.5e9  # a second, where the rate of products was not measured
BANDWIDTH = 15e9  # of memory, where it was not measured
NEAR, FAR = 64.0, 24.0  # bytes a cycle from the second and the third cache
START = 10e-6  # seconds of a call
_FMA = 1.0  # vectors of products a cycle, of two units


@dataclass(frozen=True)
class Roofline:
    """The estimate for `machine`."""

    machine: Machine

    @property
    def name(self) -> str:
        """Which one it is, for reports."""
        return "roofline"

    def predict(self, problem: Problem, tilings: Sequence[Tiling]) -> Prediction:
        """Return a prediction for each of `tilings`; those of code generation are unknown."""
        seconds = np.array([self._seconds(problem, one) for one in tilings])
        unsure = UNSURE if problem.lowering == "kernel" and problem.backend == "cpu" else np.inf
        return Prediction(seconds, np.full(len(tilings), unsure))

    def _seconds(self, problem: Problem, tiling: Tiling) -> float:
        if not isinstance(tiling, KernelTiling):
            return 1.0
        tile, threads = tiling.tile, max(1, self.machine.threads)
        batch, m, n, k = (size or 1 for size in problem.sizes)
        rate = self.machine.multiply_rate / threads / tile.lanes or _FMA * CYCLES
        panels = -(-n // tile.columns)
        groups = _cut(panels, tile.panels)
        chunks = _cut(m, tile.row_chunk)
        weight = panel_bytes(problem, tile.columns)
        near = weight * tile.panels <= (self.machine.caches[1] or 1 << 20)
        items = []
        for rows in chunks:
            blocks = -(-rows // tile.rows)
            for group in groups:
                products = blocks * group * k * tile.rows * tile.vectors * _cost(problem)
                again = (blocks - 1) * group * weight / (NEAR if near else FAR)
                reading = group * weight / FAR + rows * 4 * k / FAR
                items.append(work_split.START + max(products, again) + reading)
        cycles, _ = work_split.makespan(items * min(batch, 64), threads)
        seconds = cycles * max(1.0, batch / 64) / rate
        moved = (
            batch * (4 * m * k + 4 * m * n) + (batch if problem.own_batch else 1) * panels * weight
        )
        far = moved > (self.machine.caches[2] or 32 << 20)
        memory = moved / (self.machine.bandwidth or BANDWIDTH) if far else 0.0
        return START + max(seconds, memory)


def panel_bytes(problem: Problem, columns: int) -> float:
    """Return the bytes of a panel of `columns` columns of the weight."""
    k = problem.k or 1
    if problem.form in families.TABLES:
        return columns * problem.planes * (k / 8 + 2 * -(-k // problem.group))
    if problem.weight in WEIGHT_BITS:
        scale = 2 if problem.scales == "f16" else 4
        scales = scale * -(-k // problem.group) if problem.group else 0
        return columns * (k * WEIGHT_BITS[problem.weight] / 8 + scales)
    return columns * k * STORED[problem.weight].width / 8


def _cut(count: int, part: int) -> list[int]:
    return [min(part, count - start) for start in range(0, count, part)]


def _cost(problem: Problem) -> float:
    """Return the instructions of a vector of products."""
    if problem.form in families.ADDED:
        return 2.0
    if families.is_integer(problem.form):
        strategy = families.integer_rows(problem).dot.strategy
        return tiles.dot_cycles(strategy) / 4
    if problem.form in families.TABLES:
        return problem.planes * 5 / 16
    return 1.0
