"""Rankers by the name or path that users give: the one place that knows them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    """A ranker that knows nothing, and says why; products keep their default tiles.

    What follows `link` in a sentence is what cannot be done for that reason.
    """

    why: str
    link: str

    @property
    def name(self) -> str:
        """The reason, as the beginning of a sentence on a choice."""
        return f"{self.why}, {self.link}"

    def predict(self, _problem: Problem, tilings: Sequence[Tiling]) -> Prediction:
        """Return a prediction that is not sure of anything."""
        return Prediction(np.ones(len(tilings)), np.full(len(tilings), np.inf))


def ranker(name: str, machine: Machine) -> Ranker | None:
    """Return the ranker called `name` for `machine`; None for ``none``.

    ``learned`` is the model that was fitted on this machine, or else the one that comes with lowc
    for its vector unit; without either that can be used, a ranker that leaves all tiles as they are
    and says why.  A URL is a server's (``lowc serve``), for which ``learned``
    or else ``roofline`` stands in.  Any other name is the folder of a model.

    Raises
    ------
    UserError
        When there is no such model, or a folder's cannot be used.
    """
    if name == NONE:
        return None
    if name == ROOFLINE:
        return Roofline(machine)
    if name.startswith(remote.SCHEMES):
        return remote.Remote(name, lambda: _local(machine))
    from . import tree_ranker

    if name != LEARNED:
        check(name)
        return tree_ranker.load(Path(name), machine)
    either = (tree_ranker.fitted(machine), tree_ranker.packaged(machine.unit))
    folders = [folder for folder in either if folder is not None]
    if not folders:
        return Unable(
            f"there is no cost model for {machine.unit} ('lowc tune --fit' makes one)", "which"
        )
    return _first_usable(folders, machine)


def warning(ranker: Ranker | None) -> str:
    """Return what a user has to know of a ranker: that it was fitted elsewhere; "" if nothing."""
    return str(getattr(ranker, "warning", ""))


def check(name: str) -> None:
    """Raise a UserError unless :func:`ranker` knows `name`."""
    if name in (NONE, ROOFLINE, LEARNED) or Path(name).exists():
        return
    if name.startswith(remote.SCHEMES):
        remote.headers_for(name.rstrip("/"))  # checks it
        return
    raise UserError(
        f"there is no cost model '{name}'",
        hint=f"{NONE}, {ROOFLINE}, {LEARNED}, a server's URL, or a model's folder",
    )


def _first_usable(folders: Sequence[Path], machine: Machine) -> Ranker:
    """Return the ranker of the first folder that has one, which says why the others have none.

    A model that an older lowc fitted shall not fail a compilation that did not ask for it.
    """
    from . import tree_ranker

    why = ""
    for folder in folders:
        try:
            found = tree_ranker.load(folder, machine)
        except UserError as error:
            why = f"the one in {folder} ({error.what})"
            continue
        found.instead_of = why
        return found
    return Unable(f"no cost model can be used, not {why}", "so that lowc")


def _local(machine: Machine) -> Ranker:
    """Return the best ranker that needs no server."""
    found = ranker(LEARNED, machine)
    return Roofline(machine) if found is None or isinstance(found, Unable) else found
