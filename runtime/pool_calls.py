"""How a module's calls go to a pool of threads, so that short ones spend no time on waking."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from . import placement, wakefulness
from .devices import Device
from .scheduling import without_preemption
from .spinners import Spinners
from .wakefulness import SHORT


class PoolCalls:
    """Calls of one module on a device of the kind ``cpu``.

    Attributes
    ----------
    choice : Choice
        How cores are kept awake between short calls, and why.
    """

    def __init__(self, device: Device, context: Any) -> None:
        self._invoke = context.invoke
        self.choice = wakefulness.choose(device.cores)
        keeper = self.choice.keeper
        self._awake = None if keeper is None else wakefulness.shared(keeper)
        self._is_kept = _never if self._awake is None else self._awake.keeping.has
        # A spinning thread is on the core of each worker: it matters which one the caller is on.
        self._workers = device.workers if isinstance(keeper, Spinners) else ()
        self._core: int | None = None
        self._is_short = False

    def invoke(self, function: Any, arguments: Any, results: Any) -> None:
        """Run a function of the module and append to `results`; one caller at a time."""
        began = perf_counter()
        if self._core is not None and self._is_short:
            placement.move_to(self._core)
        if self._is_kept():
            self._invoke(function, arguments, results)
            ended = perf_counter()
            if ended - began < SHORT and self._awake is not None:
                # All is as it should be, and this is all that there is to note.
                self._awake.last = ended
                self._is_short = True
                return
        else:
            with without_preemption():
                self._invoke(function, arguments, results)
            ended = perf_counter()
        self._is_short = ended - began < SHORT
        if not self._is_short:
            return
        if self._workers:
            # Known after the first call: workers bind themselves.
            self._core, self._workers = placement.core_of_first(self._workers), ()
        if self._awake is not None:
            self._awake.after_call(began, ended)


def _never() -> bool:
    return False
