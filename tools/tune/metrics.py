"""How good a prediction of times is, above all for choosing: regret, Kendall's tau, errors of time.

Regret is how much longer the chosen tile takes than the best measured one.  Some of it is noise:
the best of a hundred measurements is one that was lucky.  :func:`noise_floor` says how much, by
measuring again in thought.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .measured import Table

Floats = NDArray[np.float64]
TOP = 8  # tiles that are measured after a prediction
LEAST_NOISE = 0.02  # differences of times below it are nobody's
REPEATS = 50


@dataclass(frozen=True)
class Score:
    """One product: what a prediction of its times is worth.

    ``regret`` is that of the tile predicted fastest, ``top_regret`` that of the best of the first
    :data:`TOP`, ``chosen_regret`` that of the tile that is taken (the default, if the prediction is
    unsure); ``slower`` says whether that is slower than the default by more than noise, ``gain``
    how many times as fast as the default it is.  ``tau_apart`` is Kendall's tau of the pairs of
    tiles that differ by more than noise, NaN where none do, and ``apart`` how many of all pairs do.
    """

    shape: str
    form: str
    lowering: str
    tiles: int
    regret: float
    top_regret: float
    chosen_regret: float
    default_regret: float
    tau: float
    tau_apart: float
    apart: float
    percent_error: float
    slower: bool
    gain: float
    floor: float
    tau_ceiling: float
    noise: float


def score(table: Table, predicted: Floats, chosen: int | None = None) -> Score:
    """Return the score of predicted seconds; `chosen` is the tile taken, by default the fastest."""
    seconds, best, usual = table.seconds, table.best, table.default
    order = np.argsort(predicted, kind="stable")
    first = int(order[0])
    chosen = first if chosen is None else chosen
    has_default = usual >= 0
    return Score(
        shape=table.problem.shape, form=table.problem.form, lowering=table.problem.lowering,
        tiles=len(seconds), regret=float(seconds[first] / best - 1),
        top_regret=float(seconds[order[:TOP]].min() / best - 1),
        chosen_regret=float(seconds[chosen] / best - 1),
        default_regret=float(seconds[usual] / best - 1) if has_default else float("nan"),
        tau=kendall(predicted, seconds), tau_apart=tau_apart(table, predicted),
        apart=float(apart(table).mean()),
        percent_error=float(np.mean(np.abs(predicted / seconds - 1))),
        slower=has_default and is_slower(table, chosen),
        gain=float(seconds[usual] / seconds[chosen]) if has_default else float("nan"),
        floor=noise_floor(table), tau_ceiling=tau_ceiling(table),
        noise=float(np.median(table.noise)),
    )  # fmt: skip


def is_slower(table: Table, chosen: int) -> bool:
    """Whether a tile is slower than the default by more than both times may be off."""
    usual = table.default
    if chosen == usual:
        return False
    noise = max(LEAST_NOISE, 2 * float(np.hypot(table.noise[chosen], table.noise[usual])))
    return bool(table.seconds[chosen] > table.seconds[usual] * (1 + noise))


def kendall(a: Floats, b: Floats) -> float:
    """Return Kendall's tau-b: 1 for the same order, -1 for the opposite, 0 if one is constant."""
    left = np.sign(a[:, None] - a[None, :])
    right = np.sign(b[:, None] - b[None, :])
    scale = np.sqrt(np.sum(left**2) * np.sum(right**2))
    return float(np.sum(left * right) / scale) if scale else 0.0


def apart(table: Table) -> NDArray[np.bool_]:
    """Return ``[pairs]``: whether two tiles differ by more than their times may be off."""
    first, second = np.triu_indices(len(table.seconds), 1)
    noise = np.maximum(LEAST_NOISE, 2 * np.hypot(table.noise[first], table.noise[second]))
    found: NDArray[np.bool_] = np.abs(_differ(table.seconds)) > np.log1p(noise)
    return found


def tau_apart(table: Table, predicted: Floats) -> float:
    """Return Kendall's tau of the pairs of tiles that :func:`apart` says differ; NaN if none do.

    Pairs that a second measurement would turn as well as not say nothing about a prediction.
    """
    pairs = apart(table)
    if not pairs.any():
        return float("nan")
    agree = np.sign(_differ(predicted)) * np.sign(_differ(table.seconds))
    return float(agree[pairs].mean())


def _differ(seconds: Floats) -> Floats:
    first, second = np.triu_indices(len(seconds), 1)
    found: Floats = np.log(seconds[first] / seconds[second])
    return found


def _again(table: Table) -> Floats:
    """Return the times that repeated measurements with the same noise would give."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(REPEATS, len(table.seconds))) * table.noise
    found: Floats = table.seconds * np.exp(noise)
    return found


def tau_ceiling(table: Table) -> float:
    """Return Kendall's tau of a second measurement: no prediction can be expected to be better."""
    return float(np.mean([kendall(again, table.seconds) for again in _again(table)]))


def noise_floor(table: Table) -> float:
    """Return the mean regret of the best tile of a second measurement with the same noise."""
    again = _again(table)
    return float(np.mean(table.seconds[np.argmin(again, axis=1)]) / table.best - 1)


@dataclass(frozen=True)
class Summary:
    """Scores of many products together; regrets and errors are fractions.

    ``tau_apart`` is the mean over the products that have pairs of tiles apart.
    """

    products: int
    shapes: int
    mean_regret: float
    p95_regret: float
    top_regret: float
    chosen_regret: float
    p95_chosen_regret: float
    default_regret: float
    tau: float
    tau_apart: float
    apart: float
    mape: float
    slower: int
    gain: float
    floor: float
    tau_ceiling: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


def summarize(scores: Sequence[Score]) -> Summary:
    """Return means over products, 95th percentiles, and the geometric mean of gains.

    Raises
    ------
    ValueError
        When there are none.
    """
    if not scores:
        raise ValueError("there are no scores")

    def every(name: str) -> Floats:
        return np.array([getattr(one, name) for one in scores], float)

    return Summary(
        products=len(scores), shapes=len({one.shape for one in scores}),
        mean_regret=float(every("regret").mean()), p95_regret=_p95(every("regret")),
        top_regret=float(every("top_regret").mean()),
        chosen_regret=float(every("chosen_regret").mean()),
        p95_chosen_regret=_p95(every("chosen_regret")),
        default_regret=float(np.nanmean(every("default_regret"))),
        tau=float(every("tau").mean()), tau_apart=_mean_of_known(every("tau_apart")),
        apart=_mean_of_known(every("apart")), mape=float(every("percent_error").mean()),
        slower=int(every("slower").sum()),
        gain=float(np.exp(np.nanmean(np.log(every("gain"))))), floor=float(every("floor").mean()),
        tau_ceiling=float(every("tau_ceiling").mean()),
    )  # fmt: skip


def _mean_of_known(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def _p95(values: Floats) -> float:
    return float(np.percentile(values, 95))


def r_squared(found: Floats, predicted: Floats) -> float:
    """Return the share of the variance that is explained."""
    rest = np.sum((found - predicted) ** 2)
    return float(1 - rest / np.sum((found - found.mean()) ** 2))
