"""Keep a waiting caller from stalling the worker that wakes it (Linux).

IREE 3.13 ends a wait by spinning, without yielding, until the worker that woke the waiter has left
its callback (``iree_async_semaphore_multi_wait``).  Linux likes to run a woken thread at once on
the core of its waker; then the waiter spins on the very core that the worker needs, until the next
tick of the scheduler: 4 ms with the usual 250 Hz, 1 ms with 1000 Hz.  Calls so end on a grid of
whole milliseconds (a 20 ms model on 2 cores took 20 or 24 ms, mean 20.7; with this 20.1, and the
90th percentile fell from 23.6 to 20.3).  A thread of the policy ``SCHED_BATCH`` does not preempt
when it wakes: the worker finishes first, and the waiter takes the core when the worker sleeps.
More spinning in the workers (``--task_worker_spin_us``) made calls slower.

To change the policy twice in a call takes 5 to 10 microseconds of it, since the scheduler takes the
thread out of its queue and puts it back.  So a thread whose short calls follow one another stays
under it (:class:`Keeping`) for as long as cores are kept awake for it, which ends some milliseconds
after the last call.  Threads that it starts meanwhile have the policy too, for good, and so have
processes that ``subprocess`` or ``os.posix_spawn`` start: these run no hooks of Python's, which let
a fork go, and the kernel's ``SCHED_RESET_ON_FORK`` is for real-time policies only.  Who minds
starts them from another thread, under ``LOWC_WAIT_POLICY=passive``, or sets their policy.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

_NORMAL: Any = getattr(os, "SCHED_OTHER", None)
_BATCH: Any = getattr(os, "SCHED_BATCH", None)
_PARAMETERS: Any = os.sched_param(0) if _BATCH is not None else None


class _Thread(threading.local):
    """What a thread knows of itself: whether a block changed its policy and did not end."""

    changed = False


_THREAD = _Thread()


class without_preemption:  # noqa: N801  (used as a function: `with without_preemption():`)
    """Run the block with the calling thread not preempting others when it wakes.

    Does nothing where the system lacks or forbids it, and for a thread that somebody gave another
    policy than the normal one.  Written out as a class: a generator takes three times as long, and
    the shortest calls take a few dozen microseconds.

    A signal handler that raises (Ctrl-C) can do so between the change and the block, or before it
    is undone.  The thread remembers that the policy is lowc's, and its next block puts it back.
    """

    __slots__ = ("_changed",)

    def __enter__(self) -> None:
        self._changed = _enter()

    def __exit__(self, *_error: object) -> None:
        if self._changed:
            os.sched_setscheduler(0, _NORMAL, _PARAMETERS)
            _THREAD.changed = False


def _enter() -> bool:
    if _PARAMETERS is None:
        return False
    try:
        # Process 0 is the calling thread.
        found = os.sched_getscheduler(0)
        if found != _NORMAL:
            return found == _BATCH and _THREAD.changed
        # Remembered before it is done: what comes between can only be taken for done.
        _THREAD.changed = True
        os.sched_setscheduler(0, _BATCH, _PARAMETERS)
    except OSError:
        return False
    return True


class _Stay:
    """That a thread stays under the policy.  The thread's own: gone when the thread is."""

    __slots__ = ("__weakref__", "is_on", "thread")

    def __init__(self) -> None:
        self.is_on = True
        self.thread = threading.get_native_id()


class _Own(threading.local):
    """A thread's last stay."""

    stay: _Stay | None = None


class Keeping:
    """Threads that stay under the policy from call to call, until all are let go at once.

    Numbers of threads are given again, Python's at once: so each thread has a mark of its own, and
    nothing is kept of one that has ended.
    """

    def __init__(self) -> None:
        self._own = _Own()
        self._stays: weakref.WeakSet[_Stay] = weakref.WeakSet()

    def has(self) -> bool:
        """Return whether the calling thread stays."""
        stay = self._own.stay
        return stay is not None and stay.is_on

    def __len__(self) -> int:
        """Return how many threads stay."""
        return len(self._stays)

    def keep(self, is_wanted: Callable[[], bool]) -> None:
        """Keep the calling thread, unless it has another policy than the normal one.

        Whoever lets all go makes `is_wanted` false before.
        """
        if _PARAMETERS is None:
            return
        stay = _Stay()
        try:
            if os.sched_getscheduler(0) != _NORMAL:
                return
            # Kept before it is done: what comes between can only be let go for nothing.
            self._own.stay = stay
            self._stays.add(stay)
            os.sched_setscheduler(0, _BATCH, _PARAMETERS)
        except OSError:
            stay.is_on = False
            self._stays.discard(stay)
            return
        if not (stay.is_on and is_wanted()):
            self._stays.add(stay)  # perhaps it was let go before it was done
            self.let_go()

    def let_go(self) -> None:
        """Give every thread its policy back that has not ended, nor been given another one."""
        while True:
            try:
                stay = self._stays.pop()
            except KeyError:  # none is left
                return
            stay.is_on = False
            with contextlib.suppress(OSError):
                if os.sched_getscheduler(stay.thread) == _BATCH:
                    os.sched_setscheduler(stay.thread, _NORMAL, _PARAMETERS)
