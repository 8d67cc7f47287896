"""Calls that a device works off by itself: each waits for the one before, and says when it is done.

Code for GPUs is compiled so that a function takes two fences more (``iree.abi.model =
"coarse-fences"``), one to wait for and one to signal.  It returns as soon as its work is queued.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import iree.runtime as rt

MODEL_KEY = "iree.abi.model"
WITH_FENCES = "coarse-fences"


def takes_fences(function: Any) -> bool:
    """Whether a function of a module takes two fences behind its arguments."""
    return bool(function.reflection.get(MODEL_KEY) == WITH_FENCES)


class Done:
    """Whether a call is done: wait for it, or have another call wait on the device.

    ``where`` is the module that is called.
    """

    __slots__ = ("_lock", "_open", "fence", "where")

    def __init__(self, fence: Any, where: str = "") -> None:
        self.fence = fence
        self.where = where
        self._open = True
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when the call is done; raise what IREE raises when it failed."""
        with self._lock:
            if self._open:
                self.fence.wait()
                self._open = False

    @property
    def is_open(self) -> bool:
        """Whether nobody has waited for it yet."""
        return self._open


class Timeline:
    """The calls of one module (`where`) on one device, one after the other.

    Its calls come from one thread at a time: whoever uses it holds a lock.
    """

    def __init__(self, hal: Any, where: str = "") -> None:
        self._hal = hal
        self._where = where
        self._begin()
        # What the next call waits for.
        self._before = rt.HalFence.create_at(self._semaphore, 0)

    def _begin(self) -> None:
        self._semaphore, self._step = self._hal.create_semaphore(0), 0

    def invoke(
        self,
        call: Callable[[Any], object],
        arguments: Any,
        others: Sequence[Done] = (),
    ) -> Done:
        """Start ``call(arguments)``, to begin after the call before it and all of `others`.

        `arguments` is a ``VmVariantList``, which gets the two fences.
        """
        opened = [done.fence for done in others if done.is_open]
        wait = rt.HalFence.join([self._before, *opened]) if opened else self._before
        after = rt.HalFence.create_at(self._semaphore, self._step + 1)
        arguments.push_ref(wait)
        arguments.push_ref(after)
        try:
            call(arguments)
        except BaseException:
            # Nothing may ever signal this step: the next call signals one of another semaphore, and
            # waits for the call before this one, which may be still to come.
            self._begin()
            raise
        self._step += 1
        self._before = after
        return Done(after, self._where)
