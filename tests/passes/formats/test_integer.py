"""The integer format against its definition, corner cases included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lowc.passes.formats.integer import GroupedInteger, dequantize, pack, quantize, unpack

FINITE = st.floats(-(2.0**100), 2.0**100, width=32)
WEIGHTS = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 70)), elements=FINITE)
FORMATS = st.builds(
    GroupedInteger, bits=st.integers(2, 8), group=st.sampled_from([1, 2, 16, 32]),
    symmetric=st.booleans(),
)  # fmt: skip


def one_group(values, fmt):
    """The definition, one scalar at a time, in f32."""
    f32 = np.float32
    if fmt.symmetric:
        top = f32(2 ** (fmt.bits - 1) - 1)
        scale = f32(max(abs(v) for v in values) / top)
        zero, low, high = 0, -top, top
    else:
        low_value = min([*values, f32(0)])
        high_value = max([*values, f32(0)])
        top = f32(2**fmt.bits - 1)
        scale = f32(f32(high_value * f32(0.5) - low_value * f32(0.5)) / f32(top * f32(0.5)))
        zero = 0 if scale == 0 else int(np.clip(np.rint(f32(-low_value / scale)), 0, top))
        low, high = 0, top
    divisor = scale if scale != 0 else f32(1)
    codes = [int(np.clip(np.rint(f32(v / divisor)) + zero, low, high)) for v in values]
    return codes, scale, zero


@given(weight=WEIGHTS, fmt=FORMATS)
@settings(max_examples=150, deadline=None)
def test_equals_the_definition(weight, fmt):
    found = quantize(weight, fmt)
    groups = -(-weight.shape[1] // fmt.group)
    assert found.codes.shape == (weight.shape[0], groups, fmt.group)
    for row in range(weight.shape[0]):
        for group in range(groups):
            values = weight[row, group * fmt.group : (group + 1) * fmt.group]
            codes, scale, zero = one_group(list(values), fmt)
            assert found.codes[row, group, : len(codes)].tolist() == codes
            assert found.scales[row, group] == scale
            # The padding of the last group stands for zero.
            assert set(found.codes[row, group, len(codes) :].tolist()) <= {zero}
            if not fmt.symmetric:
                assert found.zeros[row, group] == zero


@given(weight=WEIGHTS, fmt=FORMATS)
@settings(max_examples=150, deadline=None)
def test_error_is_at_most_half_a_step(weight, fmt):
    found = quantize(weight, fmt)
    value = dequantize(found, weight.shape[1])
    step = np.repeat(found.scales, fmt.group, axis=1)[:, : weight.shape[1]].astype(np.float64)
    # Half a step, one more half where an asymmetric zero point was rounded and clipped, and f32.
    allowed = step * (0.5 if fmt.symmetric else 1.0) + np.abs(weight) * 1e-5 + 1e-38
    assert (np.abs(value.astype(np.float64) - weight) <= allowed).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_zeros_stay_zeros(bits, symmetric):
    weight = np.zeros((2, 40), np.float32)
    weight[0, :20] = np.linspace(-3, 5, 20)
    weight[0, 3] = 0
    value = dequantize(quantize(weight, GroupedInteger(bits, 16, symmetric)), 40)
    assert value[0, 3] == 0
    assert not value[1].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_what_has_no_scale(bad):
    weight = np.ones((1, 8), np.float32)
    weight[0, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantize(weight, GroupedInteger(4, 8, True))


def test_largest_floats_do_not_overflow():
    top = np.float32(2.0**127)
    weight = np.array([[top, -top, 0, top / 2]], np.float32)
    for symmetric in (True, False):
        value = dequantize(quantize(weight, GroupedInteger(8, 4, symmetric)), 4)
        assert np.isfinite(value).all()
        assert np.abs(value / top - weight / top).max() < 0.01


@given(
    codes=hnp.arrays(np.int8, st.integers(1, 40).map(lambda n: 2 * n), elements=st.integers(-8, 7))
)
def test_nibbles_round_trip(codes):
    packed = pack(codes, 4)
    assert packed.size == codes.size // 2
    assert (unpack(packed, 4, signed=True) == codes).all()
    assert packed[0] & 15 == codes[0] & 15  # the first code is in the low nibble


def test_pack_refuses_half_a_byte():
    with pytest.raises(ValueError, match="do not fill bytes"):
        pack(np.zeros(3, np.int8), 4)
