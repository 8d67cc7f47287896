"""Float formats: their fields beside those of ml_dtypes, and rounding into them."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lowc.passes import forms
from lowc.passes.formats.floats import (
    F8E4M3FN,
    F8E5M2,
    F16,
    F32,
    FORMATS,
    bits_of,
    round_to,
    value_of,
)

ALL = [pytest.param(fmt, id=name) for name, fmt in FORMATS.items()]


@pytest.mark.parametrize("fmt", ALL)
def test_fields_are_those_of_the_type(fmt):
    info = ml_dtypes.finfo(fmt.dtype)
    assert (fmt.width, fmt.mantissa_bits) == (info.bits, info.nmant)
    assert fmt.bits_dtype.itemsize * 8 == fmt.width
    assert value_of(fmt.smallest_normal, fmt) == np.float32(info.smallest_normal)
    assert value_of(fmt.largest, fmt) == np.float32(info.max)
    assert value_of(fmt.one, fmt) == 1
    assert value_of(fmt.sign_mask | fmt.one, fmt) == -1
    assert np.isnan(value_of(fmt.nan_pattern, fmt))
    assert np.isinf(value_of(fmt.ceiling, fmt)) == fmt.has_infinity
    after = value_of(fmt.ceiling + 1, fmt)
    assert np.isnan(after)


def test_the_forms_name_the_same_formats():
    assert tuple(FORMATS) == forms.CARRIERS
    assert {name: fmt.mantissa_bits for name, fmt in FORMATS.items()} == forms.MANTISSA_BITS
    for name, width in forms.STORED_FLOATS.items():
        assert FORMATS[name].width == width


@pytest.mark.parametrize(
    ("name", "infinity", "nan"),
    [
        ("f32", 0x7F800000, 0x7FC00000),
        ("bf16", 0x7F80, 0x7FC0),
        ("f16", 0x7C00, 0x7E00),
        ("f8E5M2", 0x7C, 0x7E),
        ("f8E4M3FN", 0x78, 0x7F),  # 0x78 is a number there
    ],
)
def test_special_patterns(name, infinity, nan):
    assert (FORMATS[name].infinity_pattern, FORMATS[name].nan_pattern) == (infinity, nan)


@pytest.mark.parametrize("fmt", [fmt for fmt in ALL if fmt.id != "f32"])
def test_patterns_round_trip(fmt):
    every = np.arange(1 << fmt.width).astype(fmt.bits_dtype)
    values = value_of(every, fmt)
    number = ~np.isnan(values)
    assert (bits_of(values, fmt)[number] == every[number]).all()
    assert np.isnan(round_to(values, fmt)[~number]).all()


def test_patterns_of_the_own_type_keep_their_payload():
    bits = np.array([0x7F800001, 0xFFC12345, 0x00000001], np.uint32)
    assert (bits_of(bits.view(np.float32), F32) == bits).all()


@pytest.mark.parametrize(
    ("fmt", "value", "expected"),
    [
        (F8E4M3FN, 448.0, 448.0),
        (F8E4M3FN, 1e9, 448.0),
        (F8E4M3FN, -1e9, -448.0),
        (F8E4M3FN, np.inf, 448.0),
        (F8E4M3FN, -np.inf, -448.0),
        (F8E4M3FN, 1.0625, 1.0),  # a tie goes to even
        (F8E4M3FN, 1.1875, 1.25),
        (F8E4M3FN, 2.0**-9, 2.0**-9),  # subnormal numbers stay
        (F8E5M2, 1e9, np.inf),
        (F8E5M2, -61440.0, -np.inf),
        (F16, 65519.0, 65504.0),
        (F16, 65520.0, np.inf),
        (F16, 2.0**-24, 2.0**-24),
    ],
)
def test_edges_of_rounding(fmt, value, expected):
    assert round_to(np.float32(value), fmt) == np.float32(expected)


@pytest.mark.parametrize("fmt", ALL)
def test_nan_stays_nan(fmt):
    assert np.isnan(round_to(np.float32(np.nan), fmt))


@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_rounds_to_nearest_even(value):
    for fmt in FORMATS.values():
        top = float(value_of(fmt.largest, fmt))
        if abs(value) > top:
            continue
        found = int(bits_of(np.float32(value), fmt)) & fmt.magnitude_mask
        error = abs(float(value_of(found, fmt)) - abs(value))
        for other in (found - 1, found + 1):
            if not 0 <= other <= fmt.largest:
                continue
            distance = abs(float(value_of(other, fmt)) - abs(value))
            assert error < distance or (error == distance and found % 2 == 0)
