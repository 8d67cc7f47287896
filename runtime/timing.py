"""Time functions of several libraries side by side, so that the numbers can be believed.

The thread pools of IREE, OpenMP and ONNX Runtime keep spinning for a while after a call.  When
single calls of several libraries alternate, each pays for the others' spinning (0.38 ms read as
1.3); when each runs alone for long, the machine's drift between them counts as a difference.  So
blocks of calls alternate, each after an idle gap and warm-up calls, and the median of the blocks'
medians is the number to quote.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..errors import UserError


@dataclass(frozen=True)
class Timing:
    """Seconds per call of one function.

    ``block_medians`` has the median of each block in order of time; ``minimum``, ``p10`` and
    ``p90`` are over all ``calls`` that were timed.
    """

    block_medians: tuple[float, ...]
    minimum: float
    p10: float
    p90: float
    calls: int

    @property
    def median(self) -> float:
        """The median of the block medians, in seconds."""
        return statistics.median(self.block_medians)

    @property
    def spread(self) -> float:
        """(p90 - p10) / median: how much calls differ, as a fraction."""
        return (self.p90 - self.p10) / self.median if self.median else 0.0

    def __str__(self) -> str:
        low, high = self.p10 * 1e3, self.p90 * 1e3
        return f"{self.median * 1e3:.3f} ms (p10 {low:.3f}, p90 {high:.3f}, {self.calls} calls)"


def time_interleaved(
    functions: Mapping[str, Callable[[], Any]],
    *,
    blocks: int = 7,
    block_seconds: float = 0.06,
    idle: float = 0.04,
    warmup: int = 2,
) -> dict[str, Timing]:
    """Time `functions` in alternating blocks; return one :class:`Timing` per name.

    Parameters
    ----------
    functions : mapping of str to callable
        Called without arguments; an exception ends the measurement.
    blocks : int
        Blocks per function; each round starts with another function.
    block_seconds : float
        Calls are made until this much time has passed; at least one.
    idle : float
        Seconds of rest before each block, for other libraries' threads to go to sleep.
    warmup : int
        Calls before each block that do not count.

    Raises
    ------
    UserError
        When there is nothing to time, or a number is out of range.
    """
    if not functions:
        raise UserError("there is nothing to time")
    if blocks < 1 or warmup < 0 or idle < 0 or block_seconds < 0:
        raise UserError("timing needs at least one block, and no negative numbers")
    takers = {
        name: partial(_block, function, block_seconds, warmup)
        for name, function in functions.items()
    }
    return interleave(takers, blocks=blocks, idle=idle)


def interleave(
    takers: Mapping[str, Callable[[], list[float]]], *, blocks: int, idle: float = 0.04
) -> dict[str, Timing]:
    """Let `takers` measure in turns; each call of one is a block, and gives its calls' seconds."""
    names = list(takers)
    samples: dict[str, list[list[float]]] = {name: [] for name in names}
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for round_number in range(blocks):
            start = round_number % len(names)
            for name in names[start:] + names[:start]:
                time.sleep(idle)
                samples[name].append(takers[name]())
    finally:
        if collects:
            gc.enable()
    return {name: _timing(taken) for name, taken in samples.items()}


def _block(function: Callable[[], Any], seconds: float, warmup: int) -> list[float]:
    for _ in range(warmup):
        function()
    taken = []
    end = time.perf_counter() + seconds
    while True:
        before = time.perf_counter()
        function()
        after = time.perf_counter()
        taken.append(after - before)
        if after >= end:
            return taken


def _timing(blocks: list[list[float]]) -> Timing:
    every = sorted(seconds for block in blocks for seconds in block)
    last = len(every) - 1
    return Timing(
        block_medians=tuple(statistics.median(block) for block in blocks),
        minimum=every[0],
        p10=every[round(last * 0.1)],
        p90=every[round(last * 0.9)],
        calls=len(every),
    )
