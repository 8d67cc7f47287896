"""Integer products of 8-bit activations on the CPU and on Vulkan, against their definition."""

import functools

import lowc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lowc.compiler.frontend import parse_module
from lowc.compiler.recipe import Recipe
from lowc.passes import annotations, build, integer_products, outline_integer
from lowc.passes.base import Refusal
from lowc.passes.forms import Rule
from lowc.passes.runner import Runner, parse_pipeline
from products.linear import Form, compile_linear, integer_product

LARGEST = np.finfo(np.float32).max


def form_of(weights, group, symmetric=True, scale="group", scales="f32"):
    return Form(
        "dequant", weights, group, symmetric, activations="i8", activation_scale=scale,
        scales=scales,
    )  # fmt: skip


CASES = {
    # name: (n, k, form, m at compile time, rows at run time, element)
    "w4a8, a scale per group": (24, 64, form_of("i4", 32), None, [1, 4, 5, 33], "f32"),
    "w8a8, a scale per row": (16, 96, form_of("i8", 0, scale="row"), None, [1, 9], "f32"),
    "one row": (24, 64, form_of("i4", 32), 1, [1], "f32"),
    "many rows": (24, 64, form_of("i4", 32, scale="row"), 33, [33], "f32"),
    "zero points": (16, 64, form_of("i4", 16, False), None, [1, 9], "f32"),
    "zero points, a scale per row": (16, 96, form_of("i8", 32, False, "row"), None, [2, 9], "f32"),
    "scales of f16": (24, 70, form_of("i4", 32, scales="f16"), None, [1, 4, 5, 33], "f32"),
    "scales of f16, one row": (19, 96, form_of("i4", 32, scales="f16"), 1, [1], "f32"),
    "zero points, scales of f16": (16, 64, form_of("i4", 16, False, "row", "f16"), None, [1, 9],
                                   "f32"),
    "odd sizes": (7, 71, form_of("i4", 32), None, [1, 9], "f32"),
    "odd sizes, one group, zero point": (5, 33, form_of("i8", 0, False, "row"), None, [3], "f32"),
    "2 bits": (16, 70, form_of("i2", 32), None, [1, 9], "f32"),
    "3 bits, zero points": (16, 70, form_of("i3", 32, False, "row"), None, [1, 9], "f32"),
    "7 bits": (16, 70, form_of("i7", 64), None, [1, 9], "f32"),
    # Longer than the sum of one group may be: 66311 products of i8.
    "many groups": (4, 70016, form_of("i4", 32), 1, [1], "f32"),
    "many groups, a scale per row": (3, 70016, form_of("i8", 32, False, "row"), 2, [2], "f32"),
    "bf16": (16, 70, form_of("i4", 32), None, [1, 9], "bf16"),
}  # fmt: skip
ON_VULKAN = [
    "w4a8, a scale per group", "w8a8, a scale per row", "3 bits, zero points", "scales of f16",
]  # fmt: skip


def rows_of(generator, count, k):
    """Ordinary rows, and some at the edges: zeros, a group of zeros, the largest f32, tiny ones."""
    x = generator.standard_normal((count, k)).astype(np.float32)
    x[1::7] = 0
    x[2::7, : k // 2] = 0
    x[3::7, 0] = LARGEST
    x[4::7] *= np.float32(1e-37)
    return x


def agrees(found, expected, bound):
    """Whether all are within their bound; where a sum may overflow there is none."""
    with np.errstate(invalid="ignore"):
        return bool(((np.abs(found - expected) <= bound) | np.isinf(bound)).all())


def check(case, target, folder, *, kernels=True):
    n, k, form, m, rows, element = case
    generator = np.random.default_rng(n * k)
    weight = generator.standard_normal((n, k)).astype(np.float32)
    weight[0] = 0
    artifact = compile_linear(folder, weight, form, m, target, element, kernels=kernels)
    (row,) = artifact.report["matmuls"]
    assert row["form"] == "dequant" and "in integers" in row["lowering"], row
    assert ("integer kernel" in row["lowering"]) == kernels, row
    module = lowc.load(artifact)
    for count in rows:
        x = rows_of(generator, count, k)
        given = weight
        if element != "f32":
            import ml_dtypes

            x = np.clip(x, -(2.0**100), 2.0**100).astype(ml_dtypes.bfloat16)
            given = weight.astype(ml_dtypes.bfloat16).astype(np.float32)
        found = module(x)
        expected, bound = integer_product(x.astype(np.float32), given, form)
        assert found.shape == expected.shape
        assert agrees(found, expected, bound)
        assert not found[:, 0].any()


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "stock"])
@pytest.mark.parametrize("name", CASES)
def test_cpu(name, kernels, tmp_path):
    check(CASES[name], "cpu", tmp_path, kernels=kernels)


@pytest.mark.vulkan
@pytest.mark.parametrize("name", ON_VULKAN)
def test_vulkan(name, tmp_path):
    check(CASES[name], "vulkan", tmp_path)


any_form_and_shape = given(
    weights=st.sampled_from([f"i{bits}" for bits in range(2, 9)]), symmetric=st.booleans(),
    group=st.sampled_from([0, 16, 32, 48, 64]), scale=st.sampled_from(["row", "group"]),
    n=st.integers(1, 20), k=st.integers(20, 140), seed=st.integers(0, 99),
    scales=st.sampled_from(["f32", "f16"]),
)  # fmt: skip


def check_edges(folder, target, weights, symmetric, group, scale, n, k, seed, scales):
    form = form_of(weights, group, symmetric, scale, scales)
    generator = np.random.default_rng(seed)
    weight = (generator.standard_normal((n, k)) * 10.0 ** generator.integers(-9, 9, (n, 1))).astype(
        "f"
    )
    artifact = compile_linear(folder, weight, form, None, target)
    x = rows_of(generator, 8, k)
    expected, bound = integer_product(x, weight, form)
    assert agrees(lowc.load(artifact)(x), expected, bound)


@any_form_and_shape
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_form_and_shape(tmp_path_factory, **example):
    check_edges(tmp_path_factory.mktemp("linear"), "cpu", **example)


@pytest.mark.vulkan
@any_form_and_shape
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_form_and_shape_on_vulkan(tmp_path_factory, **example):
    check_edges(tmp_path_factory.mktemp("linear"), "vulkan", **example)


@pytest.mark.parametrize("target", ["cpu", pytest.param("vulkan", marks=pytest.mark.vulkan)])
@pytest.mark.parametrize("scale", ["row", "group"])
def test_what_is_not_finite_stays_in_its_row(scale, target, tmp_path):
    form = form_of("i4", 32, scale=scale)
    weight = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    module = lowc.load(compile_linear(tmp_path, weight, form, 4, target))
    x = np.ones((4, 64), np.float32)
    x[1, 3], x[2, 40], x[3, 0] = np.nan, np.inf, -np.inf
    found = module(x)
    expected, bound = integer_product(x, weight, form)
    assert np.isnan(found[1:]).all() and np.isnan(expected[1:]).all()
    assert agrees(found[0], expected[0], bound[0])


def test_energy_counts_bytes_multiplied(tmp_path):
    weight = np.ones((8, 64), np.float32)
    artifact = compile_linear(tmp_path, weight, form_of("i8", 32), 3)
    (row,) = artifact.report["matmuls"]
    operations = row["operations"]
    assert operations["muli.i8"] == operations["addi.i32"] == 3 * 8 * 64
    assert operations["sitofp.i32"] == 3 * 8 * 2 and operations["mulf.f32"] == 2 * 3 * 8 * 2
    assert "muli.i32" not in operations
    assert row["energy_picojoules"] < 0.15 * row["energy_exact_picojoules"]
    assert artifact.report["energy"]["operations"]["math.roundeven.f32"] == 3 * 64


@pytest.mark.parametrize("bits", [4, 8])
def test_a_kernel_stores_zero_points_in_a_byte(bits, tmp_path):
    weight = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    form = form_of(f"i{bits}", 32, symmetric=False)
    artifact = compile_linear(tmp_path, weight, form, 1)
    (row,) = artifact.report["matmuls"]
    assert row["bits_per_weight"] == bits + (32 + 8) / 32
    # What the archive has of the weight is what the report says; the rest is its table of names.
    stored = artifact.parameters_path.stat().st_size - row["bits_per_weight"] * weight.size / 8
    assert 0 <= stored < 8192


def test_scales_of_f16_are_stored_as_such_where_a_kernel_reads_them(tmp_path):
    weight = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    rows, sizes = [], []
    for target in ("cpu", "cpu:x86-64"):
        artifact = compile_linear(tmp_path, weight, form_of("i4", 32, scales="f16"), 1, target)
        rows.append(artifact.report["matmuls"][0])
        sizes.append(artifact.parameters_path.stat().st_size)
    assert [row["bits_per_weight"] for row in rows] == [4 + 16 / 32 + 32 / 512, 5]
    assert ["f16" in row["lowering"] for row in rows] == [True, False]
    assert sizes[0] < sizes[1] - 0.4 * weight.size / 8


@pytest.mark.parametrize("form", [form_of("i3", 32), Form("dequant", "i3", 32)], ids=["i8", "f32"])
def test_a_kernel_stores_the_exact_bits(tmp_path, form):
    weight = np.ones((64, 512), np.float32)
    rows = []
    for kernels in (True, False):
        build_one = functools.partial(lowc.compile, kernels=kernels)
        artifact = compile_linear(tmp_path, weight, form, 1, compiler=build_one)
        rows.append((artifact.report["matmuls"][0], artifact.parameters_path.stat().st_size))
    assert [row["bits_per_weight"] for row, _ in rows] == [4, 9]
    assert rows[0][1] < rows[1][1]


# -- what a kernel is told -------------------------------------------------------------------------

PIPELINE = (
    'builtin.module(lowc-name-matmuls,lowc-assign-forms{{rules=\'[{{"match":"*","form":"dequant",'
    '"weights":"i5","group":32,"symmetric":{symmetric},"activations":"i8",'
    '"activation-scale":"{scale}"}}]\'}},lowc-quantize-weights{words},lowc-quantize-activations,cse)'
)
MODULE = """
util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<3x40x8xf32>
func.func @main(%x: tensor<3x?x40xf32>, %init: tensor<3x?x8xf32>) -> tensor<3x?x8xf32> {
  %w = util.global.load @w : tensor<3x40x8xf32>
  %y = linalg.batch_matmul ins(%x, %w : tensor<3x?x40xf32>, tensor<3x40x8xf32>)
      outs(%init : tensor<3x?x8xf32>) -> tensor<3x?x8xf32>
  return %y : tensor<3x?x8xf32>
}
"""


def described(scale="row", symmetric="true", words=""):
    model = parse_module(MODULE, "test")
    text = PIPELINE.format(scale=scale, symmetric=symmetric, words=words)
    Runner(parse_pipeline(text)).run(model)
    (op,) = annotations.matmuls(model)
    with model.context:
        return model, op, integer_products.match(op)


@pytest.mark.parametrize("scale", ["row", "group"])
@pytest.mark.parametrize("symmetric", ["true", "false"])
def test_a_product_is_recognised(scale, symmetric):
    model, _op, found = described(scale, symmetric)
    with model.context:
        # Neither padded to whole groups nor cut.
        assert str(found.activation.type) == "tensor<3x?x40xf32>"
        assert build.shape_of(found.codes) == [3, 8, 2, 32]
        assert (found.bits, found.group, found.groups) == (5, 32, 2)
        assert found.bits_per_weight == (5 * 32 + (32 if symmetric == "true" else 40)) * 2 / 40
        assert found.per_row == (scale == "row") and found.symmetric == (symmetric == "true")
        sizes = (found.matrices.batch, found.matrices.m, found.matrices.n, found.matrices.k)
        assert sizes == (3, None, 8, 40)


def test_other_products_are_not():
    model = parse_module(MODULE, "test")
    Runner(parse_pipeline("builtin.module(lowc-name-matmuls)")).run(model)
    (op,) = annotations.matmuls(model)
    with model.context:
        assert isinstance(integer_products.match(op), Refusal)
    model, op, found = described(words="{packing=words}")
    assert not isinstance(found, Refusal)
    with model.context:
        refused = outline_integer.match(op, "avx512vnni")
    assert isinstance(refused, Refusal) and "words" in refused.reason


@pytest.mark.parametrize("k", [96, 104])
def test_a_pad_of_the_model_stays_in_the_model(k, tmp_path):
    """It is longer than a group; K of 104 is filled up by lowc besides."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(k, 24)

        def forward(self, x):
            return self.fc(torch.nn.functional.pad(x, (0, k - 20)))

    torch.manual_seed(0)
    x = torch.randn(6, 20)
    program = torch.export.export(Model(), (x,))
    recipe = Recipe("mine", (Rule("*", form_of("i4", 32)),))
    found = []
    for kernels in (True, False):
        place = tmp_path / f"{kernels}.vmfb"
        artifact = lowc.compile(program, recipe, output=place, kernels=kernels)
        (row,) = artifact.report["matmuls"]
        assert ("integer kernel" in row["lowering"]) == kernels, row
        found.append(lowc.load(artifact)(x.numpy()))
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)
