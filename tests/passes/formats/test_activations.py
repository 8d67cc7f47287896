"""Activations in 8 bits against their definition, scalar by scalar, and products in exact numbers."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lowc.passes.formats import activations, integer

ANY = st.floats(width=32, allow_nan=True, allow_infinity=True)
ROWS = hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 40)), elements=ANY)


def one_group(values):
    """The definition in f32, one scalar at a time: codes and scale."""
    f32 = np.float32
    patterns = [int(np.float32(v).view(np.uint32)) & 0x7FFFFFFF for v in values]
    amax = np.uint32(max(patterns, default=0)).view(np.float32)
    if amax < f32(2.0**-120):
        return [0] * len(values), f32(0)
    with np.errstate(all="ignore"):
        scale, reciprocal = f32(amax / f32(127)), f32(f32(127) / amax)
        scaled = [f32(v * reciprocal) for v in values]
    return [0 if math.isnan(v) else round(float(v)) for v in scaled], scale


def same(a, b):
    return (math.isnan(a) and math.isnan(b)) or a == b


@given(x=ROWS, group=st.sampled_from([1, 4, 16]), per_row=st.booleans())
@settings(max_examples=200, deadline=None)
def test_equals_the_definition(x, group, per_row):
    found = activations.quantize(x, group, per_row=per_row)
    groups = -(-x.shape[1] // group)
    assert found.codes.shape == (len(x), groups, group) and found.has_row_scale == per_row
    for row, values in enumerate(x):
        parts = [values] if per_row else np.split(values, range(group, len(values), group))
        codes = found.codes[row].reshape(-1)
        for i, part in enumerate(parts):
            wanted, scale = one_group(part)
            assert codes[i * group :][: len(part)].tolist() == wanted
            assert same(found.scales[row] if per_row else found.scales[row, i], scale)
        assert not codes[x.shape[1] :].any()


@given(x=hnp.arrays(np.float32, (2, 32), elements=st.floats(-(2.0**99), 2.0**99, width=32)))
@settings(deadline=None)
def test_error_is_half_a_step(x):
    found = activations.quantize(x, 16, per_row=False)
    value = found.codes.astype(np.float64) * found.scales[..., None]
    step = np.repeat(found.scales, 16, axis=1).astype(np.float64)
    assert (np.abs(value.reshape(2, 32) - x) <= step * 0.50002 + 2.0**-119).all()


@pytest.mark.parametrize("per_row", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_makes_the_row_nan(bad, per_row):
    x = np.ones((2, 32), np.float32)
    x[1, 3] = bad
    fmt = integer.GroupedInteger(4, 16, symmetric=True)
    weight = integer.quantize(np.vstack([np.ones((1, 32)), np.zeros((1, 32))]).astype("f"), fmt)
    y = activations.product(activations.quantize(x, 16, per_row=per_row), weight)
    assert np.isfinite(y[0]).all() and np.isnan(y[1]).all()


def test_largest_f32_and_the_smallest_that_count():
    top = np.float32(np.finfo(np.float32).max)
    x = np.array([[top, -top], [2.0**-120, -(2.0**-121)], [2.0**-121, 0]], np.float32)
    found = activations.quantize(x, 2, per_row=True)
    assert found.codes.reshape(3, 2).tolist() == [[127, -127], [127, -64], [0, 0]]
    assert np.isfinite(found.scales).all() and found.scales[2] == 0


@given(
    bits=st.integers(2, 8), symmetric=st.booleans(), per_row=st.booleans(),
    k=st.integers(1, 70), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_product_is_that_of_the_values(bits, symmetric, per_row, k, seed):
    generator = np.random.default_rng(seed)
    fmt = integer.GroupedInteger(bits, 16, symmetric)
    weight = integer.quantize(generator.standard_normal((3, k)).astype(np.float32), fmt)
    x = activations.quantize(generator.standard_normal((2, k)).astype("f"), 16, per_row=per_row)
    y, bound = activations.product(x, weight), activations.rounding(x, weight)
    zeros = weight.zeros if weight.zeros is not None else np.zeros(weight.scales.shape, int)
    for m, n in np.ndindex(2, 3):
        total = Fraction(0)
        for g, i in np.ndindex(x.codes.shape[1:]):
            sx = x.scales[m] if per_row else x.scales[m, g]
            w = (int(weight.codes[n, g, i]) - int(zeros[n, g])) * Fraction(
                float(weight.scales[n, g])
            )
            total += w * int(x.codes[m, g, i]) * Fraction(float(sx))
        assert abs(float(total) - y[m, n]) <= 1e-12 * abs(float(total)) + bound[m, n] * 1e-6


def test_longest_group_fills_an_i32():
    for bits, symmetric in ((8, False), (8, True), (4, False), (2, True)):
        highest = integer.GroupedInteger(bits, 16, symmetric).highest
        most = activations.longest_group(highest)
        assert most * 127 * highest < 2**31 <= (most + 1) * 127 * highest
