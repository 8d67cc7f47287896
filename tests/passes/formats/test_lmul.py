"""L-Mul against its definition written a second time, and against the error tables it is known for."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowc.passes.formats import lmul as lm
from lowc.passes.formats.floats import BF16, F8E4M3FN, F8E5M2, F32, FORMATS, bits_of, value_of

CASES = [
    pytest.param(fmt, bits, offset, id=f"{name}-{bits}-{'lmul' if offset else 'pam'}")
    for name, fmt in FORMATS.items()
    for bits in range(fmt.mantissa_bits + 1)
    for offset in (True, False)
]
FINITE = [case for case in CASES if case.values[0].exponent_bits == 8]
SMALL = [  # 0 stands for all bits
    case for case in CASES
    if case.values[0].width == 8 and case.values[1] < case.values[0].mantissa_bits
]  # fmt: skip
OFFSETS = {1: 1, 2: 2, 3: 3, 4: 3, 5: 4, 6: 4, 7: 4, 8: 4, 10: 4, 23: 4}

CANONICAL = {"f32": 0x7FC00000, "bf16": 0x7FC0, "f16": 0x7E00, "f8E5M2": 0x7E, "f8E4M3FN": 0x7F}


def fields(bits, fmt):
    """Sign, exponent field and mantissa."""
    m = fmt.mantissa_bits
    return bits >> (fmt.width - 1), (bits >> m) % (1 << fmt.exponent_bits), bits % (1 << m)


def is_nan(exponent, mantissa, fmt):
    if fmt.name == "f8E4M3FN":
        return exponent == 15 and mantissa == 7
    return exponent == (1 << fmt.exponent_bits) - 1 and mantissa != 0


def oracle(a, b, fmt, mantissa_bits=0, offset=True):
    """One product under "full", in Python integers, field by field."""
    m = fmt.mantissa_bits
    kept = mantissa_bits or m
    top = (1 << fmt.exponent_bits) - 1
    (sa, ea, ma), (sb, eb, mb) = fields(a, fmt), fields(b, fmt)
    sign = (sa ^ sb) << (fmt.width - 1)
    if is_nan(ea, ma, fmt) or is_nan(eb, mb, fmt):
        return CANONICAL[fmt.name]
    if fmt.has_infinity and top in (ea, eb):
        return CANONICAL[fmt.name] if 0 in (ea, eb) else sign | top << m
    if 0 in (ea, eb):
        return sign
    ma, mb = (mantissa >> (m - kept) << (m - kept) for mantissa in (ma, mb))
    fraction = ma + mb
    if offset:
        fraction += 1 << (m - OFFSETS[min(kept, 8)])
    exponent = ea + eb - fmt.bias
    while fraction >= 1 << m:
        fraction -= 1 << m
        exponent += 1
    if exponent <= 0:
        return sign
    if fmt.has_infinity and exponent >= top:
        return sign | top << m
    if not fmt.has_infinity and (exponent > top or is_nan(exponent, fraction, fmt)):
        return sign | 0x7E
    return sign | exponent << m | fraction


def edges(fmt):
    """Zeros, subnormal numbers, 1, the largest, infinities and NaN with payloads, both signs."""
    m = fmt.mantissa_bits
    magnitudes = {
        0,
        1,
        (1 << m) - 1,
        1 << m,
        fmt.one,
        fmt.one + 1,
        fmt.largest,
        fmt.infinity_pattern,
    }
    magnitudes |= {
        fmt.ceiling + 1,
        fmt.magnitude_mask,
        fmt.nan_pattern,
        fmt.one // 2,
        fmt.one // 2 * 3,
    }
    return [bits | sign for bits in sorted(magnitudes) for sign in (0, fmt.sign_mask)]


def compare(pairs, fmt, mantissa_bits, offset):
    a, b = (np.array(side, fmt.bits_dtype) for side in zip(*pairs, strict=True))
    found = lm.multiply_bits(a, b, fmt, mantissa_bits, offset=offset)
    assert found.dtype == fmt.bits_dtype
    for x, y, z in zip(a.tolist(), b.tolist(), found.tolist(), strict=True):
        expected = oracle(x, y, fmt, mantissa_bits, offset)
        assert z == expected, (hex(x), hex(y), hex(z), hex(expected))


@pytest.mark.parametrize(
    ("name", "expected", "added"),
    [
        ("f32", 0x3F780000, 0x40880000),
        ("bf16", 0x3F78, 0x4088),
        ("f16", 0x3BC0, 0x4440),
        ("f8E4M3FN", 0x37, 0x49),
        ("f8E5M2", 0x3B, 0x45),
    ],
)
def test_constants(name, expected, added):
    fmt = FORMATS[name]
    assert lm.constant(fmt) == lm.constant(fmt, fmt.mantissa_bits) == expected
    assert -expected % fmt.sign_mask == added
    assert lm.constant(fmt, offset=False) == fmt.one


def test_constants_of_fewer_bits():
    assert [lm.offset_exponent(m) for m in range(1, 8)] == [1, 2, 3, 3, 4, 4, 4]
    assert lm.constant(F32, 4) == 0x3F800000 - (1 << 20)
    assert lm.constant(F32, 3) == 0x3F800000 - (1 << 20)
    assert lm.constant(BF16, 2) == 0x3F80 - (1 << 5)


@pytest.mark.parametrize(
    ("a", "b", "bits", "expected"),
    [
        (1, 1, 0, 1.0625),
        (1, 1, 4, 1.125),
        (1, 1, 3, 1.125),
        (1, 1, 2, 1.25),
        (1, 1, 1, 1.5),
        (-1.5, 1.5, 0, -2.125),  # 1 + .5 + .5 + 1/16 carries: 2 * (1 + 1/16)
        (1.5, 2, 0, 3.125),
        (1.97, 1, 4, 2.125),  # 15/16 kept, + 2/16, carried: 2 * (1 + 1/16)
        (3, -5, 0, -14.5),
    ],
)
def test_products_by_hand(a, b, bits, expected):
    assert lm.lmul(a, b, F32, bits) == expected
    assert lm.lmul(b, a, F32, bits, "finite") == expected


def test_one_is_no_identity():
    assert lm.lmul(1.97, 1.0) == pytest.approx(2.065)


def test_the_exponent_can_rise_by_two():
    almost_two = np.nextafter(np.float32(2), np.float32(0))
    assert lm.lmul(almost_two, almost_two) >= 4


@pytest.mark.parametrize(("fmt", "bits", "offset"), CASES)
def test_special_values(fmt, bits, offset):
    compare(list(itertools.product(edges(fmt), repeat=2)), fmt, bits, offset)


@pytest.mark.parametrize(("fmt", "bits", "offset"), SMALL)
def test_every_pair_of_eight_bits(fmt, bits, offset):
    compare(list(itertools.product(range(256), repeat=2)), fmt, bits, offset)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_pair(data):
    fmt = data.draw(st.sampled_from([fmt for fmt in FORMATS.values() if fmt.width > 8]))
    anything = st.integers(0, (1 << fmt.width) - 1)
    pairs = data.draw(st.lists(st.tuples(anything, anything), min_size=1, max_size=20))
    compare(pairs, fmt, data.draw(st.integers(0, fmt.mantissa_bits)), data.draw(st.booleans()))


def test_underflow_does_not_wrap():
    assert lm.lmul(1e-20, 1e-20) == 0
    assert np.signbit(lm.lmul(-1e-20, 1e-20))


def test_a_nan_with_a_short_payload_survives_truncation():
    short = np.array([0x7F800001], np.uint32)
    assert (lm.truncate(short, F32, 4) == short).all()
    one = np.array([F32.one], np.uint32)
    assert lm.multiply_bits(short, one, F32, 4) == 0x7FC00000
    assert lm.truncate(np.array([0x7F], np.uint8), F8E4M3FN, 1) == 0x7F
    assert lm.truncate(np.array([0x7E], np.uint8), F8E4M3FN, 1) == 0x7C


def test_truncation_is_toward_zero():
    values = np.array([1.97, -1.97, 3.99], np.float32)
    kept = value_of(lm.truncate(bits_of(values, F32), F32, 2), F32)
    assert kept.tolist() == [1.75, -1.75, 3.5]


def test_the_constant_without_offset_is_not_lmul():
    # A known wrong port adds 0x4080, which is -(127 << 7): that is the piecewise affine product.
    one = np.array([BF16.one], np.uint16)
    wrong = lm.integer_product(one, one, BF16, -0x4080 % 0x8000)
    assert wrong == BF16.one
    assert lm.multiply_bits(one, one, BF16) == BF16.one + 8
    assert -lm.constant(BF16) % 0x8000 == 0x4080 + 8


def test_refusals():
    with pytest.raises(ValueError, match="bf16 has 7 mantissa bits, not 8"):
        lm.constant(BF16, 8)
    with pytest.raises(ValueError, match="0 mantissa bits have no offset"):
        lm.offset_exponent(0)
    with pytest.raises(ValueError, match="f16 has too short a range"):
        lm.matmul([[1.0]], [[1.0]], carrier="f16")
    with pytest.raises(ValueError, match="specials 'none' are unknown"):
        lm.prepare([1.0], specials="none")


# Finite specials.


@pytest.mark.parametrize(("fmt", "bits", "offset"), FINITE)
def test_clamped_sums_stay_normal_numbers(fmt, bits, offset):
    low, high = lm.clamp_bounds(fmt)
    assert value_of(low, fmt) == 2.0**-63
    assert value_of(high + 1, fmt) == 2.0**63
    subtracted = lm.constant(fmt, bits, offset=offset)
    top = int(lm.truncate(np.array(high, fmt.bits_dtype), fmt, bits))
    assert low + low - subtracted >= fmt.smallest_normal
    assert top + top - subtracted <= fmt.largest
    assert 2 * high < 1 << fmt.width  # the first sum does not wrap either
    # The next smaller power of two would be too small; the next larger, too large.
    step = fmt.smallest_normal
    assert 2 * (low - step) - subtracted < fmt.smallest_normal
    if offset and bits in (0, fmt.mantissa_bits):
        assert 2 * (high + step) - subtracted > fmt.largest


@pytest.mark.parametrize(("fmt", "bits", "offset"), FINITE)
def test_finite_equals_full_in_its_range(fmt, bits, offset):
    rng = np.random.default_rng(bits)
    low, high = lm.clamp_bounds(fmt)
    a, b = (rng.integers(low, high, 5000, endpoint=True).astype(fmt.bits_dtype) for _ in range(2))
    a[:4], b[:4] = [low, low, high, high], [low, high, low, high]
    a[::3] |= fmt.bits_dtype.type(fmt.sign_mask)
    full = lm.multiply_bits(a, b, fmt, bits, "full", offset=offset)
    finite = lm.multiply_bits(a, b, fmt, bits, "finite", offset=offset)
    assert (full == finite).all()


@pytest.mark.parametrize(("fmt", "bits", "offset"), FINITE)
def test_finite_outside_its_range(fmt, bits, offset):
    low, high = lm.clamp_bounds(fmt)
    tiny = np.array([0, 1, low // 2, low - 1], fmt.bits_dtype)
    other = np.random.default_rng(bits).integers(0, high, 500).astype(fmt.bits_dtype)
    other[:3] = [0, low, high]
    found = lm.multiply_bits(tiny[:, None], other, fmt, bits, "finite", offset=offset)
    gain = 1 + 2.0 ** -OFFSETS[min(bits or fmt.mantissa_bits, 8)] if offset else 1.0
    bound = gain * 2.0**-63 * np.maximum(value_of(other, fmt).astype(np.float64), 2.0**-63)
    value = value_of(found, fmt).astype(np.float64)
    assert (value > 0).all()
    assert (value <= bound).all()
    assert value[0, 1] == bound[1]  # the bound is reached: 2^-63 times 2^-63

    huge = [high, high + 1, fmt.largest, fmt.infinity_pattern, fmt.nan_pattern, fmt.magnitude_mask]
    huge = np.array(huge, fmt.bits_dtype)
    found = lm.multiply_bits(huge[:, None], other, fmt, bits, "finite", offset=offset)
    assert (found == found[0]).all()
    negative = lm.multiply_bits(
        (huge | fmt.bits_dtype.type(fmt.sign_mask))[:, None], other, fmt, bits, "finite",
        offset=offset,
    )  # fmt: skip
    assert (negative == found | fmt.sign_mask).all()


def test_prepared_operands():
    found = lm.prepare([0.0, -0.0, 1.97, np.inf, -np.inf, np.nan], 2)
    assert found.dtype == np.uint32
    top = 0x5EE00000  # 0x5EFFFFFF with two bits of mantissa
    assert found.tolist() == [
        0x20000000, 0xA0000000, 0x3FE00000, top, top | 1 << 31, top,
    ]  # fmt: skip
    assert (lm.prepare_bits(found, F32, 2, "finite") == found).all()
    assert lm.prepare([1.01, 1e30], carrier="bf16").tolist() == [0x3F81, 0x5EFF]
    assert lm.prepare([1e30, 0.0], 0, "full").tolist() == bits_of([1e30, 0.0], F32).tolist()


# Sums of products.


@pytest.mark.parametrize("specials", ["finite", "full"])
@pytest.mark.parametrize("bits", [0, 4, 3])
@pytest.mark.parametrize("accumulate", list(FORMATS))
def test_matmul_adds_in_order(bits, specials, accumulate):
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 3, 17), np.float32), rng.standard_normal((17, 5), np.float32)
    found = lm.matmul(a, b, bits, specials, accumulate=accumulate)
    assert (found.shape, found.dtype) == ((2, 3, 5), np.float32)
    for i, j, column in itertools.product(range(2), range(3), range(5)):
        total = np.float32(0)
        for k in range(17):
            total = np.float32(total + lm.lmul(a[i, j, k], b[k, column], F32, bits))
            total = np.float32(total.astype(FORMATS[accumulate].dtype))
        assert found[i, j, column] == total


@pytest.mark.parametrize("carrier", list(FORMATS))
def test_matmul_rounds_to_the_carrier(carrier):
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((4, 9), np.float32), rng.standard_normal((9, 3), np.float32)
    fmt = FORMATS[carrier]
    found = lm.matmul(a, b, 0, "full", carrier=carrier)
    expected = np.zeros((4, 3), np.float32)
    for k in range(9):
        expected += lm.lmul(a[:, k, None], b[None, k], fmt)
    assert (found == expected).all()


@pytest.mark.parametrize("bits", range(1, 8))
@pytest.mark.parametrize("offset", [True, False])
def test_a_bf16_carrier_is_f32_with_seven_bits(bits, offset):
    rng = np.random.default_rng(bits)
    a, b = rng.standard_normal((4, 33), np.float32), rng.standard_normal((33, 3), np.float32)
    a[0, 0], b[0, 0] = 0, 1e38
    narrow = lm.matmul(a, b, bits, carrier="bf16", offset=offset)
    rounded = (x.astype(BF16.dtype).astype(np.float32) for x in (a, b))
    assert (lm.matmul(*rounded, bits, offset=offset) == narrow).all()


def test_matmul_keeps_specials():
    a = np.array([[0.0, 1.0], [np.inf, 1.0], [0.0, np.nan]], np.float32)
    b = np.array([[np.inf, 0.0], [1.0, 2.0]], np.float32)
    found = lm.matmul(a, b, specials="full")
    assert np.isnan(found[0, 0])
    assert found[0, 1] == 2.125
    assert found[1, 0] == np.inf
    assert np.isnan(found[1, 1])
    assert np.isnan(found[2]).all()
    assert np.isfinite(lm.matmul(a, b, specials="finite")).all()


def test_matmul_of_empty_sums():
    assert (lm.matmul(np.zeros((2, 0)), np.zeros((0, 3))) == np.zeros((2, 3))).all()


# The errors it is known for: arXiv 2410.00907, and uniform mantissas.


def uniform():
    rng = np.random.default_rng(7)
    return (1 + rng.random((2, 400_000))).astype(np.float32)


def errors(found, exact):
    relative = (found / exact - 1) * 100
    return relative.mean(), np.sqrt((relative**2).mean()), np.abs(relative).max()


@pytest.mark.parametrize(
    ("exponent", "mean", "rms", "greatest"),
    [
        (None, -3.85, 4.85, 11.1),
        (4, 0.405, 3.10, 7.3),
        (3, 4.85, 5.82, 12.5),
        (5, -1.75, 3.47, 9.2),
    ],
)
def test_errors_of_the_offsets(exponent, mean, rms, greatest):
    a, b = uniform()
    subtracted = F32.one - (1 << (23 - exponent) if exponent else 0)
    if exponent == 4:
        assert subtracted == lm.constant(F32)
    bits = lm.integer_product(bits_of(a, F32), bits_of(b, F32), F32, subtracted)
    found = errors(value_of(bits, F32).astype(np.float64), a.astype(np.float64) * b)
    assert found == pytest.approx((mean, rms, greatest), abs=0.06)


def test_the_algebraic_form_is_another():
    a, b = uniform().astype(np.float64)
    found = errors(1 + (a - 1) + (b - 1) + 2.0**-4, a * b)
    assert found == pytest.approx((-6.4, 9.6, 23.4), abs=0.06)


def rms_of(bits, round_first=None):
    a, b = uniform()
    x, y = (s if round_first is None else nearest(s, round_first) for s in (a, b))
    return errors(lm.lmul(x, y, F32, bits).astype(np.float64), a.astype(np.float64) * b)[1]


def nearest(values, bits):
    """Mantissas in [1, 2) rounded to `bits`, ties to even."""
    return (np.rint(values * 2.0**bits) / 2.0**bits).astype(np.float32)


@pytest.mark.parametrize(
    ("bits", "truncated", "rounded", "exact"),
    [(2, 8.5, 16.9, 7.19), (3, 5.96, 6.9, 3.61), (4, 3.59, 6.1, 1.8), (5, 3.58, 3.2, 0.9), (7, 3.06, 3.1, 0.2)],
)  # fmt: skip
def test_errors_of_operand_rounding(bits, truncated, rounded, exact):
    a, b = uniform()
    assert rms_of(bits) == pytest.approx(truncated, abs=0.06)
    assert rms_of(bits, bits) == pytest.approx(rounded, abs=0.06)
    product = nearest(a, bits).astype(np.float64) * nearest(b, bits)
    assert errors(product, a.astype(np.float64) * b)[1] == pytest.approx(exact, abs=0.06)


def test_the_two_claims_of_the_paper():
    a, b = uniform()
    exact = a.astype(np.float64) * b

    def product_in(fmt):
        x, y = (value_of(bits_of(side, fmt), fmt).astype(np.float64) for side in (a, b))
        return errors(x * y, exact)[1]

    assert rms_of(4) == pytest.approx(3.59, abs=0.02)
    assert product_in(F8E4M3FN) == pytest.approx(3.61, abs=0.02)
    assert rms_of(4) < product_in(F8E4M3FN)
    assert rms_of(3) == pytest.approx(5.96, abs=0.02)
    assert product_in(F8E5M2) == pytest.approx(7.19, abs=0.03)
    assert rms_of(3) < product_in(F8E5M2)


@pytest.mark.parametrize(
    ("bits", "offset", "known"),
    [(23, True, 1.003), (4, True, 1.003), (3, True, 0.965), (2, True, 0.97), (23, False, 0.961)],
)
def test_the_slope_is_that_of_normal_operands(bits, offset, known):
    found = lm.slope(bits, offset=offset)
    assert found == pytest.approx(known, abs=0.004)
    a, b = np.random.default_rng(1).standard_normal((2, 1_000_000), np.float32)
    product = lm.multiply_bits(bits_of(a, F32), bits_of(b, F32), F32, bits, offset=offset)
    exact = a.astype(np.float64) * b
    fitted = (value_of(product, F32) * exact).sum() / (exact**2).sum()
    assert found == pytest.approx(fitted, abs=0.0015)


def test_the_slope_of_a_carrier_includes_its_rounding():
    assert lm.slope(carrier="f8E4M3FN") > lm.slope(3) + 0.05
    assert lm.slope(carrier="bf16") == pytest.approx(lm.slope(), abs=1e-4)
    assert lm.slope(carrier="bf16") > lm.slope(7) + 0.004
