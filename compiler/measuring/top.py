"""Measure the most promising tiles of a model's products, so that the fastest can be kept."""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from iree.compiler import ir

from ...errors import UserError
from ...passes import select_tiles, shared_panels
from ...passes.outline_kernels import family_of
from ...passes.tiling import attribute, choice
from ...passes.tiling.choice import Ranker
from ...passes.tiling.problem import Problem
from ...runtime.devices import open_device
from ..device_targets import device_for, targets_of
from ..target import Target
from .device import device_lock
from .fingerprint import effort_on, measured_on
from .modules import can_be_alone
from .rounds import Finding, measure, prepare

# Of a problem's key, seconds by tile; infinite where it failed.
Measured = dict[str, dict[str, float]]


def problems_of(module: ir.Module, unit: str, *, kernels: bool) -> list[Problem]:
    """Return the products of `module` that can be measured, each once.

    `module` has come to where ``lowc-select-tiles`` stands; which products decide the panels of
    shared weights is written into it.
    """
    if kernels:
        shared_panels.settle(module, unit, family_of, attribute.columns_asked)
    found = select_tiles.products(module, unit, kernels=kernels)
    can = (p for _, p in found if p.is_static and can_be_alone(p))
    return list(dict.fromkeys(can))


def check(target: Target) -> None:
    """Raise a UserError unless this machine has a device for the code of `target`.

    That is its CPU, or a GPU that runs this code.
    """
    if device_for(target) is not None:
        return
    hint = "only code for this machine's CPU: --target cpu"
    if target.backend != "cpu":
        device = open_device(target.backend)
        has = targets_of(device.kind, device.facts)
        hint = f"the first device that is here runs code for {', '.join(has)}"
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

    `tell` is called with a sentence when another measurement is waited for, and for each product
    of which tiles failed.
    """
    measured: Measured = {}
    device = device_for(target) or target.backend
    effort = effort_on(measured_on(target))
    with tempfile.TemporaryDirectory(prefix="lowc-top-") as name:
        for problem in problems:
            best = choice.choose(problem, ranker, top).best
            usual = choice.default_first(problem, best)
            if len(usual) < 2:
                continue
            prepared = prepare(problem.key, problem, usual, target, Path(name) / problem.key)
            with device_lock(tell=tell):
                found = list(measure(prepared, effort, device))
            measured[problem.key] = times_of(found)
            said = said_of_failed(problem, found)
            if said and tell is not None:
                tell(said)
    return measured


def times_of(findings: Iterable[Finding]) -> dict[str, float]:
    """Return the seconds of the tiles that gave the right result, and infinity for the others."""
    return {
        one.tiling: float(one.times["seconds"]) if one.outcome == "ok" else math.inf
        for one in findings
    }


def said_of_failed(problem: Problem, findings: Sequence[Finding]) -> str:
    """Say how many tiles of a product failed, and why; nothing if none did."""
    failed = [one for one in findings if one.outcome != "ok"]
    if not failed:
        return ""
    count = Counter(one.outcome for one in failed)
    kinds = ", ".join(f"{number} {outcome}" for outcome, number in sorted(count.items()))
    first = f"{failed[0].tiling} {failed[0].note}".rstrip()
    return f"{len(failed)} of {len(findings)} tiles of {problem} failed ({kinds}), such as {first}"


def to_text(measured: Mapping[str, Mapping[str, float]]) -> str:
    """Return what the option ``measured`` of ``lowc-select-tiles`` takes."""
    return json.dumps(measured, sort_keys=True, separators=(",", ":")) if measured else ""
