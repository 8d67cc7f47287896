"""Revisions of kernels: when a tile of the same name became another kernel, older times are void.

A record says which revision it measured (``versions["kernels"]``); one that says none is of the
first.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..kernels.tiles import ISAS
from . import families
from .problem import Problem
from .record import Record

NAME = "kernels"  # among the versions of a record
FIRST = 1


def revision_of(problem: Problem) -> int:
    """Return the revision of the kernels that calculate `problem`.

    2: those of 8-bit activations read one panel at a time beside scales of several groups, not two,
    on AVX-512 with VNNI (:func:`.kernels.tiles.panels_together`).
    """
    isa = ISAS.get(problem.unit)
    is_changed = (
        isa is not None
        and not isa.asks_ahead
        and problem.lowering == "kernel"
        and families.is_integer(problem.form)
        and families.integer_rows(problem).groups > 1
    )
    return 2 if is_changed else FIRST


def said(problem: Problem) -> dict[str, str]:
    """Return what the versions of a record of `problem` say of its kernels."""
    return {NAME: str(revision_of(problem))}


def is_current(problem: Problem, versions: Mapping[str, str]) -> bool:
    """Whether what was measured, with those `versions`, is what its kernels are today."""
    return versions.get(NAME, str(FIRST)) == str(revision_of(problem))


def current(record: Record) -> bool:
    """Whether a record is of today's kernels."""
    return is_current(record.problem, record.versions)
