"""Choose between a pool of threads and the calling thread for models with short calls.

IREE's thread pool takes a call over and wakes the caller when it is done, which costs 15
microseconds where cores are awake and 80 where they sleep (measured on one virtual machine).  The
calling thread alone does without.  Where that pays depends on the machine, so a model whose calls
may be short enough is tried both ways when it is loaded, on inputs of zeros.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..errors import LowcError
from .devices import CPU, CPU_SYNC
from .manifest import Manifest

if TYPE_CHECKING:
    from .module import Module

# Estimated microseconds of one thread.  Below, waking others cannot pay; above, on the machine that
# was measured, it did.
SURELY_SHORT = 10.0
SURELY_LONG = 300.0
ROUNDS, CALLS, WARMUP = 5, 5, 2


def devices_to_try(manifest: Manifest) -> Sequence[str]:
    """Return the devices that may be the best for a module that was compiled for ``cpu``."""
    estimate = manifest.serial_microseconds
    if estimate is None or estimate > SURELY_LONG:
        return (CPU,)
    if estimate < SURELY_SHORT:
        return (CPU_SYNC,)
    # Trial calls would change a state; sizes of inputs are fixed where there is an estimate.
    return (CPU,) if manifest.has_state else (CPU, CPU_SYNC)


def fastest(modules: Sequence[Module]) -> Module:
    """Return the module of the shortest calls on zeros; of one, that one without a call.

    Of modules that fail on zeros the first one is returned: real inputs may do better.
    """
    if len(modules) == 1:
        return modules[0]
    taken: list[list[float]] = [[] for _ in modules]
    try:
        runs = [module.bound_to_zeros() for module in modules]
        for _ in range(ROUNDS):
            for run, seconds in zip(runs, taken, strict=True):
                seconds.append(_time(run))
    except LowcError:
        return modules[0]
    # Others who use the machine meanwhile only ever add: a core that they take for some rounds
    # would speak for the calling thread, for as long as the module lives.
    least = [min(seconds) for seconds in taken]
    return modules[least.index(min(least))]


def _time(run: Callable[[], object]) -> float:
    for _ in range(WARMUP):
        run()
    before = time.perf_counter()
    for _ in range(CALLS):
        run()
    return time.perf_counter() - before
