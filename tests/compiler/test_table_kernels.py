"""Kernels of products by look-up through the whole road, beside the definition."""

import re

import lowc
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from lowc.compiler.recipe import Recipe
from lowc.passes.forms import Rule
from products import units
from products.linear import compile_linear
from products.signs import form_of, lut_form, product, rows_of, ternary_form

CASES = {
    # name: (n, k, form, m at compile time, rows at run time, element)
    "dynamic rows": (24, 256, form_of(2, tables="i8"), None, [1, 4, 9], "f32"),
    "one row": (33, 1000, form_of(3, tables="i8"), 1, [1], "f32"),
    "6 bits, short spans": (80, 96, form_of(3, 32, tables="i6", span=16), 33, [33], "f32"),
    "7 bits, odd sizes": (7, 171, form_of(1, 128, 1, 2, "i7", 32), 3, [3], "f32"),
    "one group, one scale": (5, 200, form_of(4, 0, 0, 1, "i8", 128), None, [3], "f32"),
    "scales of blocks": (150, 256, form_of(2, 64, 3, 3, "i6"), 2, [2], "f32"),
    "ternary": (70, 300, ternary_form("i8"), None, [1, 5], "f32"),
    "ternary, one row": (70, 301, ternary_form("i7"), 1, [1], "f32"),
    "five trits in a byte": (70, 301, ternary_form("i7", packing="trits"), None, [1, 5], "f32"),
    "five trits, one row": (300, 96, ternary_form("i8", packing="trits"), 1, [1], "f32"),
    "integers": (70, 256, lut_form("i4"), 1, [1], "f32"),
    "integers, zero points": (33, 171, lut_form("i3", 64, False, span=32), None, [1, 5], "f32"),
    "integers, one group": (7, 300, lut_form("i2", 0, False, "i7"), 3, [3], "f32"),
    "scales of all": (70, 256, form_of(2, 64, 0, tables="i8"), 2, [2], "f32"),
    "bf16": (16, 170, form_of(2, 64, tables="i8"), None, [1, 9], "bf16"),
}
HAVE = ("avx512vbmi", "avx512vnni", "avx512", "avx2vnni", "avx2")


def check(found, x, weight, form):
    """Fail unless `found` is what f32 sums in any order make of the definition."""
    wanted = product(x, weight, form)
    # A scale of 0 takes part in the sums of the kernel: times NaN it is NaN.
    broken = np.isnan(wanted).any(axis=1)
    assert np.isnan(found[broken]).all()
    found, wanted, x = found[~broken], wanted[~broken], x[~broken]
    assert np.isfinite(wanted).all() and np.isfinite(found).all()
    weights = np.abs(weight).astype(np.float64).max(axis=1) * (form.planes or 4)
    bound = np.abs(x).astype(np.float64).sum(axis=1)[:, None] * weights * 2.0**-18 + 1e-37
    assert (np.abs(found - wanted) <= bound).all()


def check_lowering(row, kernels=True):
    """Fail unless the report says which kernel the product got, or why it got none."""
    lowering = row["lowering"]
    if kernels and units.here() in HAVE:
        assert re.search(r"look-up kernel \((vpshufb|vpermb, vpdpbusd|vpermi2b), ", lowering), row
    else:
        why = "kernels of look-ups are for CPUs with AVX2" if kernels else "lowc's kernels are off"
        assert f"stock code generation ({why})" in lowering, row


@pytest.mark.parametrize("name", CASES)
def test_cpu(name, tmp_path):
    n, k, form, m, rows, element = CASES[name]
    generator = np.random.default_rng(n * k)
    weight = generator.standard_normal((n, k)).astype(np.float32)
    weight[0] = 0
    given = weight
    if element == "bf16":
        import ml_dtypes

        given = weight.astype(ml_dtypes.bfloat16).astype(np.float32)
    artifact = compile_linear(tmp_path, weight, form, m, element=element)
    (row,) = artifact.report["matmuls"]
    check_lowering(row)
    module = lowc.load(artifact)
    for count in rows:
        x = rows_of(generator, count, k)
        x[np.abs(x) > 2.0**100] = 2.0**100
        if element == "bf16":
            x = x.astype(ml_dtypes.bfloat16)
        check(module(x), x.astype(np.float32), given, form)


@given(
    planes=st.integers(1, 4), group=st.sampled_from([0, 16, 32, 64, 128]),
    outputs=st.integers(0, 9), terms=st.integers(1, 3), span=st.sampled_from([16, 32, 64, 128]),
    tables=st.sampled_from(["i6", "i7", "i8"]), n=st.integers(1, 150),
    k=st.integers(64, 300), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_form_and_shape(
    tmp_path_factory, planes, group, outputs, terms, span, tables, n, k, seed
):
    form = form_of(planes, group, outputs, terms, tables, min(span, group or span))
    generator = np.random.default_rng(seed)
    scale = 10.0 ** generator.integers(-9, 9, (n, 1))
    weight = (generator.standard_normal((n, k)) * scale).astype("f")
    artifact = compile_linear(tmp_path_factory.mktemp("linear"), weight, form, None)
    (row,) = artifact.report["matmuls"]
    if row["form"] == "exact":
        assert "too small" in row["lowering"]
        assume(False)  # another example in its place
    check_lowering(row)
    x = rows_of(generator, 6, k)
    x[np.abs(x) > 2.0**60] = 2.0**60
    check(lowc.load(artifact)(x), x, weight, form)


def test_the_archive_has_the_bits_that_the_report_says(tmp_path):
    weight = np.random.default_rng(0).standard_normal((128, 512)).astype(np.float32)
    artifact = compile_linear(tmp_path, weight, form_of(3, tables="i8"), 1, units.CHIPS["avx2"])
    (row,) = artifact.report["matmuls"]
    # The sum of a scale's terms takes two bytes.
    assert row["bits_per_weight"] == 3 * (1 + 16 / 128)
    stored = artifact.parameters_path.stat().st_size - row["bits_per_weight"] * weight.size / 8
    assert 0 <= stored < 8192


@pytest.mark.parametrize(
    ("form", "target", "why"),
    [
        (form_of(2, 8, 3, tables="i8"), units.CHIPS["avx2"], "a span of 8 is no multiple of 16"),
        (form_of(2, tables="i8"), "cpu:x86-64", "kernels of look-ups are for CPUs with AVX2"),
    ],
)
def test_what_stays_with_stock_code(form, target, why, tmp_path):
    weight = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    (row,) = compile_linear(tmp_path, weight, form, 3, target).report["matmuls"]
    assert why in row["lowering"]


def test_what_follows_is_done_by_the_kernel_and_tables_are_shared(tmp_path):
    import torch

    class Gated(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.gate = torch.nn.Linear(256, 70), torch.nn.Linear(256, 70, bias=False)

        def forward(self, x):
            return torch.nn.functional.silu(self.gate(x)) * self.up(x)

    model = Gated().eval()
    x = torch.randn(5, 256)
    recipe = Recipe("test", (Rule("*", form_of(2, tables="i8")),))
    program = torch.export.export(model, (x,))
    found, stock = (
        lowc.load(lowc.compile(program, recipe, output=tmp_path / f"{on}.vmfb", kernels=on))
        for on in (True, False)
    )
    # What the report says is read of a chip that has the kernels, whatever this machine is.
    place, chip = tmp_path / "chip.vmfb", units.CHIPS["avx2"]
    rows = lowc.compile(program, recipe, chip, output=place).report["matmuls"]
    lowerings = sorted(row["lowering"] for row in rows)
    assert "+ bias" in lowerings[0] or "+ bias" in lowerings[1], lowerings
    assert all("look-up kernel" in text for text in lowerings)
    np.testing.assert_allclose(found(x.numpy()), stock(x.numpy()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [30, 32, 33, 64])
def test_the_reshapes_and_pads_of_a_model_are_no_part_of_the_product(k, tmp_path):
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(k, 40)

        def forward(self, x):
            heads = x.reshape(2, 6, 4, 20).transpose(1, 2).reshape(2, 24, 20)
            return self.fc(torch.nn.functional.pad(heads, (0, k - 20)))

    torch.manual_seed(0)
    x = torch.randn(2, 6, 80)
    program = torch.export.export(Model(), (x,))
    recipe = Recipe("mine", (Rule("*", form_of(2, 32, tables="i8", span=32)),))
    found = []
    for kernels in (True, False):
        place = tmp_path / f"{kernels}.vmfb"
        artifact = lowc.compile(program, recipe, output=place, kernels=kernels)
        (row,) = artifact.report["matmuls"]
        check_lowering(row, kernels)
        found.append(lowc.load(artifact)(x.numpy()))
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)
