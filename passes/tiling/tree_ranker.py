"""Rank tiles by trees: they predict how far a time is off its estimate, and what is faster.

A formula for each form says what grows with what (:func:`.features.components`), and one model how
far the times of a product are off it.  Several models, each trained without a part of the shapes,
predict how tiles differ; where they disagree the prediction is unsure.  One more model ranks.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import features, model_files, trees, work
from .choice import Prediction
from .model_files import ModelFiles, Numbers
from .problem import BACKENDS, Problem
from .record import Machine
from .tilings import Tiling

Floats = NDArray[np.float64]
ELSEWHERE = 2.0  # times as unsure on another machine, or with few measurements
FEW = 10  # products that a model is fitted to: fewer say little of how unsure it is


def is_alike(one: Machine, other: Machine) -> bool:
    """Whether a model of one machine is at home on the other.

    The name alone does not say it: in virtual machines it is often that of a whole line of
    processors ("AMD EPYC").
    """
    same = ("name", "unit", "threads", "caches")
    return all(getattr(one, field) == getattr(other, field) for field in same)


class TreeRanker:
    """The models of a folder, for products on `machine`."""

    def __init__(self, loaded: ModelFiles, machine: Machine, where: str = "") -> None:
        manifest = loaded.manifest
        self.manifest, self.machine = manifest, machine
        names = (*manifest.time, *manifest.level, *manifest.rank)
        files = [(f"{where}/{name}", loaded.files[name]) for name in names]
        self._trees = trees.load(files, features.NAMES)
        self.instead_of = ""  # the model that could not be used, and why
        self.at_home = is_alike(machine, manifest.machine)

    @property
    def name(self) -> str:
        """Which model it is, for reports."""
        where = "" if self.at_home else f" fitted on {self._home}, another machine,"
        if self._is_of_few:
            where += f" fitted to only {self._products} products,"
        instead = f" in the place of {self.instead_of}" if self.instead_of else ""
        return f"cost model {self.manifest.name}{where}{instead}"

    @property
    def _products(self) -> int:
        count = self.manifest.data.get("products")
        return count if isinstance(count, int) else FEW

    @property
    def _is_of_few(self) -> bool:
        return self._products < FEW

    @property
    def _home(self) -> str:
        return _named(self.manifest.machine)

    @property
    def warning(self) -> str:
        """What to tell a user whose machine is another one; "" if it is not."""
        if self.at_home:
            return ""
        return (
            f"the cost model was fitted on {self._home}, this is {_named(self.machine)}: its "
            "ranking is used, but only where it is surer than usual; "
            "'lowc tune --quick' fits one for this machine"
        )

    def predict(self, problem: Problem, tilings: Sequence[Tiling]) -> Prediction:
        """Return seconds and their spread for each of `tilings`; the first is the default."""
        if not self._knows(problem):
            nothing = np.full(len(tilings), np.inf)
            return Prediction(np.ones(len(tilings)), nothing)
        rows = features.matrix(problem, tilings, self.machine)
        members, levels, ranks = self.said(rows)
        factor = (1.0 if self.at_home else ELSEWHERE) * (ELSEWHERE if self._is_of_few else 1.0)
        base = base_of(rows, self.manifest.formulas.get(form_key(problem)))
        base = base + np.mean(levels)
        return combine(rows, members, ranks, self.manifest.numbers, base, factor)

    def _knows(self, problem: Problem) -> bool:
        """Whether what the model learnt is of the kind of code that `problem` becomes.

        On GPUs each form has kernels of its own, so that it says nothing of forms that it has not
        seen there.
        """
        if BACKENDS.get(self.manifest.machine.unit, "cpu") != problem.backend:
            return False
        return problem.backend == "cpu" or form_key(problem) in self.manifest.formulas

    def said(self, rows: Floats) -> tuple[Floats, Floats, Floats]:
        """Return ``[models, rows]``: what the models of times, of levels, and of ranks say."""
        found = self._trees.predict(rows)
        times, levels = len(self.manifest.time), len(self.manifest.level)
        return found[:times], found[times : times + levels], found[times + levels :]


def _named(machine: Machine) -> str:
    kib = "/".join(str(size >> 10) for size in machine.caches)
    return f"{machine.name} ({machine.unit}, {machine.threads} threads, caches of {kib} KiB)"


def combine(
    rows: Floats,
    members: Floats,
    ranks: Sequence[Floats] | Floats,
    numbers: Numbers,
    base: Floats,
    factor: float = 1.0,
) -> Prediction:
    """Put the models' words together.

    Parameters
    ----------
    rows, members, ranks : arrays
        Features of all tiles of one product, the first of them the default's; what each model of
        times says; and the scores of those that rank, of which higher is faster.
    numbers : Numbers
        What was fitted beside the trees.
    base : array
        Logarithms of times, to which the models of times add how tiles differ.
    factor : float
        How many times as unsure as at home.

    Notes
    -----
    The spread is that of the gain over the first tile: what all models get wrong for both does not
    matter for a choice.
    """
    logs = members.mean(axis=0) + base
    apart = (logs - logs.mean()) * numbers.time_slope
    if len(ranks):
        # Scores have a say in the order; the times are those that were predicted, in that order.
        order = np.argsort(apart - np.mean(ranks, axis=0) * numbers.rank_slope, kind="stable")
        apart[order] = np.sort(apart)
    differ = members - members[:, :1]
    disagree = differ.std(axis=0) if len(members) > 1 else np.zeros(len(rows))
    spread = np.hypot(numbers.spread_floor, numbers.spread_factor * disagree) * factor
    return Prediction(np.exp(logs.mean() + apart), spread)


def base_of(rows: Floats, formula: Sequence[float] | None) -> Floats:
    """Return logarithms of the formula's seconds; without one, of the estimate of features."""
    if formula is None:
        return rows[:, features.ESTIMATE]
    found: Floats = np.log(work.total(features.components(rows), formula) + 1e-9)
    return found


def form_key(problem: Problem) -> str:
    """Return what has a formula of its own: form and lowering."""
    return f"{problem.form}/{problem.lowering}"


def load(folder: Path, machine: Machine) -> TreeRanker:
    """Return the ranker of a model's folder.

    Raises
    ------
    UserError
        When the folder holds no model that this lowc can use.
    """
    return TreeRanker(model_files.read(folder), machine, str(folder))


def fitted(machine: Machine) -> Path | None:
    """Return the folder of the model that was fitted on a machine, if there is one."""
    folder = model_files.home() / machine.key
    return folder if (folder / model_files.MANIFEST).exists() else None


@functools.cache
def packaged(unit: str) -> Path | None:
    """Return the folder of the model that comes with lowc for a vector unit, if there is one.

    One model is for all units whose name begins with its folder's.
    """
    found = sorted(model_files.PACKAGED.glob(f"*/{model_files.MANIFEST}"))
    return next((path.parent for path in found if unit.startswith(path.parent.name)), None)
