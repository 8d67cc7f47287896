"""Rankers by the name or path that users give: the one place that knows them all."""

from __future__ import annotations

from .choice import Ranker
from .record import Machine
from .roofline import Roofline

NONE, ROOFLINE = "none", "roofline"


def ranker(name: str, machine: Machine) -> Ranker | None:
    """Return the ranker called `name` for `machine`; None for ``none``."""
    if name == NONE:
        return None
    return Roofline(machine)
