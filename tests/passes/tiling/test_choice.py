"""The choice: gains that are sure, measurements before estimates, and the default in doubt."""

from dataclasses import dataclass, field

import numpy as np
from lowc.passes.tiling import space
from lowc.passes.tiling.choice import Prediction, choose
from lowc.passes.tiling.problem import Problem
from lowc.passes.tiling.record import Machine
from lowc.passes.tiling.roofline import Roofline
from products.problems import linalg, problem

ONE = problem("f32", "avx512vnni", 1, 128, 384, 384)
TILINGS = space.candidates(ONE)


@dataclass
class Oracle:
    """Says what it was told, and of all other tiles that they are as slow as the default."""

    times: dict = field(default_factory=dict)
    spread: float = 0.01
    name: str = "oracle"

    def predict(self, problem, tilings):
        seconds = [self.times.get(tiling, 1.0) for tiling in tilings]
        return Prediction(np.array(seconds), np.full(len(tilings), self.spread))


def test_a_sure_gain_is_taken():
    chosen = choose(ONE, Oracle({TILINGS[5]: 0.8}))
    assert chosen.tiling == TILINGS[5]
    assert not chosen.is_default
    assert chosen.seconds == 0.8
    assert chosen.reason == f"oracle: the best of {len(TILINGS)}, 25 % before the default"
    assert chosen.best[0] == TILINGS[5]
    assert TILINGS[0] in chosen.best


def test_a_gain_within_the_spread_is_not():
    chosen = choose(ONE, Oracle({TILINGS[5]: 0.8}, spread=0.3))
    assert chosen.is_default
    assert "less than it is sure of" in chosen.reason


def test_little_is_not_taken_however_sure():
    assert choose(ONE, Oracle({TILINGS[5]: 0.99}, spread=0.0)).is_default


def test_who_knows_nothing_is_not_asked():
    chosen = choose(ONE, Oracle({TILINGS[5]: 0.1}, spread=0.9))
    assert chosen.is_default
    assert chosen.reason == "oracle knows too little of this product: default tile"


def test_measurements_overrule():
    known = {TILINGS[0]: 1.0, TILINGS[3]: 0.9, TILINGS[5]: 1.4}
    chosen = choose(ONE, Oracle({TILINGS[5]: 0.5}), measured=known)
    assert chosen.tiling == TILINGS[3]
    assert chosen.seconds == 0.9
    assert chosen.reason == "measured: the fastest of 3, 11 % faster than the default"


def test_what_was_measured_to_be_slower_is_never_taken():
    known = {TILINGS[0]: 1.0, TILINGS[5]: 1.4}
    chosen = choose(ONE, Oracle({TILINGS[5]: 0.5}), measured=known)
    assert chosen.is_default
    assert chosen.reason == "measured: none of 2 tiles is faster than the default"


def test_what_failed_is_never_taken():
    """The ranker's first ones were measured wrong: the default stays, whatever it thinks of more."""
    oracle = Oracle({TILINGS[5]: 0.5, TILINGS[6]: 0.6, TILINGS[7]: 0.7})
    known = {TILINGS[0]: 1.0, TILINGS[5]: np.inf, TILINGS[6]: np.inf}
    chosen = choose(ONE, oracle, measured=known)
    assert chosen.is_default and chosen.seconds == 1.0
    assert chosen.reason == "measured: none of 1 tiles is faster than the default; 2 failed"
    assert not {TILINGS[5], TILINGS[6]} & set(chosen.best)
    # Where nothing else was measured, the best of the others.
    assert choose(ONE, oracle, measured={TILINGS[5]: np.inf}).tiling == TILINGS[6]
    faster = choose(ONE, oracle, measured={**known, TILINGS[3]: 0.5})
    assert faster.tiling == TILINGS[3]
    assert faster.reason == "measured: the fastest of 2, 100 % faster than the default; 2 failed"


def test_where_the_default_failed_the_fastest_is_taken():
    known = {TILINGS[0]: np.inf, TILINGS[3]: 2.0, TILINGS[4]: 1.0, TILINGS[5]: 3.0}
    for ranker in (None, Oracle()):
        chosen = choose(ONE, ranker, measured=known)
        assert chosen.tiling == TILINGS[4] and not chosen.is_default
        why = "measured: the fastest of 3; 1 failed, the default among them"
        assert (chosen.seconds, chosen.reason) == (1.0, why)
    every = dict.fromkeys(TILINGS[:3], np.inf)
    assert choose(ONE, None, measured=every).reason == (
        "measured: all of 3 tiles failed: default tile"
    )


def test_measured_without_a_ranker():
    assert choose(ONE, None, measured={TILINGS[0]: 1.0, TILINGS[3]: 0.5}).tiling == TILINGS[3]
    assert choose(ONE, None).reason == "nothing was measured: default tile"


def test_sizes_that_are_not_known_and_spaces_of_one():
    unknown = problem("f32", "avx512vnni", 1, None, 384, 384)
    assert choose(unknown, Oracle()).is_default
    single = problem("f32", "avx512vnni", 1, 1, 1, 1)
    assert choose(single, Oracle()).reason == "the only tile"


def test_the_roofline_orders_what_is_plain():
    """More rows take longer; a workgroup for all leaves a thread without work."""
    ranker = Roofline(Machine("x", "avx512vnni", threads=2, caches=(32768, 1 << 20, 32 << 20)))
    small, large = (problem("f32", "avx512vnni", 1, m, 384, 384) for m in (16, 512))
    first, second = (ranker.predict(p, [space.default(p)]).seconds[0] for p in (small, large))
    assert second > 8 * first
    found = ranker.predict(ONE, TILINGS)
    assert np.isfinite(found.seconds).all()
    assert (found.seconds > 0).all()
    alone = [
        i
        for i, t in enumerate(TILINGS)
        if t.tile.row_chunk >= 128 and t.tile.panels * t.tile.columns >= 384
    ]
    assert not alone or found.seconds[alone].min() > found.seconds.min()


def test_the_roofline_does_not_know_code_generation():
    ranker = Roofline(Machine("x", "avx512vnni"))
    assert choose(linalg("lmul", "avx512vnni", 1, 64, 64, 64), ranker).is_default


def test_what_nothing_is_known_of_has_no_seconds():
    gpu = Problem("w4a8", "kernel", "ptx", 1, 1, 384, 512, own_batch=True, weight="i4", group=32)
    for one in (gpu, linalg("lmul", "avx512vnni", 3, 128, 384, 384)):
        chosen = choose(one, Roofline(Machine("somewhere", one.unit)))
        assert chosen.is_default and chosen.seconds is None and chosen.count > 1
        assert chosen.reason == "roofline knows too little of this product: default tile"
