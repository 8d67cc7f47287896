"""Choosing tokens from logits."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from lowc.errors import UserError
from lowc.runtime.generation import Sampler, Sampling

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


@pytest.mark.parametrize(
    "how", [{"temperature": -1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0},
            {"top_p": 1.1}, {"seed": -1}]
)  # fmt: skip
def test_what_is_no_way_of_sampling_is_refused(how):
    with pytest.raises(UserError):
        Sampling(**how)
