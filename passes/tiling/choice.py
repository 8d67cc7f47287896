"""Choose a tile: rank what is legal, and leave the default only for what is surely better.

A ranker predicts; this decides.  Never is a tile taken that measurements say is slower than the
default or fails, nor one whose predicted gain is less than how unsure the prediction is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from . import space
from .problem import Problem
from .tilings import KernelTiling, Tiling

LEAST_GAIN = 0.02  # less is noise
SURE = 1.0  # standard deviations that a predicted gain must be
TOO_UNSURE = 0.5  # standard deviation of the logarithm of a time: the ranker knows nothing


@dataclass(frozen=True)
class Prediction:
    """Seconds of a call for each tiling, and the standard deviation of their logarithms.

    A deviation that is infinite says that nothing is known: the seconds mean nothing then.
    """

    seconds: NDArray[np.float64]
    spread: NDArray[np.float64]


class Ranker(Protocol):
    """What predicts how long tilings take.

    ``name`` says which one it is, for reports.  ``seconds`` are of one call of the product.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    def predict(self, problem: Problem, tilings: Sequence[Tiling]) -> Prediction:
        """Return a prediction for each of `tilings`, all of which `problem` can have."""


@dataclass(frozen=True)
class Choice:
    """The tile that is taken, what it is believed to take, why, and what else could be measured.

    Attributes
    ----------
    tiling, is_default : Tiling, bool
        The tile, and whether it is the one that is taken without a model.
    seconds : float or None
        Predicted or measured time of a call; None where nothing is known.
    reason : str
        Why, for the report.
    best : tuple of Tiling
        The most promising ones, the first the best; the default is among them.
    count : int
        How many tiles there are.
    """

    tiling: Tiling
    is_default: bool
    seconds: float | None
    reason: str
    best: tuple[Tiling, ...]
    count: int


def choose(
    problem: Problem,
    ranker: Ranker | None,
    top: int = 8,
    measured: Mapping[Tiling, float] | None = None,
    *,
    stored: KernelTiling | None = None,
) -> Choice:
    """Return the tile for `problem`.

    Parameters
    ----------
    ranker : Ranker or None
        None chooses by measurements alone.
    top : int
        How many of the best to return.
    measured : mapping of Tiling to float, optional
        Seconds of tiles that were measured on this machine, the default's among them; infinite
        for those that failed, which are not taken.
    stored : KernelTiling, optional
        The default where the weight is stored in panels for another product: only tiles with as
        many columns can be taken.
    """
    tilings: Sequence[Tiling] = space.candidates(problem)
    known = dict(measured or {})
    if stored is not None:
        fitting = [one for one in tilings if _has_columns(one, stored)]
        tilings = tuple(dict.fromkeys((stored, *fitting)))
        known = {one: seconds for one, seconds in known.items() if _has_columns(one, stored)}
    failed = {one for one, seconds in known.items() if not np.isfinite(seconds)}
    known = {one: seconds for one, seconds in known.items() if one not in failed}
    usual = tilings[0]
    if not problem.is_static:
        why = "sizes that are known only at run time: default tile"
        return Choice(usual, True, None, why, (usual,), len(tilings))
    if len(tilings) == 1:
        return Choice(usual, True, None, "the only tile", (usual,), 1)
    found, order = None, [0]
    if ranker is not None:
        found = ranker.predict(problem, tilings)
        order = np.argsort(found.seconds, kind="stable").tolist()
    if failed:
        order = [i for i in order if tilings[i] not in failed]
    best = _best(tilings, order, top)
    is_tried = usual in known or usual in failed
    if is_tried and known and len(known) + len(failed) > 1:
        return _of_measured(problem, usual, len(tilings), known, best, len(failed))
    if is_tried and not known and (ranker is None or len(failed) > 1):
        why = f"measured: all of {len(failed)} tiles failed: default tile"
        return Choice(usual, True, None, why, best, len(tilings))
    if ranker is None or found is None:
        return Choice(usual, True, None, "nothing was measured: default tile", best, len(tilings))
    first = next((i for i in order if not _is_slower(tilings[i], usual, known)), 0)
    chosen, reason = decide(found, first, 0, len(tilings), ranker.name)
    tiling = tilings[chosen]
    # What nothing is known of has a number in its place, so that it has a rank.
    seconds = float(found.seconds[chosen]) if np.isfinite(found.spread[chosen]) else None
    return Choice(tiling, chosen == 0, seconds, reason, best, len(tilings))


def default_first(problem: Problem, best: Sequence[Tiling]) -> tuple[Tiling, ...]:
    """Return the default tile of `problem` and those of `best`, each once."""
    return tuple(dict.fromkeys((space.default(problem), *best)))


def _has_columns(tiling: Tiling, stored: KernelTiling) -> bool:
    return isinstance(tiling, KernelTiling) and tiling.tile.columns == stored.tile.columns


def _best(tilings: Sequence[Tiling], order: Sequence[int], top: int) -> tuple[Tiling, ...]:
    best = [tilings[i] for i in order[: max(1, top)]]
    return tuple(best) if tilings[0] in best else (*best, tilings[0])


def _is_slower(tiling: Tiling, usual: Tiling, known: Mapping[Tiling, float]) -> bool:
    return tiling in known and usual in known and known[tiling] > known[usual]


def _of_measured(
    problem: Problem,
    usual: Tiling,
    count: int,
    known: Mapping[Tiling, float],
    best: tuple[Tiling, ...],
    failed: int,
) -> Choice:
    """Return the fastest of the measured ones, or the default if that is as fast.

    So many tiles `failed`, the default among them if it is not `known`.
    """
    legal = {one: seconds for one, seconds in known.items() if not space.illegal(problem, one)}
    if not legal:
        why = "measured: none of the tiles that the product can have: default tile"
        return Choice(usual, True, None, why, best, count)
    fastest = min(legal, key=lambda tiling: legal[tiling])
    others = f"; {failed} failed" if failed else ""
    if usual not in known:
        why = f"measured: the fastest of {len(legal)}{others}, the default among them"
        return Choice(fastest, False, known[fastest], why, best, count)
    gain = known[usual] / known[fastest] - 1
    if fastest == usual or gain < LEAST_GAIN:
        why = f"measured: none of {len(legal)} tiles is faster than the default{others}"
        return Choice(usual, True, known[usual], why, best, count)
    why = f"measured: the fastest of {len(legal)}, {100 * gain:.0f} % faster than the default"
    why += others
    return Choice(fastest, False, known[fastest], why, best, count)


def decide(found: Prediction, first: int, usual: int, count: int, name: str) -> tuple[int, str]:
    """Return the number of the tile to take, and why.

    Parameters
    ----------
    found : Prediction
        Its spread is that of a gain over the tile `usual`.
    first, usual : int
        Numbers of the most promising tile and of the default.
    count, name : int, str
        How many tiles there are, and the ranker's name, for the reason.
    """
    unsure = float(found.spread[first])
    if not unsure <= TOO_UNSURE:
        return usual, f"{name} knows too little of this product: default tile"
    if first == usual:
        return usual, f"{name}: the default is the best of {count}"
    gain = float(np.log(found.seconds[usual] / found.seconds[first]))
    if not gain >= max(LEAST_GAIN, SURE * unsure):  # nor if it is no number
        why = f"the best of {count} gains {100 * gain:.0f} %, less than it is sure of"
        return usual, f"{name}: {why}"
    return first, f"{name}: the best of {count}, {100 * np.expm1(gain):.0f} % before the default"
