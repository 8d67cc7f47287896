"""Products with a weight for CUDA: which kernel they get, and code that ptxas takes.

What the kernels calculate is checked on a GPU, by ``python -m lowc.tools.tune.on_gpu``.
"""

import numpy as np
import pytest
from lowc.compiler.measuring.fingerprint import fingerprint
from lowc.compiler.target import load_target
from lowc.compiler.tile_choice import TileChoice
from lowc.passes.tiling.record import Machine
from products.linear import Form, compile_linear

pytestmark = pytest.mark.slow


def integers(weights, group, symmetric=True, scale="group"):
    return Form("dequant", weights, group, symmetric, activations="i8", activation_scale=scale)


def floats(weights, group, symmetric=True):
    return Form("dequant", weights, group, symmetric)


CASES = {
    # name: (m, n, k, form, what the report says of the kernel)
    "w4a8, one row": (1, 96, 256, integers("i4", 32), "integer kernel for GPUs (dp4a)"),
    "w4a8, two rows, zero points": (2, 95, 300, integers("i4", 64, False), "GPUs (dp4a)"),
    "w4a8, groups of 16": (1, 64, 128, integers("i4", 16, False), "GPUs (dp4a)"),
    "w4a8, many rows": (70, 96, 256, integers("i4", 32), "(mma m16n8k32)"),
    "w4a8, any rows": (None, 96, 384, integers("i4", 128), "(mma m16n8k32)"),
    "w8a8, one row": (1, 64, 200, integers("i8", 0, scale="row"), "GPUs (dp4a)"),
    "w8a8, many rows": (300, 256, 512, integers("i8", 0, scale="row"), "(mma m16n8k32)"),
    "w8a8, zero points": (9, 37, 100, integers("i8", 0, False, "row"), "(mma m16n8k32)"),
    "w8a8, groups and a scale per row": (9, 64, 256, integers("i8", 64, False, "row"), "mma"),
    "w4a16, one row": (1, 96, 256, floats("i4", 16, False), "dequantising kernel for GPUs"),
    "w4a16, odd sizes": (3, 95, 300, floats("i4", 32), "dequantising kernel for GPUs"),
    "w4a16, a short last group": (2, 32, 300, floats("i4", 256), "dequantising kernel for GPUs"),
    "w8a16": (2, 64, 128, floats("i8", 0, False), "dequantising kernel for GPUs"),
    "lmul": (64, 128, 64, Form("lmul"), "64 x 128 a workgroup"),
    "pam, few rows": (5, 40, 32, Form("pam"), "sums a thread"),
    "w4a16, many rows": (70, 64, 128, floats("i4", 32), "kernel for GPUs, 8 x 4 sums a thread"),
    "w4a16, any rows": (None, 63, 128, floats("i4", 32), "kernel for GPUs, 8 x 4 sums a thread"),
    "w3a16": (1, 64, 128, floats("i3", 32), "kernel for GPUs, 1 x 4 sums a thread"),
    # Why the kernel for few rows is none for them.
    "w4a16, groups of 48": (1, 64, 192, floats("i4", 48),
                            "not by the kernel for few rows: groups of 48 are neither 16, 32, 64"),
    "w3a16, one row": (1, 64, 128, floats("i3", 32), "for few rows: it reads weights of 4 or 8"),
    # What stays with IREE's code, and why.
    "nf4": (1, 64, 128, floats("nf4", 32), "read integers, not nf4"),
    "w3a8": (1, 64, 128, integers("i3", 32), "weights of 4 or 8 bits, not 3"),
    "w4a8, groups of 48": (1, 64, 192, integers("i4", 48), "groups of 48 are neither"),
    "w4a8, groups of 16, many rows": (70, 64, 128, integers("i4", 16), "too short for tensor"),
    "f32": (4, 8, 16, Form("exact"), "f32 kernels are for CPUs"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_compiles(tmp_path, name):
    m, n, k, form, said = CASES[name]
    weight = np.random.default_rng(0).standard_normal((n, k)).astype(np.float32)
    artifact = compile_linear(tmp_path, weight, form, m, "cuda")
    (row,) = artifact.report["matmuls"]
    assert said in row["lowering"], row["lowering"]


def test_a_ranker_of_cpus_says_nothing_of_gpus(tmp_path):
    """One row whose groups no threads share goes to tensor cores, also where tiles are ranked."""
    weight = np.random.default_rng(0).standard_normal((16, 2304)).astype(np.float32)
    choice = TileChoice(cost_model="roofline")
    artifact = compile_linear(tmp_path, weight, integers("i8", 1152), 1, "cuda", tiles=choice)
    (row,) = artifact.report["matmuls"]
    assert "(mma m16n8k32)" in row["lowering"] and row["predicted_seconds"] is None
    assert row["tile_reason"] == "roofline knows too little of this product: default tile"


def test_a_gpu_has_no_facts_of_this_processor():
    assert fingerprint(load_target("cuda:sm_89")) == Machine("cuda:sm_89", "ptx")
    assert fingerprint(load_target("vulkan")) == Machine("vulkan:portable", "spirv")
