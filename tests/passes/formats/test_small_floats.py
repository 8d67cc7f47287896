"""Small floats with a scale per group: the values of each code, nearest values, and zeros."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lowc.passes.formats.small_floats import NF4, SMALL_FLOATS, Minifloat, dequantize, quantize
from lowc.passes.formats.weights import rounded

WEIGHTS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 3), st.integers(1, 40)),
    elements=st.floats(-(2.0**90), 2.0**90, width=32),
)  # fmt: skip


def value(code, fmt):
    """A pattern by the book: sign, exponent and mantissa; None for infinity and NaN."""
    if not isinstance(fmt, Minifloat):
        return NF4[code]
    m = fmt.mantissa_bits
    exponent = code >> m & ((1 << (fmt.bits - 1 - m)) - 1)
    fraction = (code & ((1 << m) - 1)) / (1 << m)
    number = (1 + fraction) * 2.0 ** (exponent - fmt.bias) if exponent else 0.0
    number = number or fraction * 2.0 ** (1 - fmt.bias)
    if number > fmt.top:
        return None
    return -number if code >> (fmt.bits - 1) else number


def values_of(fmt):
    found = [value(code, fmt) for code in range(1 << fmt.bits)]
    return np.array(sorted({v for v in found if v is not None}))


@pytest.mark.parametrize("name", SMALL_FLOATS)
def test_each_code_has_its_value(name):
    fmt = SMALL_FLOATS[name]
    codes = np.arange(1 << fmt.bits, dtype=np.uint8)
    for code, found in zip(codes, fmt.decode(codes), strict=True):
        wanted = value(int(code), fmt)
        assert not np.isfinite(found) if wanted is None else found == np.float32(wanted)
    assert values_of(fmt).max() == fmt.top


def test_values_of_f4_and_nf4():
    assert values_of(SMALL_FLOATS["f4E2M1"]).tolist() == [
        -6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6,
    ]  # fmt: skip
    # Eight quantiles of the normal distribution above zero, seven below, as in the paper: the
    # ends are at the probability 1 - (1/32 + 1/30)/2.
    from statistics import NormalDist

    end = 1 - (1 / 32 + 1 / 30) / 2
    normal = NormalDist()
    above = [normal.inv_cdf(0.5 + (end - 0.5) * i / 8) for i in range(1, 9)]
    below = [normal.inv_cdf(0.5 + (end - 0.5) * i / 7) for i in range(1, 8)]
    table = [*(-v for v in reversed(below)), 0, *above]
    assert np.abs(np.array(table) / above[-1] - NF4).max() < 1e-6


@given(weight=WEIGHTS, name=st.sampled_from(sorted(SMALL_FLOATS)), group=st.sampled_from([1, 16]))
@settings(max_examples=150, deadline=None)
def test_takes_the_nearest_value(weight, name, group):
    fmt = SMALL_FLOATS[name]
    found = quantize(weight, fmt, group)
    got = dequantize(found, fmt, weight.shape[1])
    scales = np.repeat(found.scales, group, axis=1)[:, : weight.shape[1]].astype(np.float64)
    table = values_of(fmt)
    for w, s, g in zip(weight.reshape(-1), scales.reshape(-1), got.reshape(-1), strict=True):
        nearest = np.abs(table * s - float(w)).min()
        assert abs(float(g) - float(w)) <= nearest + 1e-6 * abs(float(w)) + s * 1e-6 + 1e-37
    assert np.abs(got).max() <= np.abs(weight).max() * (1 + 1e-6)


@pytest.mark.parametrize("name", SMALL_FLOATS)
def test_zeros_stay_zeros_and_padding_is_zero(name):
    weight = np.zeros((2, 40), np.float32)
    weight[0, :20] = np.linspace(-3, 5, 20)
    weight[0, 3] = 0
    found = quantize(weight, SMALL_FLOATS[name], 16)
    got = dequantize(found, SMALL_FLOATS[name], 48)
    assert got[0, 3] == 0 and not got[1].any() and not got[:, 40:].any()


@pytest.mark.parametrize("name", SMALL_FLOATS)
def test_ties(name):
    fmt = SMALL_FLOATS[name]
    table = values_of(fmt)[-6:].astype(np.float32)
    middles = (table[1:] + table[:-1]) / np.float32(2)
    codes = fmt.encode(middles)
    if isinstance(fmt, Minifloat):
        assert not (codes & 1).any()  # even
    else:
        assert (fmt.decode(codes) == table[:-1]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_refuses_what_has_no_scale(bad):
    weight = np.array([[1, bad]], np.float32)
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantize(weight, SMALL_FLOATS["nf4"], 2)


def test_by_name():
    weight = np.random.default_rng(0).standard_normal((2, 40)).astype(np.float32)
    errors = {name: np.abs(rounded(weight, name, 16) - weight).max() for name in
              ("i2", "i4", "nf4", "f4E2M1", "i8", "f8E4M3FN")}  # fmt: skip
    assert errors["i8"] < errors["f8E4M3FN"] < errors["nf4"] < errors["i2"]
    assert rounded(weight, "i4", 0).shape == weight.shape
