"""Bytes of four ternary weights: which two entries of a table they are the sum of, and their panels."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from lowc.passes.formats import tables, ternary, trit_quads
from lowc.passes.formats.binary_codes import BinaryCodes
from lowc.passes.formats.tables import TableFormat

EVERY = np.arange(trit_quads.PAIRS)[:, None] // 3 ** np.arange(4) % 3 - 1


def sums_of(data, table):
    """What a byte of a weight is looked up to in tables ``[..., 16]``."""
    number = data & (trit_quads.NEGATED - 1)
    found = table[..., number & 15] + table[..., np.array(trit_quads.seconds())[number]]
    return np.where(data & trit_quads.NEGATED, -found, found)


def test_every_four_weights_have_a_byte_of_their_own():
    numbers = trit_quads.numbers()
    assert len(set(numbers.tolist())) == trit_quads.PAIRS
    assert numbers.max() < 128


def test_a_byte_is_the_sum_of_the_entries_of_both_planes():
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    made = tables.quantize(x, TableFormat(7, 4))
    table = made.entries.astype(np.int32).reshape(5, 16)
    coded = ternary.as_planes(EVERY.astype(np.int8), BinaryCodes(2, 4, 1, 1))
    first, second = np.moveaxis(tables.keys(coded)[..., 0], 1, 0)
    wanted = table[:, first] + table[:, second]
    assert np.array_equal(sums_of(trit_quads.numbers(), table), wanted)


@given(n=st.integers(1, 150), k=st.integers(1, 70), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_bytes_of_panels_are_in_their_places(n, k, seed):
    codes = np.random.default_rng(seed).integers(-1, 2, (n, k)).astype(np.int8)
    quads = -(-k // 4) + 1
    packed = trit_quads.pack(codes, 64, quads)
    assert packed.shape == (-(-n // 64), quads, 64)
    # Byte 4 d + j of a vector is column 16 j + d.
    ordered = packed.reshape(-1, quads, 16, 4).transpose(0, 3, 2, 1).reshape(-1, quads)
    place = np.zeros(128, np.int64)
    place[trit_quads.numbers()] = np.arange(trit_quads.PAIRS)
    found = EVERY[place[ordered]].reshape(len(ordered), -1)
    assert np.array_equal(found[:n, :k], codes)
    assert not found[n:].any() and not found[:, k:].any()
