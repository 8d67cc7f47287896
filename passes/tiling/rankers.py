"""Rankers by the name or path that users give: the one place that knows them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path

import numpy as np

from ...errors import UserError
from . import remote
from .choice import Prediction, Ranker
from .problem import Problem
from .record import Machine
from .roofline import Roofline
from .tilings import Tiling

NONE, ROOFLINE, LEARNED = "none", "roofline", "learned"


@dataclass(frozen=True)
class Unable:
    """A ranker that knows nothing, and says why; products keep their default tiles."""

    name: str

    def predict(self, _problem: Problem, tilings: Sequence[Tiling]) -> Prediction:
        """Return a prediction that is not sure of anything."""
        return Prediction(np.ones(len(tilings)), np.full(len(tilings), np.inf))


def ranker(name: str, machine: Machine) -> Ranker | None:
    """Return the ranker called `name` for `machine`; None for ``none``.

    ``learned`` is the model that was fitted on this machine, or else the one that comes with lowc
    for its vector unit; without either, or without LightGBM, a ranker that leaves all tiles as they
    are and says why.  A URL is a server's (``lowc serve``), for which ``learned`` or else
    ``roofline`` stands in.  Any other name is the folder of a model.

    Raises
    ------
    UserError
        When a folder holds no model that can be used, or LightGBM is missing for it.
    """
    if name == NONE:
        return None
    if name == ROOFLINE:
        return Roofline(machine)
    if name.startswith(remote.SCHEMES):
        return remote.Remote(name, lambda: _local(machine))
    from . import tree_ranker

    if name != LEARNED:
        if not Path(name).exists():
            raise UserError(
                f"there is no cost model '{name}'",
                hint=f"{NONE}, {ROOFLINE}, {LEARNED}, a server's URL, or a model's folder",
            )
        return tree_ranker.load(Path(name), machine)
    folder = tree_ranker.fitted(machine) or tree_ranker.packaged(machine.unit)
    if folder is None:
        return Unable(
            f"there is no cost model for {machine.unit} ('lowc tune --fit' makes one), which"
        )
    if util.find_spec("lightgbm") is None:
        return Unable("the cost model needs LightGBM (pip install 'lowc[tune]'), without which it")
    return tree_ranker.load(folder, machine)


def _local(machine: Machine) -> Ranker:
    """Return the best ranker that needs no server."""
    found = ranker(LEARNED, machine)
    return Roofline(machine) if found is None or isinstance(found, Unable) else found
