"""Train the trees of a cost model: those of times, each without a part of the shapes, and ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ...passes.tiling import features
from ...passes.tiling.choice import Prediction
from ...passes.tiling.model_files import Numbers
from ...passes.tiling.tree_ranker import base_of, combine, form_key
from .formulas import fit_formulas
from .measured import Table

Floats = NDArray[np.float64]
MEMBERS = 3  # models of times
LEVELS, LEVEL_STEP = 30, 0.015  # of what ranks are learnt from, and logarithms of time of one
ROUNDS = 150
LEVEL_ROUNDS, LEVEL_RATE = 60, 0.025  # few and slow: formulas leave little that shapes explain
USUAL_NOISE = 0.03  # of a time, as a fraction: tiles with much more count less
HUBER = 0.1  # differences of logarithms beyond it are no squares any more
SHARED: dict[str, Any] = {
    "learning_rate": 0.07, "num_leaves": 16, "min_data_in_leaf": 12, "feature_fraction": 0.4,
    "bagging_fraction": 0.8, "bagging_freq": 1, "lambda_l2": 3.0, "max_bin": 127, "verbosity": -1,
    "deterministic": True, "force_row_wise": True, "seed": 1, "num_threads": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Trees:
    """Trained models.

    Attributes
    ----------
    time : tuple
        Trees that say how a tile's time differs from those of other tiles of its product.
    level : tuple
        Trees that say how far all times of a product are off its formula.
    rank : tuple
        Trees that rank.
    formulas : dict
        By form: what the components of a time count.
    numbers : Numbers
        How all that is put together.
    """

    time: tuple[Any, ...]
    level: tuple[Any, ...]
    rank: tuple[Any, ...]
    formulas: dict[str, tuple[float, ...]]
    numbers: Numbers = field(default_factory=Numbers)

    def members(self, rows: Floats) -> tuple[Floats, list[Floats]]:
        """Return what each model of times says, and the scores of those that rank."""
        said = np.stack([booster.predict(rows, num_threads=1) for booster in self.time])
        return said, [booster.predict(rows, num_threads=1) for booster in self.rank]

    def base(self, table: Table, rows: Floats) -> Floats:
        """Return logarithms of times but for differences between tiles: formula and level."""
        level = np.mean([booster.predict(rows, num_threads=1) for booster in self.level])
        return base_of(rows, self.formulas.get(form_key(table.problem))) + level

    def predict(self, table: Table) -> Prediction:
        """Return seconds and spread of the tiles of a table."""
        rows = rows_of(table)
        return combine(rows, *self.members(rows), self.numbers, self.base(table, rows))


def rows_of(table: Table) -> Floats:
    """Return the features of a table's tiles."""
    return features.matrix(table.problem, table.tilings, table.machine)


def fold_of(family: str, folds: int, salt: str = "") -> int:
    """Return the fold of a family of shapes: by a hash, so that more data moves none of them."""
    return int(hashlib.sha256(f"{salt}{family}".encode()).hexdigest(), 16) % folds


def train(tables: Sequence[Table], members: int = MEMBERS, rounds: int = ROUNDS) -> Trees:
    """Train on tables.

    Raises
    ------
    UserError
        When there are too few shapes to leave some out.
    """
    folds = [fold_of(table.family, members, "member") for table in tables]
    if len(set(folds)) < 2:  # of few families: by their order
        order = sorted({table.family for table in tables})
        folds = [order.index(table.family) % members for table in tables]
    if len(set(folds)) < 2:
        raise UserError(
            "there are measurements of too few shapes to fit a cost model",
            hint="measure more of them with 'lowc tune'",
        )
    rows = [rows_of(table) for table in tables]
    formulas = fit_formulas(tables, rows)
    level, apart = [], []
    for table, one in zip(tables, rows, strict=True):
        goal = np.log(table.seconds) - base_of(one, formulas.get(form_key(table.problem)))
        level.append(np.full(len(goal), np.median(goal)))
        apart.append(goal - np.median(goal))
    time = []
    for fold in sorted(set(folds)):
        kept = [i for i, of in enumerate(folds) if of != fold]
        some = ([tables[i] for i in kept], [rows[i] for i in kept], [apart[i] for i in kept])
        time.append(_train_time(*some, rounds))
    levels = (_train_time(tables, rows, level, LEVEL_ROUNDS, LEVEL_RATE),)
    return Trees(tuple(time), levels, (_train_rank(tables, rows, rounds),), formulas)


def _weights(tables: Sequence[Table]) -> Floats:
    """Return weights of tiles: less for those of products with many, and for noisy ones."""
    return np.concatenate(
        [USUAL_NOISE / np.hypot(USUAL_NOISE, t.noise) / np.sqrt(len(t.seconds)) for t in tables]
    )


def _train_time(
    tables: Sequence[Table],
    rows: Sequence[Floats],
    goals: Sequence[Floats],
    rounds: int,
    rate: float = SHARED["learning_rate"],
) -> Any:
    import lightgbm

    data = lightgbm.Dataset(
        np.concatenate(rows),
        np.concatenate(goals),
        weight=_weights(tables),
        feature_name=list(features.NAMES),
        free_raw_data=False,
    )
    settings = {**SHARED, "learning_rate": rate, "objective": "huber", "alpha": HUBER}
    return lightgbm.train(settings, data, rounds)


def _train_rank(tables: Sequence[Table], rows: Sequence[Floats], rounds: int) -> Any:
    import lightgbm

    labels = np.concatenate([_relevance(table) for table in tables])
    data = lightgbm.Dataset(
        np.concatenate(rows), labels, group=[len(table.seconds) for table in tables],
        feature_name=list(features.NAMES), free_raw_data=False,
    )  # fmt: skip
    settings = {
        **SHARED, "objective": "lambdarank", "label_gain": [1.2**i - 1 for i in range(LEVELS + 1)],
        "lambdarank_truncation_level": 30,
    }  # fmt: skip
    return lightgbm.train(settings, data, rounds)


def _relevance(table: Table) -> NDArray[np.int64]:
    """Return :data:`LEVELS` for the best tile, one less for each step that a tile takes longer."""
    over = np.log(table.seconds / table.best) / LEVEL_STEP
    return np.clip(LEVELS - np.floor(over), 0, LEVELS).astype(np.int64)
