"""Cross-validate models of times: every product is predicted by models that saw none of its shape.

Folds are of whole families of shapes (the weight's sizes, :attr:`.measured.Table.family`): no shape
is in both, in another form or with another number of rows.  All models have the same folds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...passes.tiling import choice, features, work
from ...passes.tiling.choice import Prediction
from ...passes.tiling.model_files import Numbers
from ...passes.tiling.tree_ranker import combine, form_key
from . import baselines, metrics, trees
from .formulas import fit_counts
from .measured import Table
from .metrics import Score
from .trees import fold_of, rows_of

Floats = NDArray[np.float64]
FOLDS = 5
SLOPES = (0.0, 0.01, 0.02, 0.03, 0.05, 0.08)  # logarithms of time that a score can count
ORDER_COUNTS = 0.1  # of Kendall's tau, beside a regret
FACTORS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0)  # of the models' disagreement
Tell = Callable[[str], object]


@dataclass(frozen=True)
class Held:
    """Predictions for every table by models that did not see its family, in the tables' order."""

    tables: tuple[Table, ...]
    predictions: tuple[Prediction, ...]
    numbers: Numbers

    def scores(self) -> list[Score]:
        """Return the score of each."""
        return [
            metrics.score(table, found.seconds, decide(table, found))
            for table, found in zip(self.tables, self.predictions, strict=True)
        ]


def decide(table: Table, found: Prediction) -> int:
    """Return the tile that is taken, as ``passes/tiling/choice.py`` does: the default if unsure."""
    first, usual = int(np.argmin(found.seconds)), table.default
    if usual < 0 or first == usual:
        return first
    gain = float(np.log(found.seconds[usual] / found.seconds[first]))
    unsure = float(found.spread[first])
    if unsure > choice.TOO_UNSURE or gain < max(choice.LEAST_GAIN, choice.SURE * unsure):
        return usual
    return first


def folds_of(tables: Sequence[Table], folds: int = FOLDS) -> list[int]:
    """Return the fold of each table."""
    return [fold_of(table.family, folds) for table in tables]


@dataclass(frozen=True)
class _Said:
    """What models that did not see a table say of it."""

    rows: Floats
    members: Floats
    ranks: list[Floats]
    base: Floats

    def combined(self, numbers: Numbers) -> Prediction:
        return combine(self.rows, self.members, self.ranks, numbers, self.base)


def cross_validate(
    tables: Sequence[Table], tell: Tell, folds: int = FOLDS, rounds: int = trees.ROUNDS
) -> Held:
    """Predict every table by trees that were trained without its fold.

    The few numbers beside the trees, such as how much a score counts, are those that fit what was
    held out best.
    """
    where = folds_of(tables, folds)
    said: dict[int, _Said] = {}
    for fold in sorted(set(where)):
        kept = [table for table, of in zip(tables, where, strict=True) if of != fold]
        model = trees.train(kept, rounds=rounds)
        for i, of in enumerate(where):
            if of == fold:
                rows = rows_of(tables[i])
                said[i] = _Said(rows, *model.members(rows), model.base(tables[i], rows))
        tell(
            f"fold {fold + 1} of {folds}: {len(kept)} products learnt, {where.count(fold)} held out"
        )
    every = [said[i] for i in range(len(tables))]
    numbers = _with_spread(tables, every, _slopes(tables, every))
    predictions = tuple(one.combined(numbers) for one in every)
    return Held(tuple(tables), predictions, numbers)


def _slopes(tables: Sequence[Table], said: Sequence[_Said]) -> Numbers:
    """Return how much scores count: what the least regret is had with, then the best order."""

    def worth(numbers: Numbers) -> float:
        total = 0.0
        for table, one in zip(tables, said, strict=True):
            seconds = one.combined(numbers).seconds
            regret = table.seconds[np.argmin(seconds)] / table.best - 1
            total += regret - ORDER_COUNTS * metrics.kendall(seconds, table.seconds)
        return total

    return min((Numbers(1.0, slope) for slope in SLOPES), key=worth)


def _with_spread(tables: Sequence[Table], said: Sequence[_Said], numbers: Numbers) -> Numbers:
    """Return how sure a gain must be: so that no held-out product got slower outside the noise.

    A conformal margin: at least the largest gain that was predicted for a tile that was measured to
    be slower than the default.  Part of it is a number, part the models' disagreement, in the
    proportion that leaves the least regret.
    """
    gains = []  # predicted, by how much models disagree, regrets of both tiles, whether slower
    for table, one in zip(tables, said, strict=True):
        found = one.combined(replace(numbers, spread_factor=1.0, spread_floor=0.0))
        first, usual = int(np.argmin(found.seconds)), table.default
        if usual < 0 or first == usual:
            continue
        gain = float(np.log(found.seconds[usual] / found.seconds[first]))
        regrets = table.seconds[[first, usual]] / table.best - 1
        gains.append((gain, found.spread[first], *regrets, metrics.is_slower(table, first)))
    if not gains:
        return numbers
    gain, apart, moved, stayed, slower = np.array(gains, float).T
    best, least = numbers, np.inf
    for factor in FACTORS:
        floor = _floor(gain[slower > 0], factor * apart[slower > 0])
        asked = np.hypot(floor, factor * apart)
        regret = float(np.where(gain >= asked, moved, stayed).mean())
        if regret < least:
            best, least = replace(numbers, spread_factor=factor, spread_floor=floor), regret
    return best


def _floor(gain: Floats, apart: Floats) -> float:
    """Return the least number which with `apart`, as a hypotenuse, is more than each gain."""
    lacks = np.sqrt(np.maximum(gain**2 - apart**2, 0.0))
    return max(choice.LEAST_GAIN, 1.01 * float(lacks.max(initial=0.0)))


def cross_validate_baseline(name: str, tables: Sequence[Table], folds: int = FOLDS) -> list[Score]:
    """Return the scores of a baseline on the same folds."""
    where = folds_of(tables, folds)
    found: dict[int, Score] = {}
    for fold in sorted(set(where)):
        kept = [table for table, of in zip(tables, where, strict=True) if of != fold]
        predict = baselines.BASELINES[name](kept)
        for i, of in enumerate(where):
            if of == fold:
                found[i] = metrics.score(tables[i], _defaults_first(tables[i], predict(tables[i])))
    return [found[i] for i in range(len(tables))]


def _defaults_first(table: Table, predicted: Floats) -> Floats:
    """Make the default the fastest of those that are predicted alike."""
    found = predicted.copy()
    if table.default >= 0:
        found[table.default] *= 1 - 1e-12
    return found


def gpperf_split(tables: Sequence[Table]) -> dict[str, float]:
    """Return R² of time as GPPerf splits: rows at random, so that shapes are in both, and clipped.

    For its forest and for trees on the features of lowc; for comparison only.
    """
    from sklearn.model_selection import train_test_split

    x = np.concatenate([rows_of(table) for table in tables])
    columns = baselines.clipped(np.concatenate([baselines.gpperf_features(t) for t in tables]))
    y = baselines.clipped(np.concatenate([table.seconds for table in tables])[:, None])[:, 0]
    train, test = train_test_split(np.arange(len(y)), test_size=0.2, random_state=42)
    forest = baselines.forest().fit(columns[train], y[train, None])
    by_forest = np.asarray(forest.predict(columns[test]), float).reshape(-1)
    forms = np.concatenate([[form_key(t.problem)] * len(t.seconds) for t in tables])
    by_trees = _trees_on_rows(x, y, forms, train, test)
    return {
        "random forest (GPPerf)": metrics.r_squared(y[test], by_forest),
        "trees": metrics.r_squared(y[test], by_trees),
        "MAPE of random forest (GPPerf)": float(np.mean(np.abs(by_forest / y[test] - 1))),
        "MAPE of trees": float(np.mean(np.abs(by_trees / y[test] - 1))),
    }


def _trees_on_rows(
    x: Floats, y: Floats, forms: NDArray[Any], train: NDArray[Any], test: NDArray[Any]
) -> Floats:
    """Return seconds of the rows `test`, by formulas and trees that saw the rows `train`."""
    import lightgbm

    base = np.zeros(len(y))
    for form in np.unique(forms):
        seen = train[forms[train] == form]
        if len(seen):
            parts = features.components(x)
            counts = fit_counts(parts[seen], y[seen], np.ones(len(seen)))
            rows = forms == form
            base[rows] = np.log(work.total(parts[rows], counts) + 1e-9)
    booster: Any = lightgbm.train(
        {**trees.SHARED, "objective": "regression"},
        lightgbm.Dataset(x[train], np.log(y[train]) - base[train]),
        2 * trees.ROUNDS,
    )
    return np.exp(booster.predict(x[test]) + base[test])


def learning_curve(
    tables: Sequence[Table], shares: Sequence[float], tell: Tell
) -> list[dict[str, float]]:
    """Return what one held-out fold costs, learnt from shares of the other products."""
    where = folds_of(tables)
    fold = max(set(where), key=where.count)
    held = [table for table, of in zip(tables, where, strict=True) if of == fold]
    rest = [table for table, of in zip(tables, where, strict=True) if of != fold]
    rest.sort(key=lambda table: fold_of(table.problem.key, 1 << 32))  # in no order of their own
    found = []
    for share in shares:
        kept = rest[: max(2, round(share * len(rest)))]
        if len({fold_of(table.family, trees.MEMBERS, "member") for table in kept}) < 2:
            continue
        model = trees.train(kept)
        said = [model.predict(table) for table in held]
        scores = [
            metrics.score(table, one.seconds, decide(table, one))
            for table, one in zip(held, said, strict=True)
        ]
        one = metrics.summarize(scores)
        tiles = sum(len(table.seconds) for table in kept)
        found.append({
            "tiles": float(tiles), "products": float(len(kept)), "mean_regret": one.mean_regret,
            "top_regret": one.top_regret, "chosen_regret": one.chosen_regret, "tau": one.tau,
        })  # fmt: skip
        tell(f"learnt from {tiles} tiles: regret {100 * one.mean_regret:.1f} %")
    return found
