"""What is measured before a model is compiled: where, and what became of tiles that failed."""

import json
import math

import numpy as np
import pytest
from lowc.compiler.device_targets import device_for, runs
from lowc.compiler.measuring import top
from lowc.compiler.measuring.fingerprint import fingerprint, measured_on, of_device
from lowc.compiler.measuring.rounds import Finding
from lowc.compiler.target import load_target
from lowc.passes.select_tiles import _measured
from lowc.passes.tiling import space
from lowc.runtime.gpu_facts import GpuFacts
from products.problems import problem

ONE = problem("f32", "avx512vnni", 1, 128, 384, 384)
TILES = [tiling.text for tiling in space.candidates(ONE)[:4]]
BYTES = {"storageBuffer16BitAccess", "storageBuffer8BitAccess", "shaderFloat16", "shaderInt8"}
NVIDIA = GpuFacts(
    vendor=0x10DE, subgroups=(32, 32),
    features=frozenset(BYTES | {"shaderIntegerDotProduct", "cooperativeMatrix"}),
)  # fmt: skip


def test_tiles_that_failed_are_told_and_carried_along():
    found = [
        Finding(TILES[0], "ok", {"seconds": 1e-4}), Finding(TILES[1], "wrong", {}, "3 differ"),
        Finding(TILES[2], "crash", {}, "ended by SIGILL"), Finding(TILES[3], "wrong", {}, "all"),
    ]  # fmt: skip
    times = top.times_of(found)
    assert times == {TILES[0]: 1e-4, **dict.fromkeys(TILES[1:], math.inf)}
    assert top.said_of_failed(ONE, found) == (
        f"3 of 4 tiles of {ONE} failed (1 crash, 2 wrong), such as {TILES[1]} 3 differ"
    )
    assert top.said_of_failed(ONE, found[:1]) == ""
    # As the pass that chooses reads them.
    read = _measured(top.to_text({ONE.key: times}))[ONE.key]
    assert {one.text: seconds for one, seconds in read.items()} == times
    assert np.isfinite(list(read.values())).sum() == 1
    assert json.loads(top.to_text({ONE.key: times}))[ONE.key] == times


@pytest.mark.parametrize(
    ("target", "facts", "does"),
    [
        ("cuda:sm_90", GpuFacts(chip=90), True),  # PTX of sm_89
        ("cuda:sm_86", GpuFacts(chip=80), False),
        ("cuda", GpuFacts(chip=75), False),
        ("vulkan:ada", NVIDIA, True),
        ("vulkan:ampere", NVIDIA, True),
        ("vulkan:portable", NVIDIA, True),
        ("vulkan", NVIDIA, True),
        ("vulkan:rdna2", NVIDIA, False),
        ("vulkan:llvmpipe", NVIDIA, False),
    ],
)
def test_which_code_a_device_runs(target, facts, does):
    assert runs(facts, load_target(target).gpu) is does


def test_a_cpu_is_this_one_only():
    assert device_for(load_target("cpu")) == "cpu"
    assert device_for(load_target("cpu:haswell")) is None
    assert measured_on(load_target("cpu")) == fingerprint(load_target("cpu"))


@pytest.mark.vulkan
@pytest.mark.parametrize("name", ["vulkan", "vulkan:portable"])
def test_records_of_any_device_are_found_where_tuning_files_them(name):
    target = load_target(name)
    top.check(target)
    assert device_for(target).startswith("vulkan://")
    assert measured_on(target) == of_device(target)


def test_what_no_device_runs_is_filed_as_the_target_says():
    target = load_target("vulkan:valhall")
    assert measured_on(target) == fingerprint(target)
