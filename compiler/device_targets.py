"""Which target a device of this machine is compiled for."""

from __future__ import annotations

from ..errors import UserError, nearest
from ..passes import gpus
from ..passes.gpus import Gpu
from ..runtime.devices import AUTO, CPU, CPU_SYNC, CUDA, VULKAN, list_devices, open_device
from ..runtime.gpu_facts import GpuFacts, lacking
from .target import Target, load_target


def targets_of(kind: str, facts: GpuFacts) -> list[str]:
    """Return the targets whose code a GPU runs, best first: its maker's, then any device's.

    Vulkan drivers tell neither the generation nor how much memory a workgroup may have: of several
    families that need the same features the oldest is named, whose code runs on all of them.  An
    NVIDIA chip that is older than all code that there is for CUDA has no target.
    """
    families = gpus.families(kind).values()
    fit = [g for g in families if g.vendor == facts.vendor and not lacking(facts, g.needs)]
    if kind == VULKAN:
        oldest = {tuple(g.needs["features"]): g.name for g in reversed(fit)}
        return [oldest[has] for has in sorted(oldest, key=len, reverse=True)] + [kind]
    if not facts.chip:
        return [CUDA]
    usual = load_target(CUDA).gpu  # what the name without a chip means
    return [g.name for g in reversed(fit)] + ([CUDA] if usual in fit else [])


def runs(facts: GpuFacts, gpu: Gpu) -> bool:
    """Whether a device runs code for the family `gpu`, by what its driver tells."""
    is_of_maker = not gpu.vendor or not facts.vendor or gpu.vendor == facts.vendor
    return is_of_maker and not lacking(facts, gpu.needs)


def device_for(target: Target) -> str | None:
    """Return the first device of this machine that runs the code of `target`; None without one.

    Of CPUs only code for this machine's own counts.
    """
    if target.backend == CPU:
        return CPU if target.name == CPU else None
    for device in list_devices():
        is_kind = device.name.partition("://")[0] == target.backend
        if is_kind and device.available and target.gpu and runs(device.facts, target.gpu):
            return device.name if "://" in device.name else f"{target.backend}://{device.index}"
    return None


def target_for(device: str) -> str:
    """Return what to compile for, given the name of a device as in :mod:`lowc.runtime.devices`.

    Raises
    ------
    UserError
        When there is no such device, or no code for it; the hint says why or what there is.
    """
    kind = device.partition("://")[0]
    if kind in (AUTO, CPU, CPU_SYNC):
        return CPU
    if kind not in (VULKAN, CUDA):
        known = [AUTO, CPU, CPU_SYNC, VULKAN, CUDA]
        raise UserError(f"unknown device '{device}'", hint=nearest(device, known))
    facts = open_device(device).facts
    found = targets_of(kind, facts)
    if not found:
        raise UserError(too_old(facts), where=f"device '{device}'", hint="compile for vulkan")
    return found[0]


def too_old(facts: GpuFacts) -> str:
    """Say why an NVIDIA chip has no target."""
    oldest = min(gpus.families(CUDA).values(), key=lambda g: g.needs["chip"]).chip
    return f"sm_{facts.chip} is too old: there is code for {oldest} and newer"


def chosen(target: str | None, device: str) -> str:
    """Return `target`, or without one the target of `device`."""
    return target or target_for(device)
