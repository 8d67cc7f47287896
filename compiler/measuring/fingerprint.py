"""The machine as records of measurements name it."""

from __future__ import annotations

import dataclasses
import platform
from importlib import metadata
from pathlib import Path

from ...passes.tiling.record import Machine
from ...runtime.devices import open_device, usable_cores
from .. import machine
from ..backend import vector_unit
from ..device_targets import device_for, targets_of
from ..target import Target, load_target
from .worker import Effort

SOFTWARE = ("vulkan:llvmpipe",)  # GPUs that are this machine's processor
_PACKAGES = ("lowc", "iree-base-compiler", "iree-base-runtime")


def fingerprint(target: Target, bandwidth: float = 0.0, multiply_rate: float = 0.0) -> Machine:
    """Return this machine; `target` says for which vector unit code is generated.

    Of a GPU only the target is known: this machine's cores and caches are not its own, unless it is
    made of them.
    """
    if target.backend != "cpu":
        name = target.gpu.name if target.gpu else target.name
        if name not in SOFTWARE:
            return Machine(name, vector_unit(target))
        cores, caches = len(usable_cores()), machine.cache_sizes()
        return Machine(name, vector_unit(target), (), cores, caches)
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


def of_device(target: Target) -> Machine:
    """Return the device of this machine that runs the code of `target`, as records name it.

    Raises
    ------
    UserError
        When there is none.
    """
    device = open_device(device_for(target) or target.backend)
    if target.backend == "cuda":
        return Machine(device.description, vector_unit(target))
    best = load_target(targets_of(device.kind, device.facts)[0])
    told = fingerprint(best)
    same = best.gpu == target.gpu
    code = () if same or target.gpu is None else (f"code={target.gpu.name}",)
    return dataclasses.replace(told, features=code)


def measured_on(target: Target) -> Machine:
    """Return the machine under which measurements of the code of `target` are filed.

    That is the device that is here, or where none runs this code, what the target alone says.
    """
    if target.backend == "cpu" or device_for(target) is None:
        return fingerprint(target)
    return of_device(target)


def effort_on(machine: Machine) -> Effort:
    """Return how often tiles are called: less on software devices, slower than GPUs by far."""
    return Effort(least=5, most=12, seconds=0.3) if machine.name in SOFTWARE else Effort()


def versions() -> dict[str, str]:
    """Return the versions of what generates and runs code."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
