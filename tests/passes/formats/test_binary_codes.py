"""Binary-coded weights: the alternating optimisation, its blocks, and the packing of signs."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lowc.passes.formats import powers
from lowc.passes.formats.binary_codes import (
    BinaryCodes,
    assign,
    decode,
    encode,
    pack_signs,
    unpack_signs,
)

FORMATS = st.builds(
    BinaryCodes, planes=st.integers(1, 4), group=st.sampled_from([1, 3, 4, 8, 16, 100]),
    outputs=st.sampled_from([1, 2, 5]), terms=st.integers(1, 3),
)  # fmt: skip
WEIGHTS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 7), st.integers(1, 37)),
    elements=st.floats(-(2.0**20), 2.0**20, width=32),
)
SHAPES = [
    # n, k, format: N and K odd, groups and outputs that divide neither
    (7, 37, BinaryCodes(2, 8)),
    (9, 50, BinaryCodes(3, 16, 4)),
    (33, 20, BinaryCodes(3, 1, 33)),
    (33, 21, BinaryCodes(4, 8, 5)),
    (5, 65, BinaryCodes(1, 64, terms=1)),
    (3, 129, BinaryCodes(2, 200)),
]


def gaussian(n, k):
    return np.random.default_rng(n * k).standard_normal((n, k)).astype(np.float32)


def wide(coded, fmt, k):
    """The value of the codes in f64, by the definition, a block at a time."""
    alpha = powers.values(coded.terms)
    signs = np.where(coded.signs, 1.0, -1.0)
    total = np.zeros((len(signs), signs.shape[2]))
    for i in range(len(alpha)):
        for g in range(alpha.shape[1]):
            rows = slice(i * fmt.outputs, (i + 1) * fmt.outputs)
            columns = slice(g * fmt.group, (g + 1) * fmt.group)
            total[rows, columns] = np.tensordot(signs[rows, :, columns], alpha[i, g], (1, 0))
    return total[:, :k]


def error_of_blocks(weight, coded, fmt):
    """Squared errors ``[blocks along N, blocks along K]``."""
    squared = (weight.astype(np.float64) - wide(coded, fmt, weight.shape[1])) ** 2
    along_n, along_k = fmt.blocks(*weight.shape)
    found = np.zeros((along_n, along_k))
    for i in range(along_n):
        for g in range(along_k):
            rows = slice(i * fmt.outputs, (i + 1) * fmt.outputs)
            found[i, g] = squared[rows, g * fmt.group : (g + 1) * fmt.group].sum()
    return found


@given(weight=WEIGHTS, fmt=FORMATS)
@settings(max_examples=50, deadline=None)
def test_decode_is_the_definition(weight, fmt):
    coded = encode(weight, fmt, 2)
    n, k = weight.shape
    along_n, along_k = fmt.blocks(n, k)
    assert coded.signs.shape == (n, fmt.planes, along_k * fmt.group)
    assert coded.terms.shape == (along_n, along_k, fmt.planes, fmt.terms)
    found = decode(coded, fmt, k)
    assert found.dtype == np.float32 and found.shape == weight.shape
    assert np.allclose(found, wide(coded, fmt, k), rtol=2.0**-23, atol=2.0**-40)


@given(weight=WEIGHTS, fmt=FORMATS)
@settings(max_examples=50, deadline=None)
def test_no_round_makes_a_block_worse(weight, fmt):
    norm = (weight.astype(np.float64) ** 2).sum()
    errors = [error_of_blocks(weight, encode(weight, fmt, rounds), fmt) for rounds in range(5)]
    for before, after in itertools.pairwise(errors):
        assert (after <= before + 1e-13 * norm).all()


@pytest.mark.parametrize("fmt", [BinaryCodes(2, 128), BinaryCodes(3, 128), BinaryCodes(4, 8, 16)])
def test_the_error_of_a_usual_weight_falls_in_every_round(fmt):
    weight = gaussian(64, 512)
    errors = [
        error_of_blocks(weight, encode(weight, fmt, rounds), fmt).sum() for rounds in range(9)
    ]
    assert all(after < before for before, after in itertools.pairwise(errors)), errors


@given(weight=WEIGHTS, fmt=FORMATS)
@settings(max_examples=50, deadline=None)
def test_alphas_fall_and_signs_are_the_nearest(weight, fmt):
    coded = encode(weight, fmt, 3)
    alpha = powers.values(coded.terms)
    assert (alpha >= 0).all() and (alpha[..., 1:] <= alpha[..., :-1]).all()
    k = weight.shape[1]
    spread = np.repeat(np.repeat(alpha, fmt.outputs, axis=0)[: len(weight)], fmt.group, axis=1)
    patterns = np.array(np.meshgrid(*[[-1, 1]] * fmt.planes)).reshape(fmt.planes, -1)
    nearest = np.abs(weight[:, :, None] - spread[:, :k] @ patterns).min(axis=-1)
    error = np.abs(weight - wide(coded, fmt, k))
    assert np.allclose(error, nearest, rtol=1e-12, atol=1e-12 * np.abs(weight).max())


@pytest.mark.parametrize(("n", "k", "fmt"), SHAPES)
def test_a_block_is_coded_as_if_it_were_alone(n, k, fmt):
    weight = gaussian(n, k)
    coded = encode(weight, fmt)
    along_n, along_k = fmt.blocks(n, k)
    for i in range(along_n):
        for g in range(along_k):
            columns = slice(g * fmt.group, (g + 1) * fmt.group)
            part = weight[i * fmt.outputs : (i + 1) * fmt.outputs, columns]
            alone = BinaryCodes(fmt.planes, part.shape[1], part.shape[0], fmt.terms)
            assert (encode(part, alone).terms == coded.terms[i, g]).all()


@pytest.mark.parametrize(("planes", "gain"), [(2, 0.9), (3, 0.75), (4, 0.6)])
def test_rounds_beat_the_greedy_start(planes, gain):
    weight = gaussian(64, 256)
    fmt = BinaryCodes(planes, 64)
    greedy, first, last = (
        error_of_blocks(weight, encode(weight, fmt, rounds), fmt).sum() for rounds in (0, 1, 20)
    )
    assert last < gain * greedy
    assert last < first < greedy


@pytest.mark.parametrize(("n", "k", "fmt"), SHAPES)
def test_more_planes_and_terms_are_nearer(n, k, fmt):
    weight = gaussian(n, k)
    fewer = BinaryCodes(fmt.planes, fmt.group, fmt.outputs, 1)
    errors = [
        error_of_blocks(weight, encode(weight, one), one).sum()
        for one in (fewer, BinaryCodes(fmt.planes, fmt.group, fmt.outputs, 3))
    ]
    assert errors[1] <= errors[0]


def test_a_weight_of_one_power_of_two_is_exact():
    signs = np.random.default_rng(1).random((5, 40)) < 0.5
    weight = np.where(signs, 0.25, -0.25).astype(np.float32)
    fmt = BinaryCodes(1, 8, terms=1)
    assert (decode(encode(weight, fmt), fmt, 40) == weight).all()


def test_zeros_stay_zeros():
    fmt = BinaryCodes(3, 8, 2)
    coded = encode(np.zeros((3, 20), np.float32), fmt)
    assert not coded.terms.any() and not decode(coded, fmt, 20).any()


def test_between_two_sums_the_smaller_is_taken():
    signs = assign(np.array([[0.0, 2.0, -2.0, 2.0001]]), np.array([[2.0, 1.0]]))
    value = (np.where(signs, 1, -1) * [2, 1]).sum(axis=-1)
    assert value.tolist() == [[-1, 1, -3, 3]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_refuses_what_has_no_terms(bad):
    weight = np.ones((2, 8), np.float32)
    weight[1, 3] = bad
    with pytest.raises(ValueError, match="the weight holds"):
        encode(weight, BinaryCodes(2, 4))


@given(
    signs=hnp.arrays(np.bool_, st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 100)))
)
@settings(max_examples=50, deadline=None)
def test_signs_round_trip(signs):
    k = signs.shape[-1]
    words = pack_signs(signs)
    assert words.dtype == np.uint32 and words.shape == (*signs.shape[:-1], -(-k // 32))
    assert (unpack_signs(words, k) == signs).all()
    filled = unpack_signs(words, words.shape[-1] * 32)
    assert filled[..., k:].all()


def test_the_first_sign_is_the_lowest_bit():
    signs = np.zeros(40, np.bool_)
    signs[[1, 33]] = True
    assert pack_signs(signs).tolist() == [2, 0xFFFFFF02]


@pytest.mark.parametrize(("n", "k", "fmt"), SHAPES)
def test_bits_are_those_of_the_stored_bytes(n, k, fmt):
    coded = encode(gaussian(n, k), fmt, 0)
    stored = coded.signs.size + 8 * coded.terms.size
    assert fmt.bits_per_weight(n, k) == pytest.approx(stored / (n * k))
