"""GPUs as data: what IREE says of the same families, names, and what is said of unknown ones."""

from __future__ import annotations

import dataclasses
import re
import subprocess

import pytest
from lowc.compiler.backend import iree_compile
from lowc.compiler.target import load_target
from lowc.errors import UserError
from lowc.passes import gpus

ADD = """
func.func @add(%x: tensor<64xf32>) -> tensor<64xf32> {
  %y = arith.addf %x, %x : tensor<64xf32>
  return %y : tensor<64xf32>
}
"""
# What is not IREE's: families that it does not know, 64-bit integers that it does not count with,
# and one size of memory that the chip does not have.
OWN = {
    "vulkan:portable": None,
    "vulkan:valhall": {"compute"},
    "vulkan:adreno": {"compute"},
    "vulkan:turing": {"mma"},
    "vulkan:ampere": {"mma"},
    "vulkan:ada": {"mma"},
    "cuda:sm_86": {"max_workgroup_memory_bytes"},
}
FAMILIES = [gpu for backend in ("vulkan", "cuda") for gpu in gpus.families(backend).values()]


def said_by_iree(*flags: str) -> dict[str, str]:
    """What IREE knows of a target: the limits in its attribute."""
    done = subprocess.run(
        [iree_compile(), "-", *flags, "--compile-to=executable-sources"],
        input=ADD, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.search(r"target_info = #iree_gpu.target<.*?wgp = <(.*?)>>\}>\]", done.stdout)
    assert found is not None
    return dict(re.findall(r"(\w+) = (\[[^\]]*\]|[^,]+)", found[1]))


@pytest.mark.slow
@pytest.mark.parametrize("gpu", FAMILIES, ids=lambda gpu: gpu.name)
def test_limits_are_those_that_iree_knows(gpu):
    ours = said_by_iree(f"--iree-hal-target-device={gpu.spirv_target}")
    assert ours["max_workgroup_memory_bytes"] == str(gpu.memory)
    own = OWN.get(gpu.name, set())
    if own is None:
        return
    backend = gpu.name.partition(":")[0]
    theirs = said_by_iree(
        f"--iree-hal-target-device={backend}", f"--iree-{backend}-target={gpu.chip}"
    )
    compared = set(ours) - own
    assert {key: ours[key] for key in compared} == {key: theirs[key] for key in compared}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vulkan:mali-g715", "vulkan:rx7900xtx", "cuda:rtx4090"])
def test_products_are_of_their_family(name):
    backend, _, chip = name.partition(":")
    gpu = load_target(name).gpu
    theirs = said_by_iree(f"--iree-hal-target-device={backend}", f"--iree-{backend}-target={chip}")
    assert theirs["max_workgroup_memory_bytes"] == str(gpu.memory)
    assert theirs["subgroup_size_choices"] == str(list(gpu.subgroup))


def test_a_target_has_its_gpu():
    assert load_target("cpu").gpu is None
    assert load_target("vulkan").gpu.name == "vulkan:portable"
    assert not load_target("vulkan").gpu.operations
    llvmpipe = load_target("vulkan:llvmpipe").gpu
    assert (llvmpipe.subgroup, llvmpipe.dot4, llvmpipe.memory) == ((8,), True, 32768)
    assert "--iree-cuda-target=sm_80" in load_target("cuda:a100").flags


@pytest.mark.parametrize("chip", ["sm_90", "sm_90a", "sm_100", "sm_120"])
def test_newer_chips_get_ptx_of_the_newest_with_a_note(chip):
    target = load_target(f"cuda:{chip}")
    assert "--iree-cuda-target=sm_89" in target.flags
    assert target.notes == (
        f"{chip} gets PTX of sm_89, which the driver compiles for it when it loads",
    )
    assert load_target("cuda:sm_89").notes == ()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("vulkan:rdna33", "did you mean 'rdna3'?"),
        ("vulkan:lvmpipe", "did you mean 'llvmpipe'?"),
        ("cuda:sm_81", "did you mean 'sm_8"),
        ("vulkan:xyz", "known: a100, ada, "),
    ],
)
def test_an_unknown_chip_names_the_nearest(name, hint):
    with pytest.raises(UserError) as caught:
        load_target(name)
    assert caught.value.what == f"there is no chip '{name.partition(':')[2]}'"
    assert caught.value.where == f"target '{name}'"
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize("chip", ["sm_50", "sm_70", "sm_75"])
def test_chips_that_lack_instructions_of_kernels_are_refused(chip):
    with pytest.raises(UserError, match=f"{chip} is too old: .* sm_80") as caught:
        load_target(f"cuda:{chip}")
    assert caught.value.where == f"target 'cuda:{chip}'" and "'vulkan'" in caught.value.hint


def test_what_a_device_must_have():
    assert gpus.families("cuda")["sm_86"].needs == {"chip": 86}
    assert gpus.families("vulkan")["portable"].needs == {"subgroups": [], "features": []}
    rdna = gpus.families("vulkan")["rdna1"]
    assert rdna.needs["subgroups"] == [32, 64]
    assert "shaderIntegerDotProduct" not in rdna.needs["features"]
    assert "shaderIntegerDotProduct" in dataclasses.replace(rdna, dot4=True).needs["features"]
    ada, rdna3 = (gpus.families("vulkan")[name].needs["features"] for name in ("ada", "rdna3"))
    assert "cooperativeMatrix" in ada and "cooperativeMatrix" in rdna3
    assert "cooperativeMatrix" not in rdna.needs["features"]
