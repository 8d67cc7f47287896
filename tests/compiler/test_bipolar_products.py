"""Products of bipolar integers, against their definition to the bit."""

import functools

import lowc
import ml_dtypes
import numpy as np
import pytest
import torch
from lowc.compiler.frontend import open_model
from lowc.compiler.pipeline import passes_for
from lowc.compiler.recipe import Recipe, load_recipe
from lowc.compiler.target import load_target
from lowc.errors import InternalError, UserError
from lowc.passes import annotations
from lowc.passes.formats import bipolar_products
from lowc.passes.forms import Form, Rule
from lowc.passes.runner import Runner
from lowc.passes.verify_no_multiplication import verify_no_multiplication
from products.linear import compile_linear

CASES = {
    # name: (shape of q, shape of k, planes, scales, element, dynamic rows)
    "signs": ((2, 3, 5, 32), (2, 3, 7, 32), 1, "f32", torch.float32, False),
    "signs, powers of two": ((2, 3, 5, 40), (2, 3, 7, 40), 1, "power", torch.float32, False),
    "one matrix, dynamic": ((5, 33), (7, 33), 1, "f32", torch.float32, True),
    "shorter than a word": ((4, 5, 9), (4, 1, 9), 2, "power", torch.float32, False),
    "four planes, dynamic": ((3, 6, 70), (3, 2, 70), 4, "f32", torch.float32, True),
    "bf16": ((3, 6, 64), (3, 4, 64), 3, "f32", torch.bfloat16, False),
}  # fmt: skip


class Product(torch.nn.Module):
    def forward(self, q, k):
        return q @ k.transpose(-1, -2)


def recipe_of(planes, scales):
    return Recipe("test", (Rule("*", Form("bipolar", planes=planes, scales=scales)),))


def values(shape, seed):
    """Ordinary rows, and some of zeros, of huge and tiny numbers, with infinity and with NaN.

    No number or product is subnormal: IREE's threads take such numbers for zeros.
    """
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    rows = x.reshape(-1, shape[-1])
    for place, factor in ((0, 0.0), (1, 1e20), (2, 1e-15)):
        rows[place] *= np.float32(factor)
    if len(rows) > 6:
        rows[5, 3], rows[6, 0] = np.inf, np.nan
    rows[-1] = -np.abs(rows[-1])
    return x


def expected(q, k, planes, scales):
    coded = [bipolar_products.encode(rows, planes) for rows in (q, k)]
    return bipolar_products.product(*coded, planes, scales)


def check(name, target, *, kernels=True):
    q_shape, k_shape, planes, scales, element, is_dynamic = CASES[name]
    q, k = values(q_shape, 1), values(k_shape, 2)
    rows = {len(q_shape) - 2: torch.export.Dim("rows", min=2, max=64)} if is_dynamic else None
    example = tuple(torch.ones(shape, dtype=element) for shape in (q_shape, k_shape))
    program = torch.export.export(Product(), example, dynamic_shapes=(rows, None))
    artifact = lowc.compile(program, recipe_of(planes, scales), target, kernels=kernels)
    (row,) = artifact.report["matmuls"]
    assert row["form"] == "bipolar" and "XOR" in row["lowering"], row
    assert ("bits counted in bytes" in row["lowering"]) == (kernels and target == "cpu"), row
    if element is torch.bfloat16:
        q, k = (np.clip(x, -1e30, 1e30).astype(ml_dtypes.bfloat16) for x in (q, k))
    found = lowc.load(artifact)(q, k)
    wanted = expected(q, k, planes, scales)
    assert np.isfinite(wanted).any()
    if element is torch.bfloat16:
        wanted = wanted.astype(ml_dtypes.bfloat16)
    assert np.array_equal(found, wanted, equal_nan=True)


@pytest.mark.parametrize("name", CASES)
def test_cpu(name):
    check(name, "cpu")


@pytest.mark.parametrize("name", CASES)
def test_cpu_without_kernels(name):
    check(name, "cpu", kernels=False)


@pytest.mark.vulkan
@pytest.mark.parametrize("name", ["signs", "signs, powers of two", "four planes, dynamic"])
def test_vulkan(name):
    check(name, "vulkan")


def test_one_plane_is_the_sign_and_the_mean_magnitude():
    x = np.array([[3.0, -1.0, 0.0, -0.0]], np.float32)
    coded = bipolar_products.encode(x, 1)
    assert coded.codes.tolist() == [[1, 0, 1, 1]] and coded.scales.tolist() == [1.0]
    y = np.array([[1.0, 1.0, -2.0, 4.0]], np.float32)
    found = bipolar_products.product(coded, bipolar_products.encode(y, 1), 1, "f32")
    assert found.tolist() == [[(1 - 1 - 1 + 1) * 2.0]]


@pytest.mark.parametrize("planes", [1, 2, 4])
def test_rows_give_nan_only_where_they_hold_nan_or_infinity(planes):
    x = np.full((4, 8), 3e38, np.float32)  # the sum is beyond f32
    x[1, ::2] *= -1
    x[2, 3], x[3, 0] = np.inf, np.nan
    coded = bipolar_products.encode(x, planes)
    assert np.isnan(coded.scales).tolist() == [False, False, True, True]
    assert np.isfinite(coded.scales[:2]).all()
    largest = 2**planes - 1
    assert coded.codes[1].tolist() == [0, largest] * 4
    ones = bipolar_products.encode(np.ones((1, 8), np.float32), planes)
    for scales in ("f32", "power"):
        found = bipolar_products.product(coded, ones, planes, scales)
        assert np.isnan(found[:, 0]).tolist() == [False, False, True, True]
        assert found[1, 0] == 0


@pytest.mark.parametrize("planes", [2, 3, 4])
def test_more_planes_round_to_odd_steps(planes):
    x = np.random.default_rng(planes).standard_normal((20, 50)).astype(np.float32)
    coded = bipolar_products.encode(x, planes)
    largest = 2**planes - 1
    value = (2.0 * coded.codes - largest) * coded.scales[:, None]
    # Half the distance of two codes, which is two steps.
    assert np.abs(value - x).max() <= coded.scales.max() * (1 + 1e-5)
    assert (np.abs(value - x) <= coded.scales[:, None] * (1 + 1e-5)).all()
    exact = x @ x.T
    found = bipolar_products.product(coded, coded, planes, "f32")
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert error < {2: 0.6, 3: 0.3, 4: 0.15}[planes]


def test_scales_are_the_nearest_powers_of_two_in_the_logarithm():
    scales = np.array([1.0, 1.4142134, 1.4142137, 3.0, 1e-38, 3e38, np.nan], np.float32)
    found = bipolar_products.fields(scales)
    assert found.tolist() == [96, 96, 97, 98, 0, 224, bipolar_products.SPECIAL]


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.qkv = torch.nn.Linear(32, 96)

    def forward(self, x):
        q, k, v = (part.view(2, 6, 2, 16).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)


def test_the_recipe_rewrites_queries_times_keys_alone():
    x = torch.randn(2, 6, 32)
    artifact = lowc.compile(torch.export.export(Attention().eval(), (x,)), "matadd")
    forms = {row["name"]: row["form"] for row in artifact.report["matmuls"]}
    assert forms == {name: "bipolar" if name.endswith(":qk") else "exact" for name in forms}
    assert sum(form == "bipolar" for form in forms.values()) == 1
    row = next(row for row in artifact.report["matmuls"] if row["form"] == "bipolar")
    outputs = 2 * 2 * 6 * 6
    # A word holds all 16 inputs; two scales multiply each sum.
    assert row["operations"]["xori.i32"] == row["operations"]["math.ctpop.i32"] == outputs
    assert row["operations"]["mulf.f32"] == 2 * outputs
    assert row["energy_picojoules"] < row["energy_exact_picojoules"] / 4
    assert np.isfinite(lowc.load(artifact)(x.numpy())).all()


WEIGHTS = {
    # planes, scales, m at compile time, rows at run time
    "signs, dynamic rows": (1, "f32", None, [1, 6]),
    "three planes, powers of two": (3, "power", 5, [5]),
}


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weight_is_stored_in_planes_of_signs(name, kernels, tmp_path):
    planes, scales, m, counts = WEIGHTS[name]
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((33, 70)).astype(np.float32)
    weight[0] = 0
    form = Form("bipolar", planes=planes, scales=scales)
    compiler = functools.partial(lowc.compile, kernels=kernels)
    artifact = compile_linear(tmp_path, weight, form, m, compiler=compiler)
    (row,) = artifact.report["matmuls"]
    assert "weight and activation as" in row["lowering"], row
    assert ("bits counted in bytes" in row["lowering"]) == kernels, row
    # 70 bits take three words a plane, and a scale one.
    assert row["bits_per_weight"] == pytest.approx(32 * (3 * planes + 1) / 70)
    module = lowc.load(artifact)
    for count in counts:
        x = rng.standard_normal((count, 70)).astype(np.float32)
        assert np.array_equal(module(x), expected(x, weight, planes, scales))


def test_a_weight_with_infinity_is_refused(tmp_path):
    weight = np.ones((8, 64), np.float32)
    weight[3, 5] = np.inf
    with pytest.raises(UserError, match="NaN or infinity"):
        compile_linear(tmp_path, weight, Form("bipolar", planes=1), 2)


@pytest.mark.parametrize("scales", ["f32", "power"])
def test_the_verifier_sees_the_body(scales):
    program = torch.export.export(Product(), (torch.ones(3, 40), torch.ones(4, 40)))
    recipe = recipe_of(1, scales)
    with open_model(program) as model:
        elements = passes_for(recipe, load_target("cpu"))
        place = next(i for i, e in enumerate(elements) if "verify" in getattr(e, "name", ""))
        Runner(elements[:place]).run(model.module)
        seen = verify_no_multiplication(model.module)
        assert seen == (1 if scales == "f32" else 2)
        # Scales in f32 do multiply, after the product: taken for a part of it, they are found.
        scaled = [
            op for op in annotations.operations(model.module) if annotations.AFTER in op.attributes
        ]
        assert len(scaled) == (scales == "f32")
        for op in scaled:
            annotations.set_text(op, annotations.PART, annotations.text(op, annotations.AFTER))
            with pytest.raises(InternalError, match=r"multiplies: arith\.mulf"):
                verify_no_multiplication(model.module)


def test_the_recipe_is_for_attention():
    rules = load_recipe("matadd").rules
    assert [(rule.match, rule.form.form) for rule in rules] == [("*:qk", "bipolar"), ("*", "exact")]
