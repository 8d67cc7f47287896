"""Bring the caller of a thread pool to the core of the worker that it wakes (Linux).

IREE wakes its first worker, which wakes the others.  From a core where another thread spins that
takes an interrupt between processors, some 12 microseconds in a virtual machine, before anybody
works; on its own core the worker begins as soon as the caller sleeps.  Linux does not find that out
by itself.  Where threads spin (:mod:`.spinners`), calls of 1 x 2048 x 2048 in ``w4a8`` took 0.060
instead of 0.076 ms, and the longest ones less.  Where cores sleep or poll, nothing was gained.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable
from pathlib import Path

_TASKS = Path("/proc/self/task")
_FIRST_WORKER = "iree-worker-0"


def threads() -> set[int]:
    """Return the ids of this process's threads; nothing where the system does not tell."""
    try:
        return {int(task.name) for task in _TASKS.iterdir()}
    except OSError:
        return set()


def core_of_first(workers: Iterable[int]) -> int | None:
    """Return the logical CPU that the first of these workers is bound to, None if it is to none.

    Workers name and bind themselves: it can be told when one of them has done something.
    """
    for worker in workers:
        try:
            name = (_TASKS / str(worker) / "comm").read_text().strip()
            cores = os.sched_getaffinity(worker)
        except (OSError, AttributeError):
            continue
        if name == _FIRST_WORKER and len(cores) == 1:
            return next(iter(cores))
    return None


def move_to(core: int) -> None:
    """Move the calling thread to a logical CPU, if it may run there, without binding it."""
    if _current_core is None or _current_core() == core:
        return
    allowed = os.sched_getaffinity(0)
    if core not in allowed:
        return
    # Between two system calls a signal handler may raise: only the last line may not be missed.
    try:
        os.sched_setaffinity(0, {core})
    finally:
        os.sched_setaffinity(0, allowed)


def _find() -> Callable[[], int] | None:
    """Return the C library's function, called with Python's lock held: it takes nanoseconds."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    return getattr(ctypes.PyDLL(None), "sched_getcpu", None)


_current_core = _find()
