"""Which kernels a target gets: IREE is asked for the vectors of a chip."""

from __future__ import annotations

import platform
from pathlib import Path

import lowc
import pytest
from lowc.compiler import backend
from lowc.compiler.target import load_target
from lowc.passes.kernels import tiles


@pytest.mark.parametrize(
    ("target", "unit"),
    [
        ("cpu:skylake-avx512", "avx512"),
        ("cpu:cascadelake", "avx512vnni"),
        ("cpu:sapphirerapids", "avx512vbmi"),
        ("cpu:znver4", "avx512vbmi"),
        ("cpu:alderlake", "avx2vnni"),
        ("cpu:haswell", "avx2"),
        ("cpu:znver3", "avx2"),
        ("cpu:x86-64", "portable"),
        ("cpu:nehalem", "portable"),
        ("cpu:sandybridge", "portable"),  # 256-bit vectors of floats only
        ("cpu:btver2", "portable"),
        ("cpu:knl", "avx2"),  # 512-bit vectors without bytes and words
        ("vulkan", "spirv"),
        ("vulkan:rdna3", "spirv"),
        ("cuda", "ptx"),
        ("cuda:sm_86", "ptx"),
    ],
)
def test_units(target: str, unit: str) -> None:
    if target.startswith("cpu") and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("these are names of x86 chips")
    assert backend.vector_unit(load_target(target)) == unit


def test_the_host_has_what_the_system_says() -> None:
    info = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not info.exists():
        pytest.skip("knows only Linux on x86")
    flags = set(info.read_text().partition("flags")[2].partition("\n")[0].split())
    unit = backend.vector_unit(load_target("cpu"))
    assert unit in tiles.ISAS
    if unit.startswith("avx512"):
        assert "avx512f" in flags
        assert (unit in ("avx512vnni", "avx512vbmi")) == ("avx512_vnni" in flags)
        assert (unit == "avx512vbmi") == ({"avx512_vnni", "avx512vbmi"} <= flags)
    elif unit.startswith("avx2"):
        assert "avx2" in flags
        assert (unit == "avx2vnni") == ("avx_vnni" in flags)
    else:
        assert "avx2" not in flags


def test_another_processor_is_portable() -> None:
    arm = "--iree-llvmcpu-target-triple=aarch64-unknown-unknown-eabi-elf"
    target = load_target("cpu:generic")
    assert backend.vector_unit(target.with_flags((*target.flags, arm))) == "portable"


def test_an_unknown_chip_is_no_matter_here_but_fails_to_compile(tmp_path: Path) -> None:
    target = load_target("cpu:no-such-chip")
    assert backend.vector_unit(target) == "portable"
    (tmp_path / "w.mlir").write_text(
        "func.func @main(%x: tensor<2x3xf32>, %y: tensor<3x4xf32>) -> tensor<2x4xf32> {\n"
        "%zero = arith.constant 0.0 : f32\n"
        "%e = tensor.empty() : tensor<2x4xf32>\n"
        "%f = linalg.fill ins(%zero : f32) outs(%e : tensor<2x4xf32>) -> tensor<2x4xf32>\n"
        "%r = linalg.matmul ins(%x, %y : tensor<2x3xf32>, tensor<3x4xf32>)\n"
        "outs(%f : tensor<2x4xf32>) -> tensor<2x4xf32>\n"
        "return %r : tensor<2x4xf32>\n}\n"
    )
    with pytest.raises(lowc.UserError, match="iree-compile does not know this chip") as caught:
        lowc.compile(tmp_path / "w.mlir", "lmul", target)
    assert caught.value.where == "target 'cpu:no-such-chip'"


def test_chips_with_wide_floats_only_compile(tmp_path: Path) -> None:
    import torch

    layer = torch.nn.Linear(64, 24).eval()
    program = torch.export.export(layer, (torch.randn(3, 64),))
    for chip in ("sandybridge", "knl"):
        artifact = lowc.compile(program, "w4a8", f"cpu:{chip}", output=tmp_path / f"{chip}.vmfb")
        assert "integer kernel" in artifact.report["matmuls"][0]["lowering"]
