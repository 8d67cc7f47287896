"""Panels of keys and scales: every byte's place by the documented order, and the way back."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowc.passes.formats import key_panels, powers


@given(
    n=st.integers(1, 150), planes=st.integers(1, 4), quads=st.integers(2, 40),
    missing=st.integers(0, 9), columns=st.sampled_from([32, 64]), seed=st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_keys_come_back(n, planes, quads, missing, columns, seed):
    keys = np.random.default_rng(seed).integers(0, 16, (n, planes, quads)).astype(np.uint8)
    room = (quads + missing + 1) // 2 * 2
    packed = key_panels.pack_keys(keys, columns, room)
    assert packed.shape == (-(-n // columns), room // 2, planes, columns)
    assert np.array_equal(key_panels.unpack_keys(packed, n, quads), keys)
    filled = key_panels.unpack_keys(packed, len(packed) * columns, room)
    assert not filled[n:].any() and not filled[..., quads:].any()
    # More keys than there is room for are those of zeros, and are left out.
    cut = key_panels.pack_keys(keys, columns, 2)
    assert np.array_equal(key_panels.unpack_keys(cut, n, 2), keys[..., :2])


@given(
    n=st.integers(1, 150), groups=st.integers(1, 5), planes=st.integers(1, 4),
    columns=st.sampled_from([32, 64]), seed=st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_scales_stand_where_the_order_says(n, groups, planes, columns, seed):
    numbers = np.random.default_rng(seed).lognormal(0, 3, (n, groups, planes))
    scales = powers.values(powers.project(numbers, 3))
    words = key_panels.pack_scales(scales, columns)
    panels, part = -(-n // columns), columns // 4
    assert words.shape == (panels, groups, planes, columns // 2)
    halves = words[..., None].view(np.uint16).view(ml_dtypes.bfloat16).astype(np.float64)
    for column in range(panels * columns):
        j, d = divmod(column % columns, part)
        found = halves[column // columns, :, :, j // 2 * part + d, j % 2]
        wanted = scales[column] if column < n else np.zeros((groups, planes))
        assert np.array_equal(found, wanted)


def test_a_byte_is_a_column_and_two_quads():
    keys = np.zeros((64, 2, 4), np.uint8)
    keys[:, 1, 2], keys[:, 1, 3] = np.arange(64) % 16, np.arange(64) // 16
    packed = key_panels.pack_keys(keys, 64, 4)
    assert not packed[0, 0].any() and not packed[0, :, 0].any()
    for d in range(16):
        for j in range(4):
            column = 16 * j + d
            assert packed[0, 1, 1, 4 * d + j] == column % 16 | column // 16 << 4


def test_a_scale_that_two_bytes_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="too far apart"):
        key_panels.pack_scales(np.full((1, 1, 1), 1 + 2.0**-8), 64)
