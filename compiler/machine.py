"""What this machine is: processor, caches, memory, packages.  Reads files, runs nothing."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path

from ..runtime.quota import cpu_quota

# Feature → the names that Linux gives it in /proc/cpuinfo, and what lowc gains from it.
CPU_FEATURES = {
    "avx2": (("avx2",), "256-bit vectors"),
    "fma": (("fma",), "fused multiply and add"),
    "avx512f": (("avx512f",), "512-bit vectors"),
    "avx512_vnni": (("avx512_vnni",), "8-bit dot products"),
    "avx_vnni": (("avx_vnni",), "8-bit dot products of 256 bits"),
    "avx512_bf16": (("avx512_bf16",), "bfloat16 dot products"),
    "amx": (("amx_tile", "amx_int8"), "8-bit and bfloat16 matrix tiles"),
    "neon dotprod": (("asimddp",), "8-bit dot products (Arm)"),
    "i8mm": (("i8mm",), "8-bit matrix products (Arm)"),
    "sve": (("sve",), "scalable vectors (Arm)"),
}
_ARM_ONLY = ("neon dotprod", "i8mm", "sve")

# Package → what needs it, and how to get it.
PACKAGES = {
    "lowc": "",
    "iree-base-compiler": "pip install iree-base-compiler",
    "iree-base-runtime": "pip install iree-base-runtime",
    "numpy": "pip install numpy",
    "torch": "pip install 'lowc[torch]' (imports PyTorch models)",
    "torch-mlir": "pip install 'lowc[torch]' (imports PyTorch models)",
}

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_CGROUP = Path("/sys/fs/cgroup")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def cpu_model(cpuinfo: str) -> str:
    """Return the processor's name from the text of ``/proc/cpuinfo``, or the architecture."""
    found = re.search(r"^(?:model name|Model|Processor)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def cpu_features(cpuinfo: str, architecture: str) -> dict[str, bool]:
    """Return which of :data:`CPU_FEATURES` that concern `architecture` the processor has."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    is_arm = architecture in ("aarch64", "arm64")
    return {
        name: all(flag in flags for flag in needed)
        for name, (needed, _) in CPU_FEATURES.items()
        if (name in _ARM_ONLY) == is_arm
    }


def usable_cores() -> float:
    """Return the cores that this process may use: its affinity, cut by its cgroups' quotas."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else (os.cpu_count() or 1)
    return min(float(cores), cpu_quota() or float(cores))


def last_level_cache_bytes(folder: Path = _CACHES) -> int | None:
    """Return the size of the first processor's largest cache; None where Linux does not tell."""
    sizes = [read_text(path).strip() for path in folder.glob("index*/size")]
    return max(
        (int(size[:-1]) * _UNITS[size[-1]] for size in sizes if re.fullmatch(r"\d+[KMG]", size)),
        default=None,
    )


def memory_bytes(meminfo: str, memory_max: str = "") -> tuple[int, int] | None:
    """Return total and available bytes from ``/proc/meminfo``; a cgroup's limit lowers the total.

    None when the text says nothing, as on systems that have no such file.
    """
    found = {
        name: int(kilobytes) * 1024
        for name, kilobytes in re.findall(r"^(\w+):\s+(\d+) kB$", meminfo, re.MULTILINE)
    }
    if "MemTotal" not in found:
        return None
    limit = int(memory_max) if memory_max.strip().isdigit() else found["MemTotal"]
    total = min(found["MemTotal"], limit)
    return total, min(found.get("MemAvailable", total), total)


def memory_here() -> tuple[int, int] | None:
    """Return total and available bytes of memory on this machine."""
    return memory_bytes(read_text(Path("/proc/meminfo")), read_text(_CGROUP / "memory.max"))


def package_versions() -> dict[str, str | None]:
    """Return the version of each of :data:`PACKAGES`, None where it is missing; imports none."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def read_text(path: Path) -> str:
    """Return the text of a system file, or nothing where it does not exist."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def cache_sizes(folder: Path = _CACHES) -> tuple[int, int, int]:
    """Return the bytes of the first processor's data caches, nearest first; 0 if not known."""
    found = {1: 0, 2: 0, 3: 0}
    for entry in folder.glob("index*"):
        if read_text(entry / "type").strip() == "Instruction":
            continue
        level, size = read_text(entry / "level").strip(), read_text(entry / "size").strip()
        if level in ("1", "2", "3") and re.fullmatch(r"\d+[KMG]", size):
            found[int(level)] = max(found[int(level)], int(size[:-1]) * _UNITS[size[-1]])
    return found[1], found[2], found[3]
