"""How much of the machine others took while something was measured.

Threads that wait for each other by spinning can suffer far more than others from what runs beside
them.  In one run on two cores llama.cpp read a prompt in 1540 ms and lowc in 153; undisturbed, it
is 184 and 86.  What ran beside them is not known, since nothing counted it.
Ratios of such a run mean nothing, so it must be seen.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

# Cores' worth of others, on average, from which on a measurement is called disturbed.
DISTURBED = 0.1
_IDLE = (3, 4)  # columns of /proc/stat: idle, and waiting for a disk
_COUNTED = 8  # columns; those after it are in the first ones already


class OtherLoad:
    """Counts from its making on; `processes` are those measured, this one is not another either."""

    def __init__(self, processes: Sequence[int]) -> None:
        self._files = [Path(f"/proc/{pid}/stat") for pid in (os.getpid(), *processes)]
        self._begun, self._before = time.perf_counter(), self._seconds()

    def cores(self) -> float | None:
        """Return how many cores others kept busy on average, the host's included; or None."""
        now, wall = self._seconds(), time.perf_counter() - self._begun
        if now is None or self._before is None:
            return None
        return max(0.0, now - self._before) / wall

    def _seconds(self) -> float | None:
        """Return CPU seconds of all since the machine started, without the processes' own."""
        try:
            whole = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
            # After the name, which may have blanks: user and system time are columns 11 and 12.
            owns = [file.read_text().rpartition(")")[2].split()[11:13] for file in self._files]
        except OSError:
            return None
        ticks = [int(one) for place, one in enumerate(whole[:_COUNTED]) if place not in _IDLE]
        own = sum(int(one) for pair in owns for one in pair)
        return (sum(ticks) - own) / os.sysconf("SC_CLK_TCK")
