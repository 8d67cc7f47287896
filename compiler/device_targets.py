"""Which target a device of this machine is compiled for."""

from __future__ import annotations

from ..errors import UserError, nearest
from ..passes import gpus
from ..runtime.devices import AUTO, CPU, CPU_SYNC, CUDA, VULKAN, open_device
from ..runtime.gpu_facts import GpuFacts, lacking


def targets_of(kind: str, facts: GpuFacts) -> list[str]:
    """Return the targets whose code a GPU runs, best first: its maker's, then any device's."""
    families = gpus.families(kind).values()
    if kind == CUDA:
        known = [f"{CUDA}:sm_{facts.chip}"] if facts.chip else []
        return [*known, CUDA]
    fit = [g.name for g in families if g.vendor == facts.vendor and not lacking(facts, g.needs)]
    return [*fit[::-1], kind]


def target_for(device: str) -> str:
    """Return what to compile for, given the name of a device as in :mod:`lowc.runtime.devices`.

    Raises
    ------
    UserError
        When there is no such device; the hint says why or what there is.
    """
    kind = device.partition("://")[0]
    if kind in (AUTO, CPU, CPU_SYNC):
        return CPU
    if kind not in (VULKAN, CUDA):
        known = [AUTO, CPU, CPU_SYNC, VULKAN, CUDA]
        raise UserError(f"unknown device '{device}'", hint=nearest(device, known))
    return targets_of(kind, open_device(device).facts)[0]


def chosen(target: str | None, device: str) -> str:
    """Return `target`, or without one the target of `device`."""
    return target or target_for(device)
