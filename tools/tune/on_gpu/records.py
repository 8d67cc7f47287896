"""What ``collect.py`` measured, as records of tiles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ....errors import UserError
from ....passes.tiling.problem import Problem
from ....passes.tiling.record import Machine, Record


def read(path: Path) -> list[Record]:
    """Return the records of a file of results; cases of no tile, or lost in noise, are left out.

    Raises
    ------
    UserError
        When the file is none of ``collect.py``.
    """
    try:
        results = json.loads(path.read_text())
        cases = [case for case in results["cases"] if case.get("problem") and not _is_lost(case)]
        return [_record(results, case) for case in cases]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"these are no results of collect.py: {error}", where=str(path),
            hint="write them with: python BUNDLE/collect.py BUNDLE -o FILE",
        ) from error  # fmt: skip


def _is_lost(case: dict[str, Any]) -> bool:
    """Return whether a right result took less than the noise of calls."""
    return "lost" in case and not case.get("wrong")


def _machine(results: dict[str, Any], unit: str) -> Machine:
    """Return the device; without CUDA's driver it was asked for nothing but its name."""
    count = int(results["multiprocessors"])
    kind = "Vulkan" if unit == "spirv" else "CUDA"
    return Machine(
        name=str(results["card"].get("name", f"a {kind} device")),
        unit=unit,
        features=(f"multiprocessors={count}",) if count else (),
        caches=(0, int(results["l2"]), 0),
        bandwidth=float(results["copy_rate"]) if count else 0.0,
    )


def _record(results: dict[str, Any], case: dict[str, Any]) -> Record:
    problem = Problem(**case["problem"])
    machine = _machine(results, problem.unit)
    versions = {str(name): str(value) for name, value in results["versions"].items()}
    common: dict[str, Any] = {"when": results["when"], "versions": versions}
    if case.get("error") or case.get("wrong"):
        why, outcome = case.get("error"), "crash"
        if not why:
            why, outcome = case["wrong"], "wrong"
        return Record(problem, case["tiling"], machine, outcome, note=str(why)[:300], **common)  # type: ignore[arg-type]
    blocks = sorted(float(value) for value in case.get("blocks") or case["iree_blocks"])
    quarter = len(blocks) // 4
    seconds = float(case["seconds"])
    return Record(
        problem, case["tiling"], machine, "ok", seconds=seconds, p10=blocks[0], p90=blocks[-1],
        spread=(blocks[-1 - quarter] - blocks[quarter]) / 2 / seconds, blocks=len(blocks),
        calls=len(blocks) * int(case["launches"]), round=f"{results['when']} {case['group']}",
        **common,
    )  # fmt: skip
