"""Processes that end when nobody asked them to: when they are started again, and when no more.

One that was up for a while is started at once.  Of those that end soon after their start, again and
again, each waits longer than the one before, so that a fault that does not go away costs neither a
core nor the log.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # where processes put their figures together
LIVED = 10.0  # seconds from which on an end is no fall
AT_ONCE = 3  # falls in a row of processes that were ready, before the next one waits
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
MOST, MOST_UNREADY = 12, 5  # falls in a row: more are hopeless
_MOST_DOUBLINGS = 32  # more than LONGEST_WAIT ever takes, and few enough for a float


class Falls:
    """The falls in a row in one place, where a process that ends is followed by another.

    Attributes
    ----------
    count, unready : int
        All of them, and the last ones that were not even ready.
    """

    def __init__(self) -> None:
        self.count = self.unready = self._waits = 0

    def wait(self, lived: float, *, is_ready: bool) -> float:
        """Count an end after `lived` seconds; return the seconds until the next start."""
        if is_ready and lived >= LIVED:
            self.count = self.unready = self._waits = 0
            return 0.0
        self.count += 1
        self.unready = 0 if is_ready else self.unready + 1
        if self.count > AT_ONCE or not is_ready:
            self._waits += 1
        if not self._waits:
            return 0.0
        return min(FIRST_WAIT * 2.0 ** min(self._waits - 1, _MOST_DOUBLINGS), LONGEST_WAIT)

    @property
    def is_hopeless(self) -> bool:
        """Whether there is no reason to believe that the next one stays."""
        return self.count >= MOST or self.unready >= MOST_UNREADY

    @property
    def text(self) -> str:
        """What is said of it when it is hopeless."""
        if self.unready >= MOST_UNREADY:
            return "workers fall before they are ready"
        return f"{self.count} workers in a row fell within {LIVED:.0f} seconds"


def how_it_ended(code: int) -> str:
    """Say how a process ended, by its exit code as Python has it."""
    if code >= 0:
        return f"exit code {code}"
    known = {number.value: number.name for number in signal.Signals}
    return f"signal {known.get(-code, -code)}"


class Restarts:
    """The figure of processes that were started again, beside those of workers.

    prometheus-client is loaded with the first one: a server without any needs no more memory.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counter: Any = None

    def count(self, kind: str) -> None:
        """Count one of `kind`, ``worker`` or ``parsers``."""
        if self._counter is None:
            # It decides by this, when it is loaded, that figures go into files.
            os.environ[FOLDER] = str(self._folder)
            from prometheus_client import CollectorRegistry

            from .metrics import restarts

            self._counter = restarts(CollectorRegistry())
        self._counter.labels(kind).inc()
