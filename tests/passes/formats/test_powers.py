"""Sums of powers of two and products by them, against arithmetic on floats."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lowc.passes.formats import powers

NUMBERS = hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(-(2.0**31), 2.0**31))
TERMS = hnp.arrays(np.uint8, 8, elements=st.integers(0, 255))
# 2^(1/2) - 1 of a power of two is left at most, and that of the number itself is a bit more.
LEFT = np.sqrt(2) - 1


def number(term):
    """The definition of one term."""
    if term == 0:
        return 0.0
    return (-1.0 if term >> 7 else 1.0) * 2.0 ** ((term & 127) - 96)


@given(terms=TERMS)
def test_a_byte_is_a_sign_and_an_exponent(terms):
    assert powers.values(terms[:, None]).tolist() == [number(int(term)) for term in terms]
    # Not to the bit: NumPy adds eight numbers in another order.
    each = [number(int(term)) for term in terms]
    assert abs(powers.values(terms) - sum(each)) <= sum(map(abs, each)) * len(each) * 2.0**-53


@given(numbers=NUMBERS, count=st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_each_term_leaves_less_than_half(numbers, count):
    terms = powers.project(numbers, count)
    error = np.abs(powers.values(terms) - numbers)
    allowed = (LEFT * 1.0001) ** count * np.abs(numbers) + 2.0**powers.LOWEST
    assert (error <= allowed).all()


@given(numbers=NUMBERS)
@settings(max_examples=200, deadline=None)
def test_later_terms_are_smaller(numbers):
    size = np.abs([[number(int(term)) for term in row] for row in powers.project(numbers, 3)])
    assert (size[:, 1:] <= size[:, :-1] / 2).all()


@pytest.mark.parametrize("exponent", [-95, -40, -1, 0, 1, 30])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_threshold_is_the_geometric_mean(exponent, sign):
    middle = np.sqrt(2.0) * 2.0**exponent
    below, above = np.nextafter(middle, 0), np.nextafter(middle, np.inf)
    found = powers.values(powers.project([sign * below, sign * above], 1))
    assert found.tolist() == [sign * 2.0**exponent, sign * 2.0 ** (exponent + 1)]


def test_what_is_left_is_coded_next():
    assert powers.values(powers.project([7.0, 0.7, 3.0], 2)).tolist() == [7.0, 0.75, 3.0]
    assert powers.project([7.0], 3).tolist() == [[96 + 3, 128 + 96, 0]]  # 8 - 1


def test_small_numbers_become_none():
    smallest = 2.0**powers.LOWEST
    found = powers.project([0.0, smallest, smallest * 0.71, smallest * 0.7, 5e-324], 2)
    assert found[:, 0].tolist() == [0, 1, 1, 0, 0]
    assert powers.values(found)[:2].tolist() == [0.0, smallest]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_what_is_no_number(bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        powers.project([1.0, bad], 1)


def test_refuses_what_is_too_large():
    assert powers.values(powers.project([2.0**31], 1)) == [2.0**31]
    assert powers.values(powers.project([1.41 * 2.0**31], 1)) == [2.0**31]
    for number_ in (1.42 * 2.0**31, -(2.0**32), 1e300):
        with pytest.raises(ValueError, match=r"beyond 2\^31"):
            powers.project([number_], 1)


def expected_shift(x, factor):
    """What the module's docstring says, by multiplication in f64."""
    if factor == 0:
        return np.float32(0)
    if not np.isfinite(x) or abs(x) < 2.0**-126:
        return np.float32(np.copysign(x if not np.isfinite(x) else 0, np.copysign(1, x) * factor))
    product = float(x) * factor
    if abs(product) < 2.0**-126:
        return np.float32(np.copysign(0, product))
    if abs(product) >= 2.0**128:
        return np.float32(np.copysign(np.inf, product))
    return np.float32(product)


def same(found, wanted):
    """Equal to the bit, sign of zero included; NaNs are all alike but for their sign."""
    numbers = ~np.isnan(wanted)
    assert (np.isnan(found) == ~numbers).all()
    assert found[numbers].view(np.uint32).tolist() == wanted[numbers].view(np.uint32).tolist()


@given(
    x=hnp.arrays(np.uint32, 8, elements=st.integers(0, 2**32 - 1)).map(lambda b: b.view("f4")),
    terms=TERMS,
)
@settings(max_examples=300, deadline=None)
def test_a_shift_is_a_product(x, terms):
    wanted = [expected_shift(v, number(int(t))) for v, t in zip(x, terms, strict=True)]
    same(powers.shift(x, terms), np.array(wanted, np.float32))


EDGES = np.array(
    [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        1e-45,
        -1e-45,
        1.1754942e-38,
        1.1754944e-38,
        3.4028235e38,
        1,
        -1.5,
    ],
    np.float32,
)


@pytest.mark.parametrize("term", [0, 128, 1, 129, 95, 96, 97, 127, 224, 255])
def test_edges_of_the_format(term):
    terms = np.full(EDGES.shape, term, np.uint8)
    wanted = [expected_shift(v, number(term)) for v in EDGES]
    same(powers.shift(EDGES, terms), np.array(wanted, np.float32))


def test_nan_stays():
    nan = np.array([np.nan, -np.nan], np.float32)
    assert np.isnan(powers.shift(nan, np.array([96, 224], np.uint8))).all()
    assert powers.shift(nan, np.zeros(2, np.uint8)).tolist() == [0, 0]


@pytest.mark.parametrize("exponent", [-300, -126, -1, 0, 5, 122, 300])
def test_exponents_beyond_those_of_terms(exponent):
    wanted = [expected_shift(v, 2.0**exponent) for v in EDGES]
    found = powers.scale(EDGES, np.full(EDGES.shape, exponent))
    same(found, np.array(wanted, np.float32))


@given(numbers=NUMBERS, count=st.integers(1, 3))
def test_bf16_holds_the_sum_of_a_numbers_terms(numbers, count):
    found = powers.values(powers.project(numbers, count))
    assert np.array_equal(found.astype(ml_dtypes.bfloat16).astype(np.float64), found)


def test_a_term_far_below_the_first_is_dropped():
    assert powers.values(powers.project([1 + 2.0**-7, 1 + 2.0**-8, -4 - 2.0**-5], 3)).tolist() == [
        1 + 2.0**-7, 1, -4 - 2.0**-5,
    ]  # fmt: skip
