"""Products by weights in few bits through the whole road, on every vector unit that can be run."""

import lowc
import numpy as np
import pytest
from lowc.passes.forms import Form
from lowc.passes.kernels.tiles import ISAS
from products import units
from products.linear import compile_linear, stored_weight, tolerance

FORMS = [
    Form("dequant", weights="i4", group=32, symmetric=False),
    Form("dequant", weights="i4", group=16),
    Form("dequant", weights="i8", group=0, symmetric=False),
    Form("dequant", weights="i8", group=128),
    Form("dequant", weights="i2", group=48, symmetric=False),
    Form("dequant", weights="i3", group=64),
    Form("dequant", weights="i5", group=32, symmetric=False),
    Form("dequant", weights="i6", group=16),
    Form("dequant", weights="i7", group=64, symmetric=False),
    Form("dequant", weights="nf4", group=64),
    Form("dequant", weights="f4E2M1", group=48),
    Form("dequant", weights="f8E4M3FN", group=16),
    Form("dequant", weights="f8E5M2", group=0),
    Form("dequant", weights="i4", group=32, symmetric=False, scales="f16"),
    Form("dequant", weights="nf4", group=64, scales="f16"),
]
ROWS = (1, 2, 3, 4, 5, 11, 12, 70, 150)


def name(form):
    halves = "h" if form.scales == "f16" else ""
    return f"{form.weights}g{form.group}{'' if form.symmetric else 'z'}{halves}"


def weight_of(n, k, seed):
    """A weight with groups of zeros, of equal numbers, and of one large one."""
    weight = np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32)
    weight[0] = 0
    weight[1, : k // 2] = 3.5
    weight[2, k // 2] = 1e4
    weight[3] *= 1e-9
    return weight


@pytest.mark.slow
@pytest.mark.parametrize("unit", units.FLOAT_UNITS)
@pytest.mark.parametrize("form", FORMS, ids=name)
def test_every_number_of_rows(tmp_path, unit, form):
    target = units.target(unit)
    n, k = 77, 200
    weight = weight_of(n, k, form.bits)
    artifact = compile_linear(tmp_path, weight, form, None, target)
    (row,) = artifact.report["matmuls"]
    assert "codes in registers up to 4 rows" in row["lowering"]
    assert form.has_integer_weights or f"blocks, {form.weights} " in row["lowering"]
    has_halves = form.scales == "f16" and ISAS[unit].halves
    assert ("scales in f16" in row["lowering"]) == has_halves
    if form.has_integer_weights and form.bits == 4 and form.group == 32:
        groups, zero = -(-k // 32), 0 if form.symmetric else 8
        of_group = 4 * 32 + zero + (16 if has_halves else 32)
        wanted = (of_group * groups + 32 * has_halves) / k
        assert row["bits_per_weight"] == pytest.approx(wanted)
    module = lowc.load(artifact)
    value = stored_weight(weight, form)
    for m in ROWS:
        x = np.random.default_rng(m).standard_normal((m, k)).astype(np.float32)
        found = np.asarray(module(x))
        assert (np.abs(found - x.astype(np.float64) @ value.T) <= tolerance(x, value)).all(), m


@pytest.mark.slow
@pytest.mark.parametrize("m", [1, 4, 6, 150])
def test_known_rows(tmp_path, m):
    form = FORMS[0]
    weight = weight_of(200, 290, m)
    artifact = compile_linear(tmp_path, weight, form, m)
    x = np.random.default_rng(m).standard_normal((m, 290)).astype(np.float32)
    found, value = np.asarray(lowc.load(artifact)(x)), stored_weight(weight, form)
    assert (np.abs(found - x.astype(np.float64) @ value.T) <= tolerance(x, value)).all()


@pytest.mark.slow
@pytest.mark.parametrize("m", [2, 9])
def test_infinities_stay_what_they_are(tmp_path, m):
    """Zero points are subtracted from codes, not from sums: no infinity meets its negative."""
    form = FORMS[0]
    weight = np.random.default_rng(0).uniform(1, 2, (40, 64)).astype(np.float32)
    artifact = compile_linear(tmp_path, weight, form, m)
    x = np.abs(np.random.default_rng(1).standard_normal((m, 64))).astype(np.float32)
    x[0, 5], x[1, 7] = np.inf, np.nan
    value = stored_weight(weight, form)
    assert (value > 0).all()
    found = np.asarray(lowc.load(artifact)(x))
    assert (found[0] == np.inf).all() and np.isnan(found[1]).all()
    assert np.isfinite(found[2:]).all()


@pytest.mark.parametrize(("m", "where"), [(1, "inside"), (9, "ahead of")])
def test_the_report_says_why_there_is_no_kernel(tmp_path, m, where):
    form = Form("dequant", weights="i3", group=16)
    (row,) = compile_linear(tmp_path, weight_of(8, 64, 0), form, m).report["matmuls"]
    assert "stock code generation (groups of 16 codes of 3 bits end within" in row["lowering"]
    assert f"dequantised {where} the product" in row["lowering"]


@pytest.mark.slow
def test_only_what_is_read_is_stored(tmp_path):
    """The codes of the portable form are not stored beside those in panels."""
    form = FORMS[0]
    artifact = compile_linear(tmp_path, weight_of(128, 256, 0), form, 1)
    stored = 128 * 256 // 2 + 128 * 8 * (4 + 1)
    assert stored <= artifact.parameters_path.stat().st_size < stored + 8192
