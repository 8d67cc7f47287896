"""Ternary weights: one scale for all, halves to 0, and two packings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lowc.passes.formats import binary_codes, ternary
from lowc.passes.formats.binary_codes import BinaryCodes

WEIGHTS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=3, max_side=9),
    elements=st.floats(-(2.0**120), 2.0**120, width=32),
)
CODES = hnp.arrays(
    np.int8, st.tuples(st.integers(1, 4), st.integers(1, 43)), elements=st.integers(-1, 1)
)


@given(weight=WEIGHTS)
@settings(max_examples=150, deadline=None)
def test_equals_the_definition(weight):
    found = ternary.quantize(weight)
    mean = sum(abs(float(w)) for w in weight.ravel()) / weight.size
    assert found.scale == pytest.approx(max(mean, 1e-5), rel=1e-6)
    for code, w in zip(found.codes.ravel(), weight.ravel(), strict=True):
        ratio = np.float32(w) / found.scale
        assert code == (0 if abs(ratio) <= 0.5 else np.sign(ratio))


def test_a_half_is_rounded_to_zero():
    weight = np.array([[1, -1, 0.5, -0.5], [2, 1, 1, 1]], np.float32)
    found = ternary.quantize(weight)
    assert found.scale == 1
    assert found.codes.tolist() == [[1, -1, 0, 0], [1, 1, 1, 1]]
    assert (ternary.dequantize(found) == found.codes).all()


def test_zeros_have_the_smallest_scale():
    found = ternary.quantize(np.zeros((2, 3), np.float32))
    assert found.scale == np.float32(1e-5) and not found.codes.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_what_has_no_mean(bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        ternary.quantize(np.array([1, bad], np.float32))


def test_refuses_nothing():
    with pytest.raises(ValueError, match="empty"):
        ternary.quantize(np.zeros((0, 4), np.float32))


@pytest.mark.parametrize("packing", ternary.PER_BYTE)
@given(codes=CODES)
@settings(deadline=None)
def test_packings_round_trip(packing, codes):
    k = codes.shape[1]
    packed = ternary.pack(codes, packing)
    assert packed.shape == (len(codes), -(-k // ternary.PER_BYTE[packing]))
    assert (ternary.unpack(packed, k, packing) == codes).all()
    assert packed.size * 8 / codes.size == pytest.approx(ternary.bits_per_weight(k, packing))


def test_the_first_code_has_the_lowest_place():
    codes = np.array([[1, -1, 0, 1, -1, 1]], np.int8)
    assert ternary.pack(codes, "bits").tolist() == [[2 + (1 << 4) + (2 << 6), 0 + (2 << 2) + 80]]
    assert ternary.pack(codes, "trits").tolist() == [[2 + 9 + 2 * 27, 2 + 3 + 9 + 27 + 81]]


@given(codes=CODES, seed=st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_a_product_adds_and_subtracts(codes, seed):
    x = np.random.default_rng(seed).integers(-99, 100, (2, codes.shape[1])).astype(np.float32)
    found = ternary.product(x, ternary.Ternary(codes, np.float32(0.25)))
    assert (found == x.astype(int) @ codes.T.astype(int) * 0.25).all()


@given(n=st.integers(1, 9), k=st.integers(1, 100), group=st.sampled_from([32, 64, 128]))
@settings(max_examples=30, deadline=None)
def test_two_planes_of_signs_are_the_codes(n, k, group):
    codes = np.random.default_rng(n * k).integers(-1, 2, (n, k)).astype(np.int8)
    fmt = BinaryCodes(2, group, n, 1)
    coded = ternary.as_planes(codes, fmt)
    assert coded.terms.shape == (1, -(-k // group), 2, 1)
    assert np.array_equal(binary_codes.decode(coded, fmt, k), codes)
