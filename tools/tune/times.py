"""Times of tiles out of records: by what they took beside the default in the same round.

What a machine does meanwhile differs from round to round, and meets all tiles of one alike.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable

from ...passes.tiling import space
from ...passes.tiling.problem import Problem
from ...passes.tiling.record import Record


def relative_times(records: Iterable[Record]) -> dict[str, dict[str, float]]:
    """Return seconds by tile, by the key of the product, of products whose default was measured.

    A tile's time is the median of its ratios to the default's, times the median of the default's.
    """
    by_round: dict[Problem, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        if record.is_ok:
            by_round[record.problem][record.round][record.tiling] = record.seconds
    found = {}
    for problem, rounds in by_round.items():
        usual = space.default(problem).text
        tied = [times for times in rounds.values() if usual in times]
        if not tied:
            continue
        middle = statistics.median(times[usual] for times in tied)
        ratios: dict[str, list[float]] = defaultdict(list)
        for times in tied:
            for tiling, seconds in times.items():
                ratios[tiling].append(seconds / times[usual])
        found[problem.key] = {
            tiling: middle * statistics.median(some) for tiling, some in ratios.items()
        }
    return found
