"""The damage of layers against NumPy on the stored codes, and the errors of outputs by hand."""

import functools
import math

import lowc
import numpy as np
import pytest
from lowc.compiler import accuracy
from lowc.compiler.accuracy import Comparison, cosines, layer_errors, measured_layers, shadow
from lowc.compiler.recipe import Recipe
from lowc.passes.forms import Rule
from products.linear import Form, compile_linear, stored_weight

I4 = Form("dequant", "i4", 16)
RNG = np.random.default_rng(7)


def expected_error(pairs):
    """(relative rms, slope, scatter) of approximate and exact results."""
    form, exact = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    slope = form @ exact / (exact @ exact)
    norm = np.linalg.norm(exact)
    scatter = np.linalg.norm(form / slope - exact) / norm
    return np.linalg.norm(form - exact) / norm, slope, scatter


@pytest.mark.parametrize(
    ("m", "rows", "element"),
    [(1, [1, 1], "f32"), (40, [40], "f32"), (None, [1, 9], "f32"), (4, [4], "f16")],
    ids=["fused", "ahead", "dynamic", "f16 weights"],
)
def test_a_layer_against_numpy(m, rows, element, tmp_path):
    weight = RNG.standard_normal((24, 48)).astype(np.float16).astype(np.float32)
    artifact = compile_linear(tmp_path, weight, I4, m, element=element, compiler=shadow)
    module = lowc.load(artifact)
    dtype = np.float16 if element == "f16" else np.float32
    inputs = [RNG.standard_normal((count, 48)).astype(dtype) for count in rows]
    wide = [x.astype(np.float64) for x in inputs]
    coded = stored_weight(weight, I4, element)
    expected = expected_error([(x @ coded.T, x @ weight.T) for x in wide])
    assert measured_layers(module) == ["w"]
    (layer,) = layer_errors(module, [[x] for x in inputs])
    assert (layer.name, layer.kind, layer.form) == ("w", "weight", "dequant")
    assert (layer.relative_rms, layer.slope, layer.scatter) == pytest.approx(expected, rel=1e-4)
    assert layer.relative_rms > 0.02 and abs(layer.slope - 1) > 1e-5
    # The model itself stays exact.
    result, sums = module(inputs[0])
    assert np.allclose(result, wide[0] @ weight.T, atol=1e-4)
    assert sums.shape == (1, 3)


@pytest.mark.slow
def test_a_later_layer_reads_what_is_exact(tmp_path):
    import torch

    torch.manual_seed(3)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 32)
    ).eval()  # fmt: skip
    path = tmp_path / "two.pt2"
    torch.export.save(torch.export.export(model, (torch.zeros(8, 64),)), path)
    module = lowc.load(shadow(path, "w4a16", "cpu", tmp_path / "shadow.vmfb"))
    calls = [[RNG.standard_normal((8, 64)).astype(np.float32)] for _ in range(2)]
    form = Form("dequant", "i4", 16, symmetric=False)  # what w4a16 says
    first, _, second = model
    pairs = {"0": [], "2": []}
    for (given,) in calls:
        x = given
        for name, layer in (("0", first), ("2", second)):
            weight = layer.weight.detach().numpy()
            pairs[name].append((x @ stored_weight(weight, form).T, x.astype(np.float64) @ weight.T))
            x = np.maximum(pairs[name][-1][1] + layer.bias.detach().numpy(), 0)
    found = {layer.name: layer for layer in layer_errors(module, calls)}
    for name, expected in pairs.items():
        wanted = expected_error(expected)
        measured = found[name].relative_rms, found[name].slope, found[name].scatter
        assert measured == pytest.approx(wanted, rel=1e-3)
    errors = [layer.relative_rms for layer in layer_errors(module, calls)]
    assert errors == sorted(errors, reverse=True) and len(errors) == 2


def test_a_recipe_that_changes_no_layer_measures_nothing(tmp_path):
    weight = RNG.standard_normal((8, 32)).astype(np.float32)
    artifact = compile_linear(tmp_path, weight, Form(), 2, compiler=shadow)
    module = lowc.load(artifact)
    assert measured_layers(module) == [] and layer_errors(module, [[None]]) == []
    assert [leaf.name for leaf in module.manifest.outputs] == ["0"]


def test_a_form_that_is_refused_does_no_damage(tmp_path):
    weight = RNG.standard_normal((8, 2)).astype(np.float32)  # K is too short for codes
    artifact = compile_linear(tmp_path, weight, I4, 2, compiler=shadow)
    x = RNG.standard_normal((2, 2)).astype(np.float32)
    (layer,) = layer_errors(lowc.load(artifact), [[x]])
    assert (layer.form, layer.relative_rms, layer.slope, layer.scatter) == ("exact", 0, 1, 0)


def test_a_product_by_additions(tmp_path):
    weight = np.ones((8, 32), np.float32) * 1.5
    artifact = compile_linear(tmp_path, weight, Form("pam"), 2, compiler=shadow)
    (layer,) = layer_errors(lowc.load(artifact), [[np.full((2, 32), 1.5, np.float32)]])
    # 1.5 x 1.5 is 2.25, and (1 + 0.5 + 0.5) = 2 where mantissas are added.
    assert layer.form == "pam"
    wanted = 1 / 9, 8 / 9, 0
    assert (layer.relative_rms, layer.slope, layer.scatter) == pytest.approx(wanted, abs=1e-3)


def test_elementwise_rules_change_nothing_here(tmp_path):
    weight = RNG.standard_normal((8, 32)).astype(np.float32)
    rules = (Rule("*", Form("lmul", of="elementwise")), Rule("*", I4))

    def compiler(model, _recipe, target, output):
        return shadow(model, Recipe("both", rules), target, output)

    artifact = compile_linear(tmp_path, weight, I4, 2, compiler=compiler)
    x = RNG.standard_normal((2, 32)).astype(np.float32)
    result, _ = lowc.load(artifact)(x)
    assert np.allclose(result, x @ weight.T, atol=1e-5)


def test_ordinary_artifacts_know_nothing_of_it(tmp_path):
    weight = RNG.standard_normal((8, 32)).astype(np.float32)
    artifact = compile_linear(tmp_path, weight, I4, 2)
    assert "shadows" not in artifact.report and len(artifact.manifest.outputs) == 1


@pytest.mark.parametrize(
    ("sums", "wanted"),
    [
        ((0, 0, 0), (0, 1, 0)),
        ((1, 0, 0), (math.inf, math.nan, math.inf)),
        ((1, 4, -2), (0.5, 0.5, 0)),  # half of the exact value everywhere
        ((2, 4, -2), (math.sqrt(0.5), 0.5, 1)),  # what is left is 0.5, twice that on the scale of 1
        ((4, 4, -4), (1, 0, 0)),  # zeros instead of values
    ],
)
def test_sums_in_words(sums, wanted):
    row = {"name": "fc", "kind": "weight", "shape": "1x2x3", "requested": "lmul", "lowering": "as"}
    found = accuracy._layer_error(row, *map(float, sums))
    assert (found.relative_rms, found.slope, found.scatter) == pytest.approx(wanted, nan_ok=True)


def compare(found, expected, **options):
    comparison = Comparison(**options)
    for a, b in zip(found, expected, strict=True):
        comparison.add(a, b)
    return comparison.errors()


def test_errors_of_outputs_by_hand():
    one = np.array([[3.0, 4.0], [1.0, 0.0]])
    other = np.array([[3.0, 4.5], [0.0, 1.0]])
    errors = compare([[other, 7], [one, 7]], [[one, 7], [one, 7]])
    assert errors.rows == 4 and errors.max_abs == 1
    assert errors.relative_l2 == pytest.approx(math.sqrt((0.25 + 2) / (26 * 2)))
    assert errors.min_cosine == 0
    turned = (9 + 18) / (5 * math.hypot(3, 4.5))
    assert errors.mean_cosine == pytest.approx((turned + 0 + 1 + 1) / 4)


def test_only_floats_count():
    assert compare([[np.array([1, 2]), True]], [[np.array([1, 3]), True]]) is None


def test_nan_is_not_lost():
    good = np.ones((1, 3), np.float32)
    bad = np.array([[1, np.nan, 1]], np.float32)
    errors = compare([[good], [bad], [good]], [[good]] * 3)
    assert math.isnan(errors.max_abs) and math.isnan(errors.min_cosine)
    assert math.isnan(errors.relative_l2)


def test_cosines_of_zeros():
    zero, one = np.zeros((1, 2)), np.ones((1, 2))
    assert [cosines(a, b)[0] for a, b in ((zero, zero), (zero, one), (one, zero))] == [1, 0, 0]


def test_rank_correlation():
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    assert accuracy.spearman(np.array([1, 2, 2, 3]), np.array([5, 6, 7, 8])) == pytest.approx(
        math.sqrt(0.9)
    )
    assert accuracy.spearman(np.arange(9), -(np.arange(9) ** 3)) == pytest.approx(-1)
    assert accuracy.spearman(np.ones(4), np.arange(4)) is None


def test_rank_correlation_is_of_all_rows_of_all_calls():
    angles = np.array([0.0, 0.2, 0.5, 1.1])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    same = compare([[rows[:2] * 3], [rows[2:]]], [[rows[:2]], [rows[2:]]])
    assert same.rank_correlation == pytest.approx(1)  # lengths do not count
    swapped = compare([[rows[:2]], [rows[:1:-1]]], [[rows[:2]], [rows[2:]]])
    assert swapped.rank_correlation < 0.9
    as_cube = functools.partial(np.reshape, shape=(4, 1, 2))
    assert compare([[as_cube(rows)]], [[as_cube(rows)]]).rank_correlation is None
    cubes = compare([[as_cube(rows)]], [[as_cube(rows)]], rank=True)
    assert cubes.rank_correlation == pytest.approx(1)
    assert compare([[rows[:2]]], [[rows[:2]]]).rank_correlation is None  # one pair only
