"""``lowc doctor``: what this machine has, what it lacks, and how to get that."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import click

from ..compiler import machine
from ..errors import UserError
from . import output

# What Vulkan calls what kernels can use, and how it is said.
FEATURES = {
    "shaderIntegerDotProduct": "int8 dot product",
    "storageBuffer8BitAccess": "8-bit storage",
    "storageBuffer16BitAccess": "16-bit storage",
    "shaderFloat16": "f16",
    "cooperativeMatrix": "cooperative matrices",
}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor_command(as_json: bool) -> None:
    """Tell what this machine has (CPU, memory, packages, devices), and how to get what it lacks."""
    found = examine()
    if as_json:
        output.result_json(found)
    else:
        _print(found)


def examine() -> dict[str, Any]:
    """Return what this machine has, as plain data; ``advice`` is a list of sentences."""
    cpuinfo = machine.read_text(Path("/proc/cpuinfo"))
    architecture = platform.machine()
    memory = machine.memory_here()
    devices, problem = _devices()
    waiting, mistake = _waiting()
    found = {
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cpu": {
            "model": machine.cpu_model(cpuinfo),
            "architecture": architecture,
            "features": machine.cpu_features(cpuinfo, architecture) if cpuinfo else None,
            "cores": machine.usable_cores(),
        },
        "memory": {"total": memory[0], "available": memory[1]} if memory else None,
        "packages": machine.package_versions(),
        "devices": devices,
        "waiting": waiting,
    }
    said = [text for text in (problem, mistake) if text]
    return {**found, "advice": [*said, *advice(found)]}


def _devices() -> tuple[list[dict[str, Any]], str]:
    """Return IREE's devices, absent kinds too, and what went wrong in finding them."""
    try:
        from ..runtime.devices import list_devices
    except ImportError as error:
        return [], f"devices are unknown, IREE's runtime does not load: {error}"
    return [_described(device) for device in list_devices()], ""


def _described(device: Any) -> dict[str, Any]:
    """Return a ``DeviceInfo`` as plain data, with the targets whose code it runs."""
    said = {key: getattr(device, key) for key in ("name", "description", "problem", "hint")}
    from ..compiler.device_targets import targets_of

    kind, facts = device.name.partition(":")[0], device.facts
    if kind not in ("vulkan", "cuda") or not device.available:
        return said
    features = facts.features
    has = None if features is None else {text: key in features for key, text in FEATURES.items()}
    return {
        **said,
        "index": device.index,
        "uuid": facts.uuid or device.name.partition("://")[2],
        "driver": facts.driver,
        "api": facts.api,
        "subgroups": facts.subgroups,
        "features": has,
        "targets": targets_of(kind, facts),
    }


def _waiting() -> tuple[str | None, str]:
    """Return what happens between short calls, None if it is unknown, and a mistake about it."""
    try:
        from ..runtime.devices import pool_cores
        from ..runtime.wakefulness import choose

        return str(choose(pool_cores())), ""
    except ImportError:
        return None, ""
    except UserError as error:
        return None, " ".join(str(error).split())


def advice(found: dict[str, Any]) -> list[str]:
    """Return what the machine described by :func:`examine` lacks and how to get it."""
    said = [
        f"{name} is missing: {machine.PACKAGES[name]}"
        for name, version in found["packages"].items()
        if version is None and machine.PACKAGES[name]
    ]
    versions = found["packages"]
    compiler, runtime = versions["iree-base-compiler"], versions["iree-base-runtime"]
    if compiler and runtime and compiler != runtime:
        said.append(
            f"iree-base-compiler {compiler} and iree-base-runtime {runtime} differ: "
            f"pip install iree-base-runtime=={compiler}"
        )
    features = found["cpu"]["features"] or {}
    if features.get("avx2") is False or features.get("fma") is False:
        said.append("the CPU lacks AVX2 or FMA: compiled code will be slow here")
    said.extend(
        f"no {device['name']} device: {device['hint']}"
        for device in found["devices"]
        if device["problem"] and device["hint"]
    )
    return said


def _print(found: dict[str, Any]) -> None:
    cpu, memory = found["cpu"], found["memory"]
    cores = f"{cpu['cores']:g} core{'' if cpu['cores'] == 1 else 's'} usable"
    features = [
        f"{'yes' if present else 'no':3} {name}: {machine.CPU_FEATURES[name][1]}"
        for name, present in (cpu["features"] or {}).items()
    ]
    _block("system", [f"{found['system']}, Python {found['python']}"])
    _block("cpu", [f"{cpu['model']} ({cpu['architecture']}), {cores}", *features])
    if memory:
        total, available = (output.size_text(memory[key]) for key in ("total", "available"))
        _block("memory", [f"{total}, {available} available"])
    versions = found["packages"].items()
    _block("packages", [f"{name:18} {version or 'missing'}" for name, version in versions])
    _block("devices", [line for device in found["devices"] for line in _lines(device)])
    if found["waiting"]:
        _block("waiting", [found["waiting"]])
    _block("advice", found["advice"])


def _lines(device: dict[str, Any]) -> list[str]:
    """Return what is said of a device; more of a GPU."""
    first = f"{device['name']:10} {device['description'] or 'none: ' + device['problem']}"
    if "targets" not in device:
        return [first]
    kind = device["name"].partition(":")[0]
    about = [f"also {kind}://{device['index']}, UUID {device['uuid']}"]
    about += [f"driver {device['driver']}, Vulkan {device['api']}"] if device["api"] else []
    names = " or ".join(device["targets"])
    too_old = f"too old for code for {kind}; try it as a Vulkan device"
    about += [f"compile for it with --target {names}" if names else too_old]
    if device["features"] is not None:
        has = [f"{'has' if there else 'no'} {name}" for name, there in device["features"].items()]
        about.append(", ".join(has))
    if device["subgroups"]:
        least, most = device["subgroups"]
        about.append(f"{least if least == most else f'{least} to {most}'} threads run together")
    return [first, *(f"{'':10} {line}" for line in about)]


def _block(label: str, lines: list[str]) -> None:
    for index, line in enumerate(lines):
        output.result(f"{label if index == 0 else '':9} {line}")
