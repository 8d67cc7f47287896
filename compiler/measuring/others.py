"""How much of the processors other processes take while something is measured (Linux)."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from pathlib import Path

_STAT = Path("/proc/stat")
# Of the first numbers of a line: user, nice, system, then idle, iowait, irq, softirq, steal.
_BUSY = (0, 1, 2, 5, 6, 7)
LEAST_TICKS = 8  # of the kernel's clock and of all cores: fewer say nothing


class Others:
    """Looks at the time of some logical CPUs, and of this process."""

    def __init__(self, cores: Sequence[int]) -> None:
        self._cores = set(cores)
        self._last = self._now()

    def share(self) -> float | None:
        """Return which part of the cores' time others had since it was last known.

        None where that is too short a time to know, and 0 where the system does not say.  What a
        virtual machine's host took for others counts, where it says so.
        """
        now = self._now()
        if not now[1]:
            return 0.0
        busy, all_, own = (a - b for a, b in zip(now, self._last, strict=True))
        if all_ < LEAST_TICKS:
            return None
        self._last = now
        # The clock counts whole ticks: of each core one may be somebody else's.
        return max(0.0, busy - own - len(self._cores)) / all_

    def _now(self) -> tuple[float, float, float]:
        """Return ticks that the cores were busy, all ticks of them, and those of this process."""
        try:
            lines = _STAT.read_text().splitlines()
        except OSError:
            return 0.0, 0.0, 0.0
        busy = all_ = 0.0
        for line in lines:
            name, *numbers = line.split()
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in self._cores:
                ticks = [float(number) for number in numbers[:8]]
                all_ += sum(ticks)
                busy += sum(ticks[place] for place in _BUSY)
        used = resource.getrusage(resource.RUSAGE_SELF)
        own = (used.ru_utime + used.ru_stime) * os.sysconf("SC_CLK_TCK")
        return busy, all_, own
