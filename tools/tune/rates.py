"""Measure what a machine can do at most, once for each store: bytes and products per second."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from ...passes.tiling.record import Machine
from ..bench import limits
from .store import Store

BLOCKS = 5


def with_rates(machine: Machine, store: Store) -> Machine:
    """Return `machine` with its rates: those that the store has of it, or else measured now."""
    known = store.machine(machine.key)
    if known is not None and known.bandwidth and known.multiply_rate:
        return known
    from ...runtime.timing import time_interleaved

    touched = limits.CACHES_TO_FILL * limits.cache_bytes()
    demand = limits.Demand(1, limits.FMA, 1.0, float(touched))
    with tempfile.TemporaryDirectory(prefix="lowc-rates-") as folder:
        found = limits.Limits(machine.threads, Path(folder))
        rates = found.rates(time_interleaved(found.runners([demand]), blocks=BLOCKS))
    bandwidth = next(rate for name, rate in rates.items() if name != limits.FMA)
    return dataclasses.replace(machine, bandwidth=bandwidth, multiply_rate=rates[limits.FMA])
