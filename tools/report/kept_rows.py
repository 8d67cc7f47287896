"""A record of rows that is on disk after each of them, and that a later run can go on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import UserError
from ..bench.record import keep, new_record, now, rewrite

ROWS = "recipes"
_MACHINE = ("cpu", "features", "cores", "versions")  # what figures depend on
_KINDS: dict[str, tuple[type, ...]] = {"recipe": (str,), "recipe_digest": (str,), "date": (str,)}


class Kept:
    """What was measured so far, recipe by recipe, all of it on one machine.

    Parameters
    ----------
    what : dict
        What all rows were measured on, as JSON: two runs with another `what` do not go together.
    folder : Path, optional
        Where the record is kept from its first row on, as ``<stem>-<day>.json``.
    stem : str
        How the file's name begins.

    Attributes
    ----------
    path : Path or None
        The file, once there is one.
    record : dict
        All of it as JSON, with the machine and the date of its begin; each row has its own date.
    """

    def __init__(self, what: dict[str, Any], folder: Path | None, stem: str) -> None:
        self.folder, self.stem = folder, stem
        self.path: Path | None = None
        self.record = new_record(**what, **{ROWS: []})

    @classmethod
    def resume(
        cls, path: Path, what: dict[str, Any], kinds: Mapping[str, tuple[type, ...]]
    ) -> Kept:
        """Go on with the record in `path`, whose rows hold values of `kinds`.

        Raises
        ------
        UserError
            When it is no such record, or one of something else than `what`, or of another machine.
        """
        kept = cls(what, path.parent, "")
        try:
            record = json.loads(path.read_bytes())
            rows, machine = list(record[ROWS]), dict(record["machine"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError("this is no record of devices", where=str(path)) from error
        _compare(record, what, kept.record["machine"], machine, path)
        seen: set[str] = set()
        for number, row in enumerate(rows, 1):
            if problem := _problem(row, {**_KINDS, **kinds}, seen):
                raise UserError(f"row {number} of {ROWS} {problem}", where=str(path))
            seen.add(row["recipe"])
        kept.record, kept.path = record, path
        return kept

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What was measured, one row a recipe."""
        rows: list[dict[str, Any]] = self.record[ROWS]
        return rows

    def has(self, name: str, digest: str) -> bool:
        """Whether there is a row of the recipe called `name`.

        Raises
        ------
        UserError
            When it is one of another recipe of that name.
        """
        found = [row["recipe_digest"] for row in self.rows if row["recipe"] == name]
        if found and found != [digest]:
            raise UserError(
                f"the record has another recipe called {name}", where=str(self.path),
                hint="--keep FOLDER begins another one",
            )  # fmt: skip
        return bool(found)

    def add(self, name: str, digest: str, row: dict[str, Any]) -> None:
        """Add a row; a record that is kept has it on disk when this returns."""
        self.rows.append({"recipe": name, "recipe_digest": digest, "date": now(), **row})
        if self.path is not None:
            rewrite(self.record, self.path)
        elif self.folder is not None:
            self.path = keep(self.record, self.folder, self.stem)


def _compare(
    record: dict[str, Any], what: dict[str, Any], here: dict[str, Any], machine: dict[str, Any],
    path: Path,
) -> None:  # fmt: skip
    hint = "--keep FOLDER begins another one"
    for name, value in what.items():
        if name not in record:
            told = f"the record has no {name}: an older lowc wrote it"
            raise UserError(told, where=str(path), hint=hint)
        if record[name] != value:
            told = f"the record has {name} {record[name]}, not {value}"
            raise UserError(told, where=str(path), hint=hint)
    for name in _MACHINE:
        if machine.get(name) != here[name]:
            told = f"the record was begun on a machine of other {name}"
            raise UserError(told, where=str(path), hint=hint)


def _problem(row: Any, kinds: Mapping[str, tuple[type, ...]], seen: set[str]) -> str:
    """Return what is wrong with a row that was read; empty for nothing."""
    if not isinstance(row, dict):
        return "is no object"
    for name, kind in kinds.items():
        if name not in row:
            return f"has no {name}"
        if type(row[name]) not in kind:
            return f"has a {name} of the wrong type"
    return f"is the second one of {row['recipe']}" if row["recipe"] in seen else ""
