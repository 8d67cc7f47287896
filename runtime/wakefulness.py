"""Keep cores from falling asleep between short calls, as other thread pools do (Linux).

IREE's workers sleep as soon as they have nothing to do.  A call of a tenth of a millisecond then
spends a third of that on waking cores up: a virtual core with nothing to do is handed back to the
host, a real one goes to a state that it must come back from.  OpenMP and ONNX Runtime let their
workers spin between calls instead.  IREE's can too (``--task_worker_spin_us``), but they keep the
caller from its core while they do: calls of 0.15 ms took more than 1 ms.

Here the kernel is asked to keep idle cores awake (:mod:`.latency_request`), which needs a right
that root has; else threads of the lowest priority spin (:mod:`.spinners`).  Both begin when a short
call follows another within :data:`WINDOW`, and end when none has ended for so long, which a thread
of Python's looks at once in :data:`PERIOD` (later while another holds Python's lock): no calls, no
cost.  While it lasts every core polls: more power, and a host sees a busy guest.  Calls longer than
:data:`SHORT` begin nothing: MiniLM (5 to 15 ms) gained 1 percent or lost.

``LOWC_WAIT_POLICY`` decides, partly in OpenMP's words:

===========  =====================================================================================
not set      the kernel's way where the pool has all of the machine, since it is for all cores;
             else spin, unless a control group's quota limits the time of this process, since
             spinning takes from it
``active``   the same, on part of a machine and under a quota too
``spin``     spin, under a quota too
``passive``  let cores sleep
===========  =====================================================================================
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import UserError, nearest
from . import latency_request, spinners
from .quota import cpu_quota
from .scheduling import Keeping

SHORT = 1e-3  # seconds: longer calls have no use for it
WINDOW = 5e-3  # seconds without a call
PERIOD = 5e-3  # seconds
VARIABLE = "LOWC_WAIT_POLICY"

_ACTIVE, _SPIN, _PASSIVE = "active", "spin", "passive"
_POLICIES = (_ACTIVE, _SPIN, _PASSIVE)


class Keeper(Protocol):
    """What keeps cores awake from ``begin`` to ``end``; used by one thread."""

    def begin(self) -> None:
        """Keep them awake from now on."""

    def end(self) -> None:
        """Let them sleep; nothing happens where they may."""


@dataclass(frozen=True)
class Choice:
    """How cores are kept awake, by nothing where there is no keeper, and why."""

    keeper: Keeper | None
    reason: str

    def __str__(self) -> str:
        kept = "are kept awake" if self.keeper else "may sleep"
        return f"cores {kept} between short calls: {self.reason}"


def choose(cores: Sequence[int]) -> Choice:
    """Return what the environment and this system allow for a pool of threads on `cores`.

    Raises
    ------
    UserError
        When ``LOWC_WAIT_POLICY`` is set to something unknown.
    """
    policy = os.environ.get(VARIABLE, "").strip().lower()
    if policy not in ("", *_POLICIES):
        raise UserError(
            f"there is no policy '{policy}'", where=VARIABLE, hint=nearest(policy, _POLICIES)
        )
    if policy == _PASSIVE:
        return Choice(None, f"{VARIABLE}={_PASSIVE}")
    if len(cores) < 2:
        return Choice(None, "the pool is not on several cores of its own")
    problem = "not tried" if policy == _SPIN else latency_request.problem(cores, policy == _ACTIVE)
    if not problem:
        said = f"the kernel is asked for it ({VARIABLE}={_PASSIVE} ends that)"
        return Choice(latency_request.LatencyRequest(), said)
    problem = spinners.problem()
    if problem:
        return Choice(None, problem)
    quota = cpu_quota()
    if quota is not None and not policy:
        said = f"spinning would take from a quota of {quota:g} cores ({VARIABLE}={_ACTIVE} does it)"
        return Choice(None, said)
    return Choice(spinners.Spinners(cores), f"threads spin ({VARIABLE}={_PASSIVE} ends that)")


class Wakefulness:
    """What keeps the cores of one process awake, and the thread that begins and ends it.

    Attributes
    ----------
    last : float
        When the last short call ended.
    keeping : Keeping
        Callers that stay under the policy of :mod:`.scheduling` meanwhile.

    What a caller's thread does here may be interrupted anywhere by a signal handler that raises: no
    lock stays taken, and cores sleep again.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._wanted = threading.Event()
        self.last = 0.0
        self._stopped = threading.Event()
        self._starting = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.keeping = Keeping()
        # Whether the thread is there that will end it.
        self._is_watched = False

    def after_call(self, began: float, ended: float) -> None:
        """Note a call, by the values of ``time.perf_counter`` at its ends."""
        if ended - began > SHORT:
            return
        is_following = began - self.last < WINDOW
        self.last = ended
        if not is_following or self._stopped.is_set():
            return
        if not self._wanted.is_set():
            self._want()
        if self._is_watched and not self.keeping.has():
            self.keeping.keep(lambda: self._is_watched)

    def stop(self) -> None:
        """Let the cores sleep for good; return when the thread has ended."""
        self._stopped.set()
        self._wanted.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _want(self) -> None:
        with self._starting:
            if not any(thread.is_alive() for thread in self._threads):
                # Kept before it starts: who is interrupted in between knows whom to wait for.
                thread = threading.Thread(target=self._watch, name="lowc-awake", daemon=True)
                self._threads.append(thread)
                try:
                    thread.start()
                except RuntimeError:  # no thread may be started any more
                    self._stopped.set()
        self._wanted.set()

    def _watch(self) -> None:
        # Neither this thread nor those that it may start take a signal that is for another.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            while self._wanted.wait() and not self._stopped.is_set():
                self._keeper.begin()
                self._is_watched = True
                while time.perf_counter() - self.last < WINDOW and not self._stopped.wait(PERIOD):
                    pass
                self._let_go()
                self._wanted.clear()
                if self._stopped.is_set():  # before `wanted` was, perhaps for the last time
                    return
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._is_watched = False
        self._keeper.end()
        self.keeping.let_go()


# By process, of which a fork has no threads, and way of keeping cores awake.
_shared: dict[tuple[int, type], Wakefulness] = {}


def shared(keeper: Keeper) -> Wakefulness:
    """Return what all modules of this process share that keep cores awake in this keeper's way."""
    return _shared.setdefault((os.getpid(), type(keeper)), Wakefulness(keeper))


@atexit.register
def _stop() -> None:
    # A thread at work when Python ends keeps objects of IREE alive, and IREE's bindings complain.
    for (process, _), wakefulness in _shared.items():
        if process == os.getpid():
            wakefulness.stop()


def _let_go() -> None:
    # A fork would stay under the policy: there, nobody knows.
    for (process, _), wakefulness in _shared.items():
        if process == os.getpid():
            wakefulness.keeping.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_let_go)
