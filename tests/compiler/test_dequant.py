"""Dequant-fused products on the CPU and on Vulkan, against NumPy on the stored codes."""

import lowc
import numpy as np
import pytest
from products.linear import Form, compile_linear, stored_weight, tolerance

I4 = Form("dequant", "i4", 32)
CASES = {
    # name: (n, k, form, m at compile time, rows at run time, element)
    "one row, fused": (24, 64, I4, 1, [1], "f32"),
    "four rows, fused": (24, 64, I4, 4, [4], "f32"),
    "many rows, ahead": (24, 64, I4, 33, [33], "f32"),
    "dynamic rows, both sides": (24, 64, I4, None, [1, 4, 5, 40], "f32"),
    "zero point": (16, 64, Form("dequant", "i4", 16, symmetric=False), None, [1, 9], "f32"),
    "8 bits": (16, 96, Form("dequant", "i8", 32), None, [2, 9], "f32"),
    "8 bits, zero point": (16, 96, Form("dequant", "i8", 32, symmetric=False), None, [2, 9], "f32"),
    "tail group": (7, 70, I4, None, [1, 9], "f32"),
    "tail group, zero point": (7, 70, Form("dequant", "i4", 32, False), None, [1, 9], "f32"),
    "K below the group": (5, 9, I4, None, [1, 9], "f32"),
    "odd K, one group": (5, 33, Form("dequant", "i4", 0), None, [1, 9], "f32"),
    "odd K, one group, 8 bits, zero point": (
        5, 33, Form("dequant", "i8", 0, False), None, [1, 9], "f32",
    ),
    "f16 weights": (16, 64, I4, None, [1, 9], "f16"),
    "bf16 weights, zero point": (16, 64, Form("dequant", "i4", 32, False), None, [1, 9], "bf16"),
    "2 bits": (16, 70, Form("dequant", "i2", 32), None, [1, 9], "f32"),
    "3 bits, zero point": (16, 70, Form("dequant", "i3", 32, False), None, [1, 9], "f32"),
    "7 bits": (16, 70, Form("dequant", "i7", 0), None, [1, 9], "f32"),
    "f8E4M3FN": (16, 70, Form("dequant", "f8E4M3FN", 32), None, [1, 9], "f32"),
    "f8E5M2, one group": (16, 70, Form("dequant", "f8E5M2", 0), None, [1, 9], "f32"),
    "f4E2M1": (16, 70, Form("dequant", "f4E2M1", 16), None, [1, 9], "f32"),
    "nf4": (16, 70, Form("dequant", "nf4", 64), None, [1, 9], "bf16"),
}  # fmt: skip
ON_VULKAN = [
    "one row, fused", "dynamic rows, both sides", "tail group, zero point", "8 bits",
    "3 bits, zero point", "f8E4M3FN", "nf4",
]  # fmt: skip


def check(case, target, folder):
    n, k, form, m, rows, element = case
    generator = np.random.default_rng(n * k)
    weight = generator.standard_normal((n, k)).astype(np.float32)
    weight[0] = 0  # a row of zeros has scale 0
    artifact = compile_linear(folder, weight, form, m, target, element)
    (row,) = artifact.report["matmuls"]
    assert row["form"] == "dequant", row
    module = lowc.load(artifact)
    value = stored_weight(weight, form, element)
    dtype = module.manifest.inputs[0].dtype
    for count in rows:
        x = generator.standard_normal((count, k)).astype(np.float32)
        if dtype != "float32":
            import ml_dtypes

            x = x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16)
        found = module(x)
        expected = x.astype(np.float64) @ value.T
        assert found.shape == expected.shape
        assert (np.abs(found - expected) <= tolerance(x.astype(np.float64), value)).all()
        assert not found[:, 0].any()


@pytest.mark.parametrize("name", CASES)
def test_cpu(name, tmp_path):
    check(CASES[name], "cpu", tmp_path)


@pytest.mark.vulkan
@pytest.mark.parametrize("name", ON_VULKAN)
def test_vulkan(name, tmp_path):
    check(CASES[name], "vulkan", tmp_path)


def test_what_would_grow_stays_exact(tmp_path):
    weight = np.ones((4, 2), np.float32)
    artifact = compile_linear(tmp_path, weight, I4, 1)
    (row,) = artifact.report["matmuls"]
    assert row["form"] == "exact" and row["requested"] == "dequant"
    assert "K = 2 is too short: 48 bits a weight where 32 are stored" in row["lowering"]
    assert row["bits_per_weight"] == 32
    assert (lowc.load(artifact)(np.ones((1, 2), np.float32)) == 2).all()


def test_report_tells_short_quantised_rows_from_exact_ones(tmp_path):
    weight = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    (row,) = compile_linear(tmp_path, weight, Form("dequant", "i8", 16), 1).report["matmuls"]
    assert row["form"] == "dequant" and row["bits_per_weight"] == pytest.approx(160 / 6)


def test_infinite_weight_is_refused(tmp_path):
    weight = np.ones((4, 32), np.float32)
    weight[2, 5] = np.inf
    with pytest.raises(lowc.UserError, match=r"parameter 'w': the weight cannot be stored anew"):
        compile_linear(tmp_path, weight, I4, 1)
    assert not list(tmp_path.glob("*.vmfb")) and not list(tmp_path.glob(".lowc*"))


def test_archive_holds_only_codes(tmp_path):
    weight = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
    artifact = compile_linear(tmp_path, weight, I4, 1)
    stored = 64 * 128 // 2 + 64 * 4 * 4
    assert stored <= artifact.parameters_path.stat().st_size < stored + 4096
    assert artifact.report["matmuls"][0]["bits_per_weight"] == 5.0
