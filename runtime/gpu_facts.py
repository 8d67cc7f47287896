"""What a GPU's driver tells of it, and whether that is what a module needs.

IREE prints a device's properties as text; of Vulkan devices among others::

    device_uuid: 6d65736132322e332e36000000000000
    features: bufferDeviceAddress=yes shaderIntegerDotProduct=yes cooperativeMatrix=no …
    subgroup: size=8 operations=0x000000bf … minSubgroupSize=8 maxSubgroupSize=8 …
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_FIELD = re.compile(r"^-? *([\w-]+): (.*)$", re.MULTILINE)
_PAIR = re.compile(r"(\w+)=(\w+)")
_CHIP = re.compile(r"\bsm_(\d+)")


@dataclass(frozen=True)
class GpuFacts:
    """What is known of a device; nothing, 0 or None where its driver does not tell.

    Attributes
    ----------
    driver, api, uuid : str
        The driver and its version; the version of Vulkan; the device's UUID in hexadecimal digits.
    subgroups : tuple of int, or None
        The least and the largest number of threads that run together.
    features : frozenset of str, or None
        The features that it has, as Vulkan calls them.
    chip, vendor : int
        NVIDIA's number of the architecture, such as 80; the maker's number in Vulkan.
    """

    driver: str = ""
    api: str = ""
    uuid: str = ""
    subgroups: tuple[int, int] | None = None
    features: frozenset[str] | None = None
    chip: int = 0
    vendor: int = 0


def read(text: str) -> GpuFacts:
    """Return what is in the text of IREE's ``dump_device_info``; the rest stays unknown."""
    fields = dict(_FIELD.findall(text))
    flags = dict(_PAIR.findall(fields.get("features", "")))
    counts = dict(_PAIR.findall(fields.get("subgroup", "")))
    subgroups = None
    if counts.get("size", "").isdecimal():
        least, most = (
            counts[key] if counts.get(key, "").isdecimal() else counts["size"]
            for key in ("minSubgroupSize", "maxSubgroupSize")
        )
        subgroups = (int(least), int(most))
    chip = _CHIP.search(text)
    vendor = re.fullmatch(r"0x[0-9a-fA-F]{1,8}", fields.get("vendor_id", ""))
    driver = f"{fields.get('driver', '')} {fields.get('driver_info', '')}".strip()
    return GpuFacts(
        driver=driver,
        api=fields.get("api", ""),
        uuid=fields.get("device_uuid", ""),
        subgroups=subgroups,
        features=frozenset(k for k, v in flags.items() if v == "yes") if flags else None,
        chip=int(chip[1]) if chip else 0,
        vendor=int(vendor[0], 16) if vendor else 0,
    )


def lacking(facts: GpuFacts, needs: Mapping[str, Any]) -> str:
    """Say what a module `needs` that a device lacks, or nothing.

    `needs` is ``{"subgroups": [32], "features": ["shaderInt8"], "chip": 80}`` or a part of it;
    what the driver does not tell is taken to be there.
    """
    sizes = needs.get("subgroups", ())
    if facts.subgroups and sizes:
        least, most = facts.subgroups
        if not any(least <= size <= most for size in sizes):
            wanted = " or ".join(map(str, sizes))
            has = str(least) if least == most else f"{least} to {most}"
            return f"it needs {wanted} threads that run together, the device has {has}"
    if facts.features is not None:
        missing = sorted(set(needs.get("features", ())) - facts.features)
        if missing:
            return f"the device lacks {', '.join(missing)}"
    if facts.chip and facts.chip < needs.get("chip", 0):
        return f"it is for sm_{needs['chip']} and newer, the device is sm_{facts.chip}"
    return ""
