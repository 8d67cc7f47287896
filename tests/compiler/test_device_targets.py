"""Which targets are named for a GPU, by what its driver tells."""

from __future__ import annotations

import pytest
from lowc.compiler.device_targets import targets_of, too_old
from lowc.compiler.target import load_target
from lowc.passes import gpus
from lowc.runtime.gpu_facts import GpuFacts

BYTES = {"storageBuffer16BitAccess", "storageBuffer8BitAccess", "shaderFloat16", "shaderInt8"}
AMD, NVIDIA = 0x1002, 0x10DE


@pytest.mark.parametrize(
    ("chip", "targets"),
    [
        (70, []),
        (75, []),
        (80, ["sm_80", ""]),
        (87, ["sm_86", "sm_80", ""]),
        (90, ["sm_89", "sm_86", "sm_80", ""]),
        (0, [""]),  # unknown
    ],
)
def test_cuda(chip, targets):
    found = targets_of("cuda", GpuFacts(chip=chip))
    assert found == [f"cuda:{name}".removesuffix(":") for name in targets]
    for name in found:
        needed = load_target(name).gpu.needs["chip"]
        assert not chip or needed <= chip


def test_an_old_chip_is_told():
    assert too_old(GpuFacts(chip=70)) == "sm_70 is too old: there is code for sm_80 and newer"
    assert min(gpus.families("cuda")) == "sm_80"


@pytest.mark.parametrize(
    ("vendor", "more", "targets"),
    [
        (AMD, set(), ["rdna1", ""]),
        (AMD, {"shaderIntegerDotProduct"}, ["rdna2", "rdna1", ""]),
        (AMD, {"shaderIntegerDotProduct", "cooperativeMatrix"}, ["rdna3", "rdna2", "rdna1", ""]),
        # Nothing that is told tells them apart: the oldest runs on all.
        (NVIDIA, {"shaderIntegerDotProduct", "cooperativeMatrix"}, ["turing", ""]),
        (NVIDIA, {"shaderIntegerDotProduct"}, [""]),
        (0x9999, set(), [""]),
    ],
)  # fmt: skip
def test_vulkan(vendor, more, targets):
    facts = GpuFacts(vendor=vendor, subgroups=(32, 64), features=frozenset(BYTES | more))
    assert targets_of("vulkan", facts) == [f"vulkan:{n}".removesuffix(":") for n in targets]
