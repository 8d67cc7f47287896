"""Piecewise affine arithmetic against its definition in exact fractions."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowc.passes.formats import lmul, pam
from lowc.passes.formats.floats import BF16, F8E4M3FN, F8E5M2, F16, F32, FORMATS, bits_of, value_of

WITH_INFINITY = [pytest.param(fmt, id=name) for name, fmt in FORMATS.items() if fmt.has_infinity]
INF, NAN = math.inf, math.nan
RNG = np.random.default_rng(11)


def number(bits, fmt):
    """Sign and magnitude of a pattern: a Fraction, 0 for subnormal ones, or infinity, or NaN."""
    sign, field = bits >> (fmt.width - 1), (bits & fmt.magnitude_mask) >> fmt.mantissa_bits
    mantissa = bits & ((1 << fmt.mantissa_bits) - 1)
    if field == (1 << fmt.exponent_bits) - 1:
        return sign, NAN if mantissa else INF
    if field == 0:
        return sign, Fraction(0)
    fraction = 1 + Fraction(mantissa, 1 << fmt.mantissa_bits)
    return sign, fraction * Fraction(2) ** (field - fmt.bias)


def is_nan(x):
    return isinstance(x, float) and math.isnan(x)


def palog2(x):
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    if Fraction(2) ** exponent > x:
        exponent -= 1
    return exponent + x / Fraction(2) ** exponent - 1


def paexp2(t):
    return Fraction(2) ** math.floor(t) * (1 + t - math.floor(t))


def encode(sign, x, fmt):
    """A magnitude as a pattern, rounded toward zero, flushed to 0, overflowing to infinity."""
    sign = sign << (fmt.width - 1)
    if is_nan(x):
        return {"f32": 0x7FC00000, "bf16": 0x7FC0, "f16": 0x7E00, "f8E5M2": 0x7E}[fmt.name]
    if x == INF or (x and x >= Fraction(2) ** (fmt.bias + 1)):
        return sign | fmt.infinity_pattern
    if x == 0 or x < Fraction(2) ** (1 - fmt.bias):
        return sign
    t = palog2(x)
    mantissa = math.floor((t - math.floor(t)) * (1 << fmt.mantissa_bits))
    return sign | (math.floor(t) + fmt.bias) << fmt.mantissa_bits | mantissa


def division(a, b, fmt):
    (sign_a, x), (sign_b, y) = number(a, fmt), number(b, fmt)
    sign = sign_a ^ sign_b
    if is_nan(x) or is_nan(y):
        return encode(0, NAN, fmt)
    if (x == 0 and y == 0) or (x == INF and y == INF):
        return encode(0, NAN, fmt)
    if x == INF or y == 0:
        return encode(sign, INF, fmt)
    if x == 0 or y == INF:
        return encode(sign, Fraction(0), fmt)
    return encode(sign, paexp2(palog2(x) - palog2(y)), fmt)


def square_root(a, fmt):
    sign, x = number(a, fmt)
    if x == 0:
        return encode(sign, x, fmt)
    if sign or is_nan(x):
        return encode(0, NAN, fmt)
    return encode(0, INF if x == INF else paexp2(palog2(x) / 2), fmt)


def log2(a, fmt):
    sign, x = number(a, fmt)
    if x == 0:
        return encode(1, INF, fmt)
    if sign or is_nan(x):
        return encode(0, NAN, fmt)
    if x == INF:
        return encode(0, INF, fmt)
    return int(bits_of(np.float32(float(palog2(x))), fmt))


def exp2(a, fmt):
    sign, x = number(a, fmt)
    if is_nan(x):
        return encode(0, NAN, fmt)
    t = -x if sign else x
    if abs(t) > 1000:
        return encode(0, Fraction(0) if sign else INF, fmt)
    return encode(0, paexp2(t), fmt)


UNARY = {
    "sqrt": (square_root, pam.square_root_bits),
    "log2": (log2, pam.log2_bits),
    "exp2": (exp2, pam.exp2_bits),
}


def samples(fmt):
    """Edges, everything in eight bits, and a few thousand patterns of the others."""
    if fmt.width == 8:
        return np.arange(256).astype(np.uint8)
    m = fmt.mantissa_bits
    magnitudes = [0, 1, (1 << m) - 1, 1 << m, (1 << m) + 1, fmt.one - 1, fmt.one, fmt.one + 1,
                  fmt.largest, fmt.infinity_pattern, fmt.infinity_pattern + 1, fmt.nan_pattern]  # fmt: skip
    edges = [bits | sign for bits in magnitudes for sign in (0, fmt.sign_mask)]
    values = [t for e in (14, 15, 16, 126, 127, 128) for t in (e, -e, e + 0.5, -e - 0.5)]
    near = bits_of(np.array(values, np.float32), fmt).astype(np.int64)
    some = RNG.integers(0, 1 << fmt.width, 1500)
    moderate = bits_of(RNG.standard_normal(500).astype(np.float32) * 20, fmt).astype(np.int64)
    near = np.concatenate([near, near + 1, near - 1])
    return np.concatenate([edges, near, some, moderate]).astype(fmt.bits_dtype)


@pytest.mark.parametrize("fmt", WITH_INFINITY)
@pytest.mark.parametrize("name", list(UNARY))
def test_functions_equal_the_definition(name, fmt):
    expected, function = UNARY[name]
    bits = samples(fmt)
    found = function(bits, fmt)
    assert found.dtype == fmt.bits_dtype
    for x, y in zip(bits.tolist(), found.tolist(), strict=True):
        assert y == expected(x, fmt), (hex(x), hex(y), hex(expected(x, fmt)))


@pytest.mark.parametrize("fmt", WITH_INFINITY)
def test_division_equals_the_definition(fmt):
    bits = samples(fmt)
    edges = bits[:24] if fmt.width > 8 else bits[::5]
    pairs = [*itertools.product(edges.tolist(), repeat=2)]
    pairs += list(zip(bits.tolist(), RNG.permutation(bits).tolist(), strict=True))
    a, b = (np.array(side, fmt.bits_dtype) for side in zip(*pairs, strict=True))
    found = pam.division_bits(a, b, fmt)
    for (x, y), z in zip(pairs, found.tolist(), strict=True):
        assert z == division(x, y, fmt), (hex(x), hex(y), hex(z), hex(division(x, y, fmt)))


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_the_product_is_exp2_of_the_sum_of_log2(data):
    fmt = data.draw(st.sampled_from([F32, BF16, F16, F8E5M2]))
    a, b = (data.draw(st.integers(0, fmt.infinity_pattern - 1)) for _ in range(2))
    (_, x), (_, y) = number(a, fmt), number(b, fmt)
    expected = 0 if 0 in (x, y) else encode(0, paexp2(palog2(x) + palog2(y)), fmt)
    bits = (np.array(side, fmt.bits_dtype) for side in (a, b))
    assert lmul.multiply_bits(*bits, fmt, offset=False) == expected


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_division_undoes_the_product(data):
    fmt = data.draw(st.sampled_from([F32, BF16, F16, F8E5M2]))
    normal = st.integers(fmt.smallest_normal, fmt.largest)
    sign = st.sampled_from([0, fmt.sign_mask])
    a, b = (np.array(data.draw(normal) | data.draw(sign), fmt.bits_dtype) for _ in range(2))
    product = lmul.multiply_bits(a, b, fmt, offset=False)
    if fmt.smallest_normal <= int(product) & fmt.magnitude_mask <= fmt.largest:
        assert pam.division_bits(product, b, fmt) == a


def test_the_product_is_exact_for_powers_of_two():
    powers = np.exp2(np.arange(-30, 31)).astype(np.float32)
    values = RNG.standard_normal(200).astype(np.float32)
    for specials in ("full", "finite"):
        found = pam.product(powers[:, None], values, specials=specials)
        assert (found == powers[:, None] * values).all()
    assert (pam.product(values, 1.0) == values).all()


def test_the_errors_of_the_product():
    a, b = (1 + RNG.random((2, 400_000))).astype(np.float32)
    exact = a.astype(np.float64) * b
    relative = pam.product(a, b) / exact - 1
    assert relative.max() <= 0
    assert relative.mean() == pytest.approx(-0.0385, abs=0.0002)
    assert np.sqrt((relative**2).mean()) == pytest.approx(0.0485, abs=0.0002)
    assert relative.min() == pytest.approx(-1 / 9, abs=0.001)
    assert pam.product(1.5, 1.5) == 2.0  # the worst case, 2 for 2.25


def test_values_by_hand():
    assert pam.square_root([1, 2, 4, 8]).tolist() == [1, 1.5, 2, 3]
    assert pam.log2([1, 1.5, 2, 3, 0.75]).tolist() == [0, 0.5, 1, 1.5, -0.5]
    assert pam.exp2([0, 0.5, 1, -0.5, -1, 1.5]).tolist() == [1, 1.5, 2, 0.75, 0.5, 3]
    assert pam.division([3, 1, -1], [2, 4, 0]).tolist() == [1.5, 0.25, -INF]
    assert pam.exp([-INF, 0, -0.0, INF]).tolist() == [0, 1, 1, INF]
    assert pam.log([0, 1, INF]).tolist() == [-INF, 0, INF]
    for undefined in (pam.log2(-1), pam.square_root(-1), pam.division(0, 0), pam.log(-1)):
        assert np.isnan(undefined)
    for function in (pam.exp2, pam.exp, pam.log2, pam.log, pam.square_root):
        assert np.isnan(function(NAN))


def test_log2_is_rounded_once():
    # 2^100 and its successor: E + F has 30 bits, of which f32 keeps 24.
    x = np.array([127 + 100 << 23 | 1], np.uint32)
    assert value_of(pam.log2_bits(x), F32) == 100
    assert value_of(pam.log2_bits(np.array([F32.one - 1], np.uint32)), F32) == -(2.0**-23)


@pytest.mark.parametrize("fmt", [F32, F16])
def test_exp2_undoes_log2(fmt):
    # Between 1/2 and 4, E + F needs no more bits than f32 has.
    values = value_of(bits_of(0.5 + 3.4 * RNG.random(1000), fmt), fmt)
    values = values[(values >= 1) & (values < 2)] if fmt is F32 else values
    assert (pam.exp2(pam.log2(values, F32), F32) == values).all()


def test_exp_and_log_are_near():
    x = np.linspace(-20, 20, 1001).astype(np.float32)
    # 6.2 % of exp2, and x * log2(e) is up to 11.1 % too small.
    assert (
        np.abs(pam.log2(pam.exp(x)) - x * np.log2(np.e)) <= 0.112 * np.abs(x * np.log2(np.e))
    ).all()
    assert pam.exp(1.0) == pam.exp2(pam.product(1.0, np.float32(np.log2(np.e))))
    assert pam.log(5.0) == pam.division(2.25, np.float32(np.log2(np.e)))


def test_refuses_a_format_without_infinity():
    for function in (pam.exp2, pam.exp, pam.log2, pam.log, pam.square_root):
        with pytest.raises(ValueError, match="f8E4M3FN has no infinity"):
            function(1.0, F8E4M3FN)
    with pytest.raises(ValueError, match="f8E4M3FN has no infinity"):
        pam.division(1.0, 1.0, F8E4M3FN)
    assert pam.product(448.0, 448.0, F8E4M3FN) == 448
