"""A small Llama on other devices: on software Vulkan the CPU's tokens, for CUDA it compiles."""

from __future__ import annotations

import lowc
import pytest
from lowc.tools.llama_model import Shape, build, export

torch = pytest.importorskip("torch")

SHAPE = Shape(64, 1, 4, 2, 48, 96, context=40)
PROMPT = [3, 14, 15, 92, 65]


@pytest.fixture(scope="module")
def entries():
    torch.manual_seed(0)
    return export(build(SHAPE), SHAPE)


@pytest.mark.slow
@pytest.mark.vulkan
@pytest.mark.parametrize("recipe", ["f32", "w4a8"])
def test_software_vulkan_generates_what_the_cpu_generates(entries, recipe, tmp_path):
    found = {}
    for target, device in (("cpu", "cpu"), ("vulkan", "vulkan")):
        artifact = lowc.compile(entries, recipe, target=target, output=tmp_path / f"{target}.vmfb")
        module = lowc.load(artifact, device=device)
        found[target] = list(lowc.generate(module, PROMPT, limit=6))
    assert found["vulkan"] == found["cpu"] and len(found["cpu"]) == 6


@pytest.mark.slow
def test_cuda_gets_both_entries_with_kernels_for_its_weights(entries, tmp_path):
    artifact = lowc.compile(entries, "w4a8", target="cuda", output=tmp_path / "llama.vmfb")
    rows = artifact.report["matmuls"]
    weights = [row for row in rows if "_proj" in row["name"] or "lm_head" in row["name"]]
    assert {row["name"].split("@")[1] for row in weights} == {"prefill", "decode"}
    assert all("integer kernel for GPUs" in row["lowering"] for row in weights)
