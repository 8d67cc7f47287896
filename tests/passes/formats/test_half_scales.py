"""Scales of f16 with a factor for each row, against their definition: what is lost is tiny."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lowc.compiler import feedback
from lowc.passes.formats import half_scales, integer, small_floats, weights
from lowc.passes.formats.half_scales import factors_of
from lowc.passes.formats.integer import GroupedInteger, dequantize, quantize


def by_scalars(row, fmt):
    """Factor, and scales in f16, of one row of whole groups of symmetric integers."""
    largest = max(abs(float(value)) for value in row)
    exponent = int(np.floor(np.log2(largest))) if largest else 0
    factor = 2.0 ** max(exponent - min(max(exponent, -3), 10), -100)
    groups = row.reshape(-1, fmt.group)
    scales = [np.float32(max(abs(value) for value in one)) / np.float32(fmt.highest)
              for one in groups]  # fmt: skip
    return factor, [np.float16(min(scale / np.float32(factor), 65504)) for scale in scales]


@given(
    bits=st.integers(2, 8), exponent=st.integers(-110, 120), seed=st.integers(0, 99),
    spread=st.integers(0, 12),
)  # fmt: skip
def test_equals_the_definition(bits, exponent, seed, spread):
    rng, fmt = np.random.default_rng(seed), GroupedInteger(bits, 16, True, "f16")
    sizes = np.repeat(2.0 ** -rng.integers(0, spread + 1, (3, 4)), 16, axis=1)
    weight = (rng.uniform(-1, 1, (3, 64)) * sizes * 2.0**exponent).astype(np.float32)
    found = quantize(weight, fmt)
    for row, factor, scales in zip(weight, found.factors, found.scales, strict=True):
        wanted_factor, wanted = by_scalars(row, fmt)
        assert factor == wanted_factor
        assert scales.tolist() == [float(half) * factor for half in wanted]
    stored = half_scales.halves(found.scales, found.factors[:, None])
    assert (stored.astype(np.float64) * found.factors[:, None] == found.scales).all()


def test_rows_of_usual_size_and_of_zeros_have_no_factor():
    weight = np.zeros((5, 32), np.float32)
    weight[1:, 3] = 0.125, 1, 2047, -0.5
    assert (factors_of(weight) == 1).all()
    assert factors_of(np.float32([[0.124], [2048], [2e38], [1e-40]])).tolist() == [
        0.5, 2, 2.0**117, 2.0**-100,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["i2", "i4", "i8", "nf4", "f8E4M3FN", "f4E2M1"])
@pytest.mark.parametrize("size", [1e-25, 1e-6, 0.02, 1.0, 1e4, 1e6, 3e37])
def test_it_is_nearly_as_good_as_f32_whatever_the_size(name, size):
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((8, 128)) * size).astype(np.float32)
    errors = [
        np.linalg.norm((weights.rounded(weight, name, 32, scales=scales) - weight) / size)
        for scales in ("f32", "f16")
    ]
    assert errors[1] <= errors[0] * 1.01


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_error_is_at_most_half_a_step(bits, symmetric):
    rng = np.random.default_rng(1)
    sizes = 10.0 ** rng.integers(-30, 30, (20, 1)) * 2.0 ** -rng.integers(0, 6, (20, 128))
    weight = (rng.standard_normal((20, 128)) * sizes).astype(np.float32)
    found = quantize(weight, GroupedInteger(bits, 32, symmetric, "f16"))
    step = np.repeat(found.scales, 32, axis=1).astype(np.float64)
    # The largest code may be clipped where the scale was rounded down: by 2^-11 of it, or by more
    # where a scale is below the normal halves.
    largest = np.abs(weight).max(axis=1, keepdims=True)
    lost = (np.abs(weight) * 2.0**-10 + largest * 2.0 ** (bits - 22)) * (1 if symmetric else 2)
    allowed = step * (0.501 if symmetric else 1.001) + lost
    assert (np.abs(dequantize(found, 128).astype(np.float64) - weight) <= allowed).all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_group_whose_scale_is_lost_has_codes_of_zero(symmetric):
    weight = np.full((1, 64), 1e-9, np.float32)
    weight[0, 0] = 100
    found = quantize(weight, GroupedInteger(4, 32, symmetric, "f16"))
    assert found.scales[0, 1] == 0 and not found.codes[0, 1].any()
    assert not dequantize(found, 64)[0, 32:].any() and dequantize(found, 64)[0, 0] > 99
    small = small_floats.quantize(weight, small_floats.SMALL_FLOATS["nf4"], 32, "f16")
    assert not small_floats.dequantize(small, small_floats.SMALL_FLOATS["nf4"], 64)[0, 32:].any()


def test_halves_end_where_f16_does():
    """Only error feedback gets there, whose groups grow: they are clipped, and are no infinity."""
    grown = np.float32([1e9])
    assert half_scales.rounded(grown, np.float32([1])) == 65504
    fmt = GroupedInteger(4, 2, True, "f16")
    scales, _ = integer.ranges(np.float32([[7e9, 1]]), fmt, np.float32([1]))
    assert scales == 65504


def test_error_feedback_has_the_factors_of_its_rows():
    rng = np.random.default_rng(2)
    weight = (rng.standard_normal((6, 96)) * 10.0 ** rng.integers(-20, 20, (6, 1))).astype("f")
    x = rng.standard_normal((200, 96)) @ rng.standard_normal((96, 96))
    moments = x.T @ x
    errors = []
    for scales in ("f32", "f16"):
        fmt = GroupedInteger(4, 32, True, scales)
        found = feedback.integers(weight, feedback.Feedback.of(moments), fmt)
        assert (found.factors is None) == (scales == "f32")
        stored = dequantize(found, 96).astype(np.float64)
        sizes = np.abs(weight).max(axis=1, keepdims=True)
        errors.append(feedback.output_error(weight / sizes, stored / sizes, moments))
    assert (found.factors == factors_of(weight)).all()
    assert errors[1] < errors[0] * 1.05


def test_rows_near_the_end_of_f32_become_zeros():
    """As the definition says: of 4 bits below 2^-122."""
    for size, is_kept in ((2.0**-122, True), (2.0**-123, False), (1e-40, False)):
        weight = np.full((1, 32), size, np.float32)
        scales = half_scales.rounded(weight[:, :1] / np.float32(7), half_scales.factors_of(weight))
        assert (scales > 0).all() == is_kept
