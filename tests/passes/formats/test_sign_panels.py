"""Panels of sign words: every bit's place by the documented order, the way back, where tables stand."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from lowc.passes.formats import sign_panels, tables
from lowc.passes.formats.binary_codes import Coded, pack_signs


@given(
    n=st.integers(1, 150), planes=st.integers(1, 4), k=st.integers(1, 130),
    missing=st.integers(0, 3), columns=st.sampled_from([16, 64]), seed=st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_words_come_back(n, planes, k, missing, columns, seed):
    signs = np.random.default_rng(seed).random((n, planes, k)) < 0.5
    wanted = pack_signs(signs)
    words = wanted.shape[-1] + missing
    packed = sign_panels.pack_words(signs, columns, words)
    assert packed.shape == (-(-n // columns), words, planes, columns)
    found = sign_panels.unpack_words(packed, n)
    assert np.array_equal(found[..., : wanted.shape[-1]], wanted)
    assert not found[..., wanted.shape[-1] :].any()
    assert not sign_panels.unpack_words(packed, len(packed) * columns)[n:].any()
    # More words than there is room for are left out.
    cut = sign_panels.pack_words(signs, columns, 1)
    assert np.array_equal(sign_panels.unpack_words(cut, n), wanted[..., :1])


def test_a_sign_stands_where_the_documentation_says():
    signs = np.zeros((70, 2, 96), np.bool_)
    signs[65, 1, 32 + 13] = True
    packed = sign_panels.pack_words(signs, 64, 3)
    assert packed[1, 1, 1, 1] == 1 << 13
    assert np.count_nonzero(packed) == 1


def test_the_low_halves_of_bytes_have_the_first_tables_of_a_word():
    rng = np.random.default_rng(0)
    coded = Coded(rng.random((1, 1, 64)) < 0.5, np.zeros((1, 1, 1, 1), np.uint8))
    places, keys = sign_panels.places(16), tables.keys(coded)[0, 0]
    assert sorted(places) == list(range(16))
    packed = sign_panels.pack_words(coded.signs, 16, 2)[0, :, 0, 0]
    data = packed.astype("<u4").view(np.uint8).reshape(2, 4)
    in_order = np.stack([data & 15, data >> 4], axis=1).reshape(-1)
    assert np.array_equal(in_order[places], keys)
