"""Choosing tokens from logits."""

from __future__ import annotations

from collections import Counter

import ml_dtypes
import numpy as np
import pytest
from lowc.errors import UserError
from lowc.runtime.sampling import Sampler, Sampling, _most_likely

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))


def _drawn(count=4000, **how):
    sampler = Sampler(Sampling(seed=1, **how))
    return Counter(sampler.choose(LOGITS) for _ in range(count))


def test_no_temperature_takes_the_most_likely_token():
    assert set(_drawn(5)) == {1}


def test_temperature_draws_by_probability():
    found = _drawn(temperature=1.0)
    for token, share in enumerate((0.1, 0.4, 0.2, 0.3)):
        assert abs(found[token] / 4000 - share) < 0.03
    # Squares of the probabilities, over their sum of 0.3.
    assert abs(_drawn(temperature=0.5)[1] / 4000 - 0.16 / 0.3) < 0.03


def test_top_k_and_top_p_leave_the_unlikely_out():
    assert set(_drawn(temperature=1.0, top_k=2)) == {1, 3}
    assert set(_drawn(temperature=1.0, top_p=0.65)) == {1, 3}
    assert set(_drawn(temperature=1.0, top_p=0.75)) == {1, 2, 3}
    assert set(_drawn(temperature=1.0, top_p=0.01)) == {1}


def test_a_seed_draws_the_same_again():
    first, again = (
        [sampler.choose(LOGITS) for _ in range(50)]
        for sampler in (Sampler(Sampling(1.0, seed=7)), Sampler(Sampling(1.0, seed=7)))
    )
    assert first == again


def test_top_k_takes_the_first_of_equal_ones_as_a_sort_does():
    logits = np.random.default_rng(0).integers(0, 40, 300).astype(np.float32)
    logits[7] = -np.inf
    order = np.argsort(-logits, kind="stable")
    for count in (1, 2, 5, 40, 299, 300, 301):
        np.testing.assert_array_equal(_most_likely(logits, count), order[:count])
    np.testing.assert_array_equal(_most_likely(logits, 0), order)


@pytest.mark.filterwarnings("error")
def test_the_smallest_temperature_takes_the_most_likely_token():
    assert set(_drawn(5, temperature=1e-320)) == {1}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("logits", [[1, np.nan, 2], [np.inf, 1, 2], [-np.inf] * 3])
def test_logits_without_a_largest_number_are_refused(logits, temperature):
    sampler = Sampler(Sampling(temperature), "model.vmfb")
    with pytest.raises(UserError, match=r"model\.vmfb: no token can be chosen.* is (nan|-?inf)"):
        sampler.choose(np.array(logits, np.float32))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_of_16_bits_are_chosen_from(temperature):
    for dtype in (np.float16, ml_dtypes.bfloat16):
        logits = np.array([-np.inf, 1, -np.inf], np.float32).astype(dtype)
        assert Sampler(Sampling(temperature)).choose(logits) == 1


@pytest.mark.parametrize(
    "how", [{"temperature": -1}, {"temperature": float("nan")}, {"temperature": "1"}, {"temperature": None},
            {"top_k": -1}, {"top_k": 2.5}, {"top_k": True}, {"top_p": 0}, {"top_p": 1.1}, {"top_p": "1"},
            {"seed": -1}, {"seed": 1.5}]
)  # fmt: skip
def test_what_is_no_way_of_sampling_is_refused(how):
    with pytest.raises(UserError):
        Sampling(**how)
