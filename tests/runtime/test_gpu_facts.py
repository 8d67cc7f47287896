"""What a driver tells of a GPU, and what is said of one that a module does not fit."""

from __future__ import annotations

import pytest
from lowc.runtime.devices import list_devices
from lowc.runtime.gpu_facts import GpuFacts, lacking, read

TEXT = """name: Some GPU
api: 1.3.230
vendor_id: 0x10de
driver: NVIDIA
driver_info: 570.1
device_uuid: 0011
features: shaderInt8=yes cooperativeMatrix=no shaderIntegerDotProduct=yes
subgroup: size=32 operations=0x000000bf minSubgroupSize=16 maxSubgroupSize=64
"""


def test_reads_a_device():
    features = frozenset({"shaderInt8", "shaderIntegerDotProduct"})
    assert read(TEXT) == GpuFacts("NVIDIA 570.1", "1.3.230", "0011", (16, 64), features, 0, 0x10DE)
    assert read("- gpu-arch-name: sm_90\n").chip == 90


@pytest.mark.parametrize(
    "text", ["", "features: \nsubgroup: size=x\n", "vendor_id: 0xzz\n\0\n: :\n"]
)
def test_what_is_not_told_is_unknown(text):
    facts = read(text)
    assert (facts.subgroups, facts.features, facts.vendor, facts.chip) == (None, None, 0, 0)
    assert not lacking(facts, {"subgroups": [32], "features": ["shaderInt8"], "chip": 80})


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ({}, ""),
        ({"subgroups": [], "features": []}, ""),
        ({"subgroups": [8, 16]}, ""),
        ({"subgroups": [8]}, "it needs 8 threads that run together, the device has 16 to 64"),
        ({"features": ["shaderInt8"]}, ""),
        ({"features": ["shaderInt8", "b", "a"]}, "the device lacks a, b"),
        ({"chip": 80}, ""),
    ],
)
def test_what_a_device_lacks(needs, said):
    assert lacking(read(TEXT), needs) == said


def test_an_older_chip_is_named():
    facts = read("sm_75")
    assert lacking(facts, {"chip": 75}) == ""
    assert lacking(facts, {"chip": 80}) == "it is for sm_80 and newer, the device is sm_75"


@pytest.mark.vulkan
def test_this_machines_device():
    facts = next(d.facts for d in list_devices() if d.name.startswith("vulkan://"))
    assert facts.driver
    assert len(facts.uuid) == 32
    assert facts.features
    assert 1 <= facts.subgroups[0] <= facts.subgroups[1]
