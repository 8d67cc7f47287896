"""Bipolar integers: values of bits, products by counting, and zero points."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lowc.passes.formats import bipolar


@pytest.mark.parametrize("bits", range(1, 9))
def test_bits_mean_minus_one_and_one(bits):
    codes = np.arange(2**bits)
    values = [sum((2 * (u >> i & 1) - 1) << i for i in range(bits)) for u in codes]
    assert bipolar.from_unsigned(codes, bits).tolist() == values
    assert (bipolar.to_unsigned(values, bits) == codes).all()
    assert max(values) == bipolar.largest(bits) == -min(values)


@pytest.mark.parametrize("value", [0, 2, -6, 17, -17])
def test_even_and_large_numbers_have_no_code(value):
    with pytest.raises(ValueError, match="odd numbers up to 15"):
        bipolar.to_unsigned([1, value], 4)


@given(
    n=st.integers(1, 4), m=st.integers(1, 8), k=st.integers(1, 70), seed=st.integers(0, 2**32 - 1)
)
def test_a_product_counts_bits(n, m, k, seed):
    generator = np.random.default_rng(seed)
    x, weight = generator.integers(0, 2**n, (3, k)), generator.integers(0, 2**m, (5, k))
    found = bipolar.product(bipolar.planes(x, n), bipolar.planes(weight, m), k)
    exact = bipolar.from_unsigned(x, n) @ bipolar.from_unsigned(weight, m).T
    assert (found == exact).all()


@given(bits=st.integers(1, 8), zero=st.integers(0, 255))
def test_a_zero_point_moves_with_the_values(bits, zero):
    codes = np.arange(2**bits)
    moved = bipolar.from_unsigned(codes, bits) - bipolar.zero_point(zero, bits)
    assert (moved == 2 * (codes - zero)).all()
