"""Which target a device of this machine is compiled for."""

from __future__ import annotations

from ..errors import UserError, nearest
from ..passes import gpus
from ..runtime.devices import AUTO, CPU, CPU_SYNC, CUDA, VULKAN, open_device
from ..runtime.gpu_facts import GpuFacts, lacking
from .target import load_target


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
