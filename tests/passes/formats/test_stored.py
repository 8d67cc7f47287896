"""Stored weights of added products: their bits against the operands they stand for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowc.passes.formats.floats import FORMATS, value_of
from lowc.passes.formats.lmul import prepare, truncate
from lowc.passes.formats.stored import STORED, channel_scales, decode, encode, pack_panels

NAMES = sorted(STORED)
SCALED = ["f8E4M3FN", "f8E5M2"]
TOP = {"f8E4M3FN": 7, "f8E5M2": 15}  # the binade of the largest weight


def weights(k, n, seed=0):
    return np.random.default_rng(seed).standard_normal((k, n)).astype(np.float32)


def cut(values, bits):
    """Values with that many leading mantissa bits, toward zero."""
    return value_of(truncate(values.view(np.uint32), FORMATS["f32"], bits), FORMATS["f32"])


@pytest.mark.parametrize("kept", [1, 3, 4, 7, 23])
def test_f32_is_the_prepared_operand(kept):
    weight = weights(5, 7)
    weight[0, :4] = [0, -0.0, 1e-30, 3e38]
    bits, scales = encode(weight, STORED["f32"], kept)
    assert scales is None and bits.dtype == np.uint32
    assert (bits == prepare(weight, kept)).all()
    assert (decode(bits, None, STORED["f32"]).view(np.uint32) == bits).all()


@pytest.mark.parametrize("kept", [1, 4, 7, 23])
def test_bf16_is_the_upper_half_of_the_prepared_operand(kept):
    weight = weights(6, 9, 1)
    weight[0, :4] = [0, -0.0, -1e-30, 3e38]
    bits, scales = encode(weight, STORED["bf16"], kept)
    assert scales is None and bits.dtype == np.uint16
    whole = prepare(weight, min(kept, 7))
    assert not (whole & 0xFFFF).any()
    assert (bits == whole >> 16).all()
    assert (decode(bits, None, STORED["bf16"]).view(np.uint32) == whole).all()


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("kept", [1, 2, 23])
def test_fp8_within_range_is_the_truncated_weight(name, kept):
    fmt = FORMATS[name]
    generator = np.random.default_rng(2)
    # The normal numbers span 2^(1 - bias) to 2^TOP: the largest weight of a column is in the last.
    octaves = TOP[name] - (1 - fmt.bias)
    weight = np.exp2(-generator.uniform(0, octaves, (40, 6))).astype(np.float32)
    weight *= generator.choice(np.array([-1, 1], np.float32), weight.shape)
    weight[3] = np.float32(1.5) * 2.0 ** np.arange(-9, 3, 2)
    weight[4:] *= 2.0 ** np.arange(-9, 3, 2)
    weight[:3] *= 2.0 ** np.arange(-9, 3, 2)
    bits, scales = encode(weight, STORED[name], kept)
    assert bits.dtype == np.uint8
    assert (decode(bits, scales, STORED[name]) == cut(weight, min(kept, fmt.mantissa_bits))).all()


@pytest.mark.parametrize("name", SCALED)
def test_scales_are_powers_of_two_that_fill_the_range(name):
    weight = weights(30, 8, 3) * np.float32(10.0) ** np.arange(-8, 8, 2)
    bits, scales = encode(weight.astype(np.float32), STORED[name], 23)
    assert (np.frexp(scales)[0] == 0.5).all()
    fmt = FORMATS[name]
    exponents = (bits & fmt.magnitude_mask) >> fmt.mantissa_bits
    assert (exponents.max(axis=0) == TOP[name] + fmt.bias).all()
    assert np.isfinite(decode(bits, scales, STORED[name])).all()


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("size", [1.0, 1.999999, 0.5, 448.0, 3.4e38, 2.0**-126])
def test_the_largest_weight_is_a_number(name, size):
    """The greatest mantissa in the highest binade is neither NaN nor infinity."""
    weight = np.array([[size], [-size]], np.float32)
    bits, scales = encode(weight, STORED[name], 23)
    fmt = FORMATS[name]
    assert ((bits & fmt.magnitude_mask) <= fmt.largest).all()
    assert (decode(bits, scales, STORED[name]) == cut(weight, fmt.mantissa_bits)).all()


@pytest.mark.parametrize("name", SCALED)
def test_zeros_and_what_is_below_the_normal_numbers_flush(name):
    fmt = FORMATS[name]
    smallest = 2.0 ** (1 - fmt.bias - TOP[name])  # beside a weight of 1
    column = [1, 0, -0.0, smallest, -smallest, smallest * 0.999, -smallest / 2, smallest * 1.5]
    bits, scales = encode(np.array([column], np.float32).T, STORED[name], 23)
    values = decode(bits, scales, STORED[name])[:, 0]
    assert values.tolist() == [1, 0, 0, smallest, -smallest, 0, 0, smallest * 1.5]
    assert not bits[[1, 2, 5, 6]].any(), "a zero has the code 0, without a sign"
    assert not ((bits > 0) & ((bits & fmt.magnitude_mask) < fmt.smallest_normal)).any()


@pytest.mark.parametrize("name", SCALED)
def test_a_channel_of_zeros_has_scale_one(name):
    weight = weights(4, 3, 4)
    weight[:, 1] = 0
    bits, scales = encode(weight, STORED[name], 23)
    assert scales[1] == 1 and not bits[:, 1].any()
    assert bits[:, [0, 2]].all()
    assert (channel_scales(np.zeros(3, np.float32), STORED[name]) == 1).all()


@pytest.mark.parametrize("name", SCALED)
def test_scales_of_tiny_weights_are_normal(name):
    """A scale below 2^-126 would be flushed where it is multiplied by."""
    weight = np.array([[2.0**-125, 2.0**-142]], np.float32)
    bits, scales = encode(weight, STORED[name], 23)
    assert (scales >= 2.0**-126).all()
    assert (decode(bits, scales, STORED[name])[0, 1] == 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinity_is_clamped_or_refused(name, value):
    """A scale has no room for it; without one it is what ``finite`` products make of it."""
    weight = weights(3, 4)
    weight[2, 1] = value
    if STORED[name].is_scaled:
        with pytest.raises(ValueError, match="the weight holds infinity"):
            encode(weight, STORED[name], 23)
        return
    stored = decode(encode(weight, STORED[name], 23)[0], None, STORED[name])
    assert 2.0**62 < stored[2, 1] * np.sign(value) < 2.0**63
    kept = np.isfinite(weight)
    other = decode(encode(np.where(kept, weight, 1), STORED[name], 23)[0], None, STORED[name])
    assert np.array_equal(stored[kept], other[kept])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [np.nan, -np.nan])
def test_nan_is_refused(name, value):
    weight = weights(3, 4)
    weight[2, 1] = value
    with pytest.raises(ValueError, match="the weight holds NaN"):
        encode(weight, STORED[name], 23)


@pytest.mark.parametrize("name", NAMES)
def test_no_weights_at_all(name):
    bits, scales = encode(np.zeros((0, 3), np.float32), STORED[name], 23)
    assert bits.shape == (0, 3)
    assert scales is None or (scales == 1).all()


def unpack(words, stored, n, lanes):
    """Panels as columns again, each word taken apart by hand."""
    panels, k, width = words.shape
    ways = 32 // stored.width
    columns = np.zeros((k, panels * width * ways), np.uint32)
    for p in range(panels):
        for word in range(width):
            group, i = divmod(word, lanes)
            for way in range(ways):
                column = p * width * ways + group * lanes * ways + way * lanes + i
                part = words[p, :, word] >> np.uint32(way * stored.width)
                columns[:, column] = part & np.uint32((1 << stored.width) - 1)
    return columns[:, :n], columns[:, n:]


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    k=st.integers(1, 9),
    n=st.integers(1, 70),
    lanes=st.sampled_from([1, 4, 8]),
    groups=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_panels_unpack_to_the_bits(name, k, n, lanes, groups, seed):
    stored = STORED[name]
    panel = lanes * groups * 32 // stored.width
    bits, _ = encode(weights(k, n, seed), stored, 23)
    words = pack_panels(bits, stored, panel, lanes)
    assert words.dtype == np.uint32
    assert words.shape == (-(-n // panel), k, panel * stored.width // 32)
    found, filling = unpack(words, stored, n, lanes)
    assert (found == bits).all()
    smallest = 0 if stored.is_scaled else int(prepare(np.float32(0)) >> (32 - stored.width))
    assert (filling == smallest).all()


def test_panels_of_bytes_by_hand():
    """Two lanes: word 0 has columns 0, 2, 4, 6 from its lowest byte on, word 1 the odd ones."""
    bits = np.arange(1, 9, dtype=np.uint8)[None]
    words = pack_panels(bits, STORED["f8E4M3FN"], 8, 2)
    assert [hex(word) for word in words.ravel()] == ["0x7050301", "0x8060402"]
