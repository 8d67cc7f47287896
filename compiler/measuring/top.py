"""Measure the most promising tiles of a model's products, so that the fastest can be kept."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from iree.compiler import ir

from ...errors import UserError
from ...passes import select_tiles
from ...passes.tiling import choice
from ...passes.tiling.choice import Ranker
from ...passes.tiling.problem import Problem
from ...runtime.devices import open_device
from ..device_targets import targets_of
from ..target import Target
from .device import device_lock
from .fingerprint import effort_on, fingerprint, of_device
from .modules import can_be_alone
from .rounds import Finding, measure, prepare

# Of a problem's key, seconds by tile.
Measured = dict[str, dict[str, float]]


def problems_of(module: ir.Module, unit: str, *, kernels: bool) -> list[Problem]:
    """Return the products of `module` that can be measured, each once.

    `module` has come to where ``lowc-select-tiles`` stands.
    """
    found = select_tiles.products(module, unit, kernels=kernels)
    can = (p for _, p in found if p.is_static and can_be_alone(p))
    return list(dict.fromkeys(can))


def check(target: Target) -> None:
    """Raise a UserError unless this machine has a device for the code of `target`.

    That is its CPU, or a GPU that runs this code.
    """
    if target.backend == "cpu":
        has, hint = ["cpu"], "only code for this machine's CPU: --target cpu"
    else:
        device = open_device(target.backend)
        has = targets_of(device.kind, device.facts)
        hint = f"the device that is here runs code for {', '.join(has)}"
    if target.name not in has:
        raise UserError(
            f"tiles for '{target}' cannot be measured here", where="--measure-top", hint=hint
        )


def measure_top(
    problems: Iterable[Problem],
    ranker: Ranker | None,
    top: int,
    target: Target,
    tell: Callable[[str], object] | None = None,
) -> Measured:
    """Time the `top` tiles that `ranker` puts first, and the default one, of each product.

    They run on the device of `target` (:func:`check`).

    `tell` is called with a sentence when another measurement is waited for.
    """
    measured: Measured = {}
    machine = fingerprint(target) if target.backend == "cpu" else of_device(target)
    effort = effort_on(machine)
    with tempfile.TemporaryDirectory(prefix="lowc-top-") as name:
        for problem in problems:
            best = choice.choose(problem, ranker, top).best
            usual = choice.default_first(problem, best)
            if len(usual) < 2:
                continue
            prepared = prepare(problem.key, problem, usual, target, Path(name) / problem.key)
            with device_lock(tell=tell):
                found = measure(prepared, effort, target.backend)
                measured[problem.key] = times_of(found)
    return measured


def times_of(findings: Iterable[Finding]) -> dict[str, float]:
    """Return the seconds of the tiles that gave the right result."""
    return {one.tiling: float(one.times["seconds"]) for one in findings if one.outcome == "ok"}


def to_text(measured: Mapping[str, Mapping[str, float]]) -> str:
    """Return what the option ``measured`` of ``lowc-select-tiles`` takes."""
    return json.dumps(measured, sort_keys=True, separators=(",", ":")) if measured else ""
