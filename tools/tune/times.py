"""Times of tiles out of rounds: what a machine does meanwhile differs from round to round.

It meets all tiles of one round alike.  Rounds are brought to one level by the tiles that they share
(the default, if no others) before times of the same tile are put together.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ...passes.tiling import revisions, space
from ...passes.tiling.problem import Problem
from ...passes.tiling.record import Record


def level_times(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the seconds of each tile, as they are in the largest round (of several, the fastest).

    A round's factor is the median over the tiles that it shares with those that were brought to the
    level before it.  A tile's time is the median of its times then: the least would favour tiles
    that were measured more often.  A round that shares no tile with the others is left out.
    """
    left = sorted(rounds, key=lambda one: (-len(one), statistics.median(one.values())))
    found: dict[str, list[float]] = {}
    while left:
        known = {tile: statistics.median(times) for tile, times in found.items()}
        one = max(left, key=lambda other: len(other.keys() & known.keys()))
        left.remove(one)
        shared = one.keys() & known.keys()
        if known and not shared:
            break
        factor = statistics.median(known[t] / one[t] for t in shared) if known else 1.0
        for tile, seconds in one.items():
            found.setdefault(tile, []).append(factor * seconds)
    return {tile: statistics.median(times) for tile, times in found.items()}


def relative_times(records: Iterable[Record]) -> dict[str, dict[str, float]]:
    """Return seconds by tile, by the key of the product, of products whose default was measured.

    Records of kernels that are no more are left out (:mod:`.tiling.revisions`).
    """
    by_round: dict[Problem, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        if record.is_ok and record.seconds > 0 and revisions.current(record):
            by_round[record.problem][record.round][record.tiling] = record.seconds
    found = {}
    for problem, rounds in by_round.items():
        usual = space.default(problem).text
        tied = [times for times in rounds.values() if usual in times]
        if tied:
            found[problem.key] = level_times(tied)
    return found
