"""Formats of caches: how far what is read lies from what was written, and what a block is."""

import numpy as np
import pytest
from lowc.passes.formats import caches
from lowc.passes.formats.caches import BLOCK, KeyBlocks


def drawn(*shape):
    return np.random.default_rng(sum(shape)).normal(0, 1, shape).astype(np.float32)


@pytest.mark.parametrize("width", [1, 5, 8])
def test_codes_pack_two_in_a_byte(width):
    codes = np.random.default_rng(width).integers(0, 16, (3, width), dtype=np.uint8)
    packed = caches.pack(codes)
    assert packed.shape == (3, -(-width // 2)) and packed[0, 0] & 15 == codes[0, 0]
    np.testing.assert_array_equal(caches.unpack(packed, width), codes)


def test_errors_are_half_a_step_at_most():
    x = drawn(9, 3, 17)
    for name, steps in (("i8", 2 * 127), ("i4", 15)):
        extent = np.ptp(x, -1) if name == "i4" else 2 * np.abs(x).max(-1)
        error = np.abs(caches.rounded(x, name) - x).max(-1)
        assert (error <= extent / steps * 0.5001).all() and (error > extent / steps / 10).any()
    np.testing.assert_array_equal(caches.rounded(x, "f32"), x)
    assert np.abs(caches.rounded(x, "f16") - x).max() <= np.abs(x).max() * 2**-11
    assert np.isinf(caches.rounded(np.full((1, 2), 65520, np.float32), "f16")).all()


def test_the_ends_of_a_row_are_exact_and_one_number_needs_no_step():
    x = np.array([[-3, 1, 12], [7, 7, 7], [0, 0, 0]], np.float32)
    np.testing.assert_array_equal(caches.to_i4(x, -1).codes, [[0, 4, 15], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(caches.rounded(x, "i4"), x)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_a_row_that_is_no_numbers_is_nan(bad):
    x = drawn(2, 4)
    x[0, 1:3] = bad, -bad
    found = caches.rounded(x, "i4")
    assert np.isnan(found[0]).all() and np.isfinite(found[1]).all()


def test_the_newest_block_is_exact_and_channels_have_their_own_scales():
    rows = drawn(BLOCK + 5, 2, 6) * np.float32([1000, 1, 1, 1, 1, 0.001])
    blocks = KeyBlocks(100, 2, 6)
    blocks.write(0, rows)
    found = blocks.read(len(rows))
    np.testing.assert_array_equal(found[BLOCK:], rows[BLOCK:])
    error = np.abs(found - rows)[:BLOCK].max(0)
    extent = np.ptp(rows[:BLOCK], 0)
    assert (error <= extent / 30 * 1.001).all() and (error > 0).all()


def test_any_pieces_of_a_text_give_the_same_blocks():
    rows = drawn(3 * BLOCK, 1, 4)
    whole, pieces = KeyBlocks(3 * BLOCK, 1, 4), KeyBlocks(3 * BLOCK, 1, 4)
    whole.write(0, rows)
    for start, stop in ((0, 1), (1, 40), (40, 41), (41, 64), (64, 96)):
        pieces.write(start, rows[start:stop])
    for name in ("codes", "scales", "least", "newest", "number"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(pieces, name))


def test_a_text_that_is_cut_short_goes_on_from_what_was_read():
    rows = drawn(3 * BLOCK, 1, 4)
    blocks = KeyBlocks(3 * BLOCK, 1, 4)
    blocks.write(0, rows)
    before = blocks.read(BLOCK + 3)
    blocks.write(BLOCK + 3, rows[:2])
    np.testing.assert_array_equal(blocks.read(BLOCK + 5), np.concatenate([before, rows[:2]]))
    assert blocks.read(0).shape == (0, 1, 4)
