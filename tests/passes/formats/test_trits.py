"""Tables of five inputs for ternary weights: their entries, exact products, and the bytes of panels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowc.passes.formats import ternary, trits
from lowc.passes.formats.tables import TableFormat


def test_a_table_has_every_signed_sum_of_its_inputs():
    x = np.float32([1, 10, 100, 1000, 10000])
    (table,) = trits.float_tables(x)
    assert len(set(table.tolist())) == 243
    for q in ([0, 0, 0, 0, 0], [1, -1, 0, 1, -1], [-1, -1, -1, -1, -1]):
        key = sum((digit + 1) * 3**t for t, digit in enumerate(q))
        assert table[key] == np.dot(q, x)
    assert np.array_equal(table, -table[::-1])


@given(
    n=st.integers(1, 70), k=st.integers(1, 300), span=st.sampled_from([16, 32, 64, 128]),
    seed=st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_products_of_small_whole_numbers_are_exact(n, k, span, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(-1, 2, (n, k)).astype(np.int8)
    x = rng.integers(-6, 7, (3, k)).astype(np.float32)
    fmt = TableFormat(7, trits.span_of(span, k))
    assert np.array_equal(trits.product(x, codes, fmt), x @ codes.T.astype(np.float32))


@pytest.mark.parametrize("bits", [6, 7, 8])
def test_a_product_is_near_that_of_the_codes(bits):
    rng = np.random.default_rng(bits)
    codes = rng.integers(-1, 2, (40, 260)).astype(np.int8)
    x = rng.standard_normal((4, 260)).astype(np.float32)
    fmt = TableFormat(bits, 130)
    made = trits.quantize(x, fmt)
    step = np.ldexp(1.0, made.exponents)  # an entry is rounded by half of it
    bound = (fmt.span / trits.FIVE * step / 2).sum(axis=-1, keepdims=True) + 1e-4
    assert (np.abs(trits.product(x, codes, fmt) - x @ codes.T) <= bound).all()


@pytest.mark.parametrize(
    ("span", "k", "found"),
    [(128, 4096, 130), (64, 4096, 70), (128, 300, 100), (128, 1, 10), (16, 20, 20), (128, 131, 70)],
)
def test_spans_are_pairs_of_fives_that_share_all_inputs(span, k, found):
    assert trits.span_of(span, k) == found


@given(n=st.integers(1, 150), k=st.integers(1, 60), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_bytes_of_panels_are_sign_and_magnitude_in_their_places(n, k, seed):
    codes = np.random.default_rng(seed).integers(-1, 2, (n, k)).astype(np.int8)
    fives = -(-k // 5) + 1
    packed = trits.pack(codes, 64, fives)
    assert packed.shape == (-(-n // 64), fives, 64)
    # Byte 4 d + j of a vector is column 16 j + d.
    ordered = packed.reshape(-1, fives, 16, 4).transpose(0, 3, 2, 1).reshape(-1, fives)
    values = (ordered & 0x7F).astype(int) * np.where(ordered & 0x80, -1, 1)
    assert not values[n:].any()
    keys = (values[:n] + 121).astype(np.uint8)
    assert np.array_equal(ternary.unpack(keys, 5 * fives, "trits")[:, :k], codes)
    assert not ternary.unpack(keys, 5 * fives, "trits")[:, k:].any()
