"""Places for work that takes long: others wait, not too many and not too long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from .faults import Fault


class Places:
    """So many at once.

    Parameters
    ----------
    count : int
        Places.
    most_waiting : int
        How many may wait for one.
    seconds : float
        How long.  Less than a request may take: who waited in vain is told to try again, and not
        that the server takes too long.
    what : str
        What they wait for, as "too many … wait".
    """

    def __init__(self, count: int, most_waiting: int, seconds: float, what: str) -> None:
        self._free = asyncio.Semaphore(count)
        self._most_waiting, self._seconds, self._what = most_waiting, seconds, what
        self._waiting = 0

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Have a place.

        Raises
        ------
        Fault
            429, when too many wait or none is free in time.
        """
        if self._waiting >= self._most_waiting:
            raise Fault(429, f"too many {self._what} wait: try again")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._seconds):
                await self._free.acquire()
        except TimeoutError:
            raise Fault(429, f"too many {self._what} wait: try again") from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()
