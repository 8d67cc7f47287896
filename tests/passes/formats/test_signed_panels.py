"""Panels of signs, terms and ranges: where each weight stands by the documented order."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from lowc.passes.formats import powers, shift_panels, signed_panels

SIZES = {"n": st.integers(1, 140), "k": st.integers(1, 80), "seed": st.integers(0, 9)}


@given(planes=st.integers(1, 4), columns=st.sampled_from([4, 32, 64]), **SIZES)
@settings(max_examples=40, deadline=None)
def test_signs_stand_where_the_order_says(n, k, planes, columns, seed):
    rng = np.random.default_rng(seed)
    filled = k + int(rng.integers(0, 40))
    signs = rng.random((n, planes, filled)) < 0.5
    words = signed_panels.pack_signs(signs, k, columns)
    assert words.shape == (-(-n // columns), -(-k // 32), planes, columns)
    for _ in range(20):
        row, plane, at = (int(rng.integers(0, size)) for size in (n, planes, k))
        word = int(words[row // columns, at // 32, plane, row % columns])
        assert (word >> (31 - at % 32) & 1) == (not signs[row, plane, at])
    # What fills up is plus.
    assert sum(int(word).bit_count() for word in words.reshape(-1)) == (~signs[..., :k]).sum()


@given(groups=st.integers(1, 5), count=st.integers(1, 3), **SIZES)
@settings(max_examples=40, deadline=None)
def test_terms_of_scales_are_bytes_of_a_word(n, k, groups, count, seed):
    terms = np.random.default_rng(seed).integers(0, 256, (n, groups, 2, count)).astype(np.uint8)
    words = signed_panels.pack_terms(terms, 32)
    assert words.shape == (-(-n // 32), groups, 2, 32)
    split = words[..., None].view(np.uint8).transpose(0, 3, 1, 2, 4).reshape(-1, groups, 2, 4)
    assert np.array_equal(split[:n, ..., :count], terms)
    assert not split[n:].any() and not split[..., count:].any()


@given(lanes=st.sampled_from([4, 8, 16]), vectors=st.sampled_from([4, 8]), **SIZES)
@settings(max_examples=40, deadline=None)
def test_terms_stand_where_the_order_says(n, k, lanes, vectors, seed):
    rng, columns = np.random.default_rng(seed), lanes * vectors
    terms = rng.integers(0, 256, (n, k)).astype(np.uint8)
    words = shift_panels.pack_terms(terms, columns, lanes)
    assert words.shape == (-(-n // columns), k, columns // 4)
    for _ in range(20):
        row, at = int(rng.integers(0, n)), int(rng.integers(0, k))
        group, inside = divmod(row % columns, 4 * lanes)
        way, lane = divmod(inside, lanes)
        word = int(words[row // columns, at, group * lanes + lane])
        assert word >> (8 * way) & 0xFF == terms[row, at]
    assert np.count_nonzero(words.view(np.uint8)) == np.count_nonzero(terms)


def test_within_the_range_of_a_panel_no_product_leaves_the_normal_numbers():
    weights = np.array([[0.5, 2.0**-40], [2.0**20, 0.0], [0.0, 0.0]])
    terms = powers.project(weights, 1)[..., 0]
    found = shift_panels.ranges(terms, 2)
    assert found.shape == (2, 2)
    lowest, highest = found[0]
    tiny, huge = np.float32(2.0 ** (lowest - 127)), np.float32(2.0 ** (highest - 127)) * 1.5
    assert abs(powers.shift(tiny, terms[0, 1])) == 2.0**-126
    assert powers.shift(tiny / np.float32(2), terms[0, 1]) == 0
    assert np.isfinite(powers.shift(huge, terms[1, 0]))
    assert np.isinf(powers.shift(huge * np.float32(2), terms[1, 0]))
    # Of zeros alone every finite activation is within it.
    assert found[1, 0] <= 0 and found[1, 1] == 254
