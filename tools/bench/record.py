"""Results of a measurement as data: what was measured, when, and on which machine."""

from __future__ import annotations

import datetime
import itertools
import json
import platform
from pathlib import Path
from typing import Any

from ...compiler import machine
from ...runtime import wakefulness
from ...runtime.devices import pool_cores
from .. import output


def describe_machine() -> dict[str, Any]:
    """Return processor, features, cores and how they wait, memory and package versions."""
    cpuinfo = machine.read_text(Path("/proc/cpuinfo"))
    features = machine.cpu_features(cpuinfo, platform.machine())
    memory = machine.memory_here()
    return {
        "cpu": machine.cpu_model(cpuinfo),
        "features": [name for name, present in features.items() if present],
        "cores": machine.usable_cores(),
        "waiting": str(wakefulness.choose(pool_cores())),
        "memory_bytes": memory[0] if memory else None,
        "versions": machine.package_versions(),
    }


def new_record(**fields: Any) -> dict[str, Any]:
    """Return `fields` with date (UTC) and machine."""
    return {**fields, "date": now(), "machine": describe_machine()}


def now() -> str:
    """Return the date and the time (UTC), in seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def keep(record: dict[str, Any], folder: Path, stem: str) -> Path:
    """Write `record` as ``<stem>-<day>.json`` into `folder`; return the path.

    A second one of that name is ``<stem>-<day>-2.json``: nothing that was kept is lost.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{stem}-{record['date'][:10]}"
    names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    path = next(path for name in names if not (path := folder / f"{name}.json").exists())
    rewrite(record, path)
    return path


def rewrite(record: dict[str, Any], path: Path) -> None:
    """Write `record` as `path`, which holds the old one or the new one whatever happens."""
    text = json.dumps(record, indent=2) + "\n"
    output.write_atomically(path, lambda file: file.write(text.encode()))
