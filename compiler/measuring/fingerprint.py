"""The machine as records of measurements name it."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

from ...passes.tiling.record import Machine
from ...runtime.devices import usable_cores
from .. import machine
from ..backend import vector_unit
from ..target import Target

_PACKAGES = ("lowc", "iree-base-compiler", "iree-base-runtime")


def fingerprint(target: Target, bandwidth: float = 0.0, multiply_rate: float = 0.0) -> Machine:
    """Return this machine; `target` says for which vector unit code is generated.

    Of a GPU only the target is known: this machine's cores and caches are not its own.
    """
    if target.backend != "cpu":
        return Machine(target.gpu.name if target.gpu else target.name, vector_unit(target))
    cpuinfo = machine.read_text(Path("/proc/cpuinfo"))
    features = machine.cpu_features(cpuinfo, platform.machine())
    return Machine(
        machine.cpu_model(cpuinfo),
        vector_unit(target),
        tuple(sorted(name for name, present in features.items() if present)),
        len(usable_cores()),
        machine.cache_sizes(),
        bandwidth,
        multiply_rate,
    )


def versions() -> dict[str, str]:
    """Return the versions of what generates and runs code."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
