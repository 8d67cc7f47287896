"""Bits of the next token, against a sum written out, and inputs that have none."""

import math

import numpy as np
import pytest
from lowc.compiler.next_token import NextToken, next_token_bits
from lowc.errors import UserError


def test_bits_are_the_cross_entropy_of_the_next_token():
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal((2, 5, 7)) * 30).astype(np.float32)
    tokens = rng.integers(0, 7, (2, 5))
    expected = [
        [
            -math.log2(
                math.exp(float(logits[row, t, tokens[row, t + 1]]))
                / math.fsum(math.exp(float(value)) for value in logits[row, t])
            )
            for t in range(4)
        ]
        for row in range(2)
    ]
    np.testing.assert_allclose(next_token_bits(logits, tokens), expected, rtol=1e-9, atol=1e-9)


def test_equal_logits_cost_the_logarithm_of_the_vocabulary():
    found = NextToken()
    for _ in range(3):
        found.add([np.zeros((2, 9), np.int64)], [np.zeros((2, 9, 256), np.float32)])
    assert found.mean == pytest.approx(8)
    assert found.tokens == 3 * 2 * 8


def test_the_pair_is_found_among_other_inputs_and_outputs():
    tokens, mask = np.ones((1, 4), np.int64), np.ones((1, 4), np.float32)
    logits = np.zeros((1, 4, 2), np.float32)
    found = NextToken()
    found.add([mask, tokens], [np.zeros((1, 3), np.float32), logits])
    assert found.mean == pytest.approx(1)


@pytest.mark.parametrize(
    ("tokens", "logits", "said"),
    [
        (np.ones((1, 4), np.int64), np.zeros((1, 5, 2), np.float32), "no output has logits"),
        (np.ones((1, 4), np.float32), np.zeros((1, 4, 2), np.float32), "no output has logits"),
        (np.full((1, 4), 2), np.zeros((1, 4, 2), np.float32), "outside the vocabulary of 2"),
        (np.full((1, 4), -1), np.zeros((1, 4, 2), np.float32), "outside the vocabulary"),
    ],
)
def test_what_is_no_language_model_is_refused(tokens, logits, said):
    with pytest.raises(UserError, match=said):
        NextToken().add([tokens], [logits])


def test_two_inputs_that_could_be_tokens_are_refused():
    tokens = np.ones((1, 4), np.int64)
    with pytest.raises(UserError, match="several inputs"):
        NextToken().add([tokens, tokens], [np.zeros((1, 4, 2), np.float32)])


def test_one_token_has_no_next_one():
    found = NextToken()
    found.add([np.zeros((3, 1), np.int64)], [np.zeros((3, 1, 2), np.float32)])
    assert found.mean is None
