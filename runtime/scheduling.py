"""Keep a waiting caller from stalling the worker that wakes it (Linux).

IREE 3.13 ends a wait by spinning, without yielding, until the worker that woke the waiter has left
its callback (``iree_async_semaphore_multi_wait``).  Linux likes to run a woken thread at once on
the core of its waker; then the waiter spins on the very core that the worker needs, until the next
tick of the scheduler: 4 ms with the usual 250 Hz, 1 ms with 1000 Hz.  Calls so end on a grid of
whole milliseconds (a 20 ms model on 2 cores took 20 or 24 ms, mean 20.7; with this 20.1, and the
90th percentile fell from 23.6 to 20.3).  A thread of the policy ``SCHED_BATCH`` does not preempt
when it wakes: the worker finishes first, and the waiter takes the core when the worker sleeps.
More spinning in the workers (``--task_worker_spin_us``) made calls slower.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

_NORMAL: Any = getattr(os, "SCHED_OTHER", None)
_BATCH: Any = getattr(os, "SCHED_BATCH", None)
_PARAMETERS: Any = os.sched_param(0) if _BATCH is not None else None


@contextlib.contextmanager
def without_preemption() -> Iterator[None]:
    """Run the block with the calling thread not preempting others when it wakes.

    Does nothing where the system lacks or forbids it, and for a thread that somebody gave another
    policy than the normal one.
    """
    changed = _enter()
    try:
        yield
    finally:
        if changed:
            os.sched_setscheduler(0, _NORMAL, _PARAMETERS)


def _enter() -> bool:
    if _PARAMETERS is None:
        return False
    try:
        # Process 0 is the calling thread.
        if os.sched_getscheduler(0) != _NORMAL:
            return False
        os.sched_setscheduler(0, _BATCH, _PARAMETERS)
    except OSError:
        return False
    return True
