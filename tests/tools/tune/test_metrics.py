"""Scores of predictions, by hand: regret, tau, what counts as slower, and the noise floor."""

import numpy as np
import pytest
from lowc.passes.tiling import space
from lowc.tools.tune import metrics
from lowc.tools.tune.measured import Table
from tiny.measurements import HERE, problem


def table(seconds, noise=0.0, default=0):
    one = problem(64, 384, 384)
    tilings = space.candidates(one)[: len(seconds)]
    return Table(
        one, HERE, tilings, np.array(seconds, float), np.full(len(seconds), noise), default
    )


def test_regret_of_the_first_and_of_the_first_eight():
    seconds = [2.0, *[3.0] * 8, 1.0, 4.0]
    predicted = np.arange(11.0)
    found = metrics.score(table(seconds), predicted)
    assert found.regret == pytest.approx(1.0) and found.default_regret == pytest.approx(1.0)
    assert found.top_regret == pytest.approx(1.0)  # the best one is tenth
    predicted[9] = 6.5
    assert metrics.score(table(seconds), predicted).top_regret == pytest.approx(0.0)


def test_tau():
    a = np.array([1.0, 2.0, 3.0, 4.0])
    assert metrics.kendall(a, a**2) == 1 and metrics.kendall(a, -a) == -1
    assert metrics.kendall(a, np.array([1.0, 2.0, 4.0, 3.0])) == pytest.approx(4 / 6)
    assert metrics.kendall(a, np.ones(4)) == 0


def test_tau_of_what_differs_by_more_than_noise():
    predicted = np.array([1.0, 2.0, 4.0, 3.0])
    one = table([1.0, 2.0, 3.0, 3.1], noise=0.02)  # the last two are alike
    assert metrics.apart(one).sum() == 5 and metrics.tau_apart(one, predicted) == 1
    assert metrics.kendall(predicted, one.seconds) < 1
    assert metrics.tau_apart(table([1.0, 2.0, 3.0, 3.1]), predicted) == pytest.approx(4 / 6)
    assert np.isnan(metrics.tau_apart(table([1.0, 1.01]), np.array([1.0, 2.0])))


def test_slower_than_the_default_counts_beyond_noise():
    assert metrics.score(table([1.0, 1.1]), np.array([2.0, 1.0])).slower
    assert not metrics.score(table([1.0, 1.1], noise=0.05), np.array([2.0, 1.0])).slower
    assert not metrics.score(table([1.0, 1.1]), np.array([2.0, 1.0]), chosen=0).slower
    assert not metrics.score(table([1.0, 1.01]), np.array([2.0, 1.0])).slower
    assert np.isnan(metrics.score(table([1.0, 1.1], default=-1), np.ones(2)).gain)


def test_the_floor_is_nothing_without_noise():
    assert metrics.noise_floor(table([1.0, 1.01, 2.0])) == 0
    assert 0 < metrics.noise_floor(table([1.0, 1.01, 2.0], noise=0.02)) < 0.01


def test_summaries():
    scores = [
        metrics.score(table([2.0, 1.0]), np.array([2.0, 1.0])),
        metrics.score(table([1.0, 1.5]), np.array([2.0, 1.0])),
    ]
    found = metrics.summarize(scores)
    assert found.products == 2 and found.slower == 1 and found.tau == 0
    assert found.mean_regret == pytest.approx(0.25)
    assert found.gain == pytest.approx((2 / 1.5) ** 0.5)
    with pytest.raises(ValueError, match="no scores"):
        metrics.summarize([])
    assert metrics.r_squared(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == 1
