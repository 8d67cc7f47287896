"""A record of rows that is on disk after each of them, and that a later run can go on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import UserError
from ..bench.record import keep, new_record, rewrite

ROWS = "recipes"


class Kept:
    """What was measured so far, recipe by recipe.

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
    """

    def __init__(self, what: dict[str, Any], folder: Path | None, stem: str) -> None:
        self.what, self.folder, self.stem = what, folder, stem
        self.path: Path | None = None
        self.rows: list[dict[str, Any]] = []

    @classmethod
    def resume(cls, path: Path, what: dict[str, Any]) -> Kept:
        """Go on with the record in `path`.

        Raises
        ------
        UserError
            When it is no such record, or one of something else than `what`.
        """
        try:
            record = json.loads(path.read_bytes())
            kept = cls(what, path.parent, "")
            kept.rows = [dict(row) for row in record[ROWS] if row["recipe"]]
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError("this is no record of devices", where=str(path)) from error
        for name, value in what.items():
            if record.get(name) != value:
                raise UserError(
                    f"the record has {name} {record.get(name)}, not {value}", where=str(path),
                    hint="--keep FOLDER begins another one",
                )  # fmt: skip
        kept.path = path
        return kept

    @property
    def names(self) -> list[str]:
        """Recipes that have a row."""
        return [row["recipe"] for row in self.rows]

    @property
    def record(self) -> dict[str, Any]:
        """All of it as JSON, with the date and the machine of now."""
        return new_record(**self.what, **{ROWS: self.rows})

    def add(self, row: dict[str, Any]) -> None:
        """Add a row; a record that is kept has it on disk when this returns."""
        self.rows.append(row)
        if self.path is not None:
            rewrite(self.record, self.path)
        elif self.folder is not None:
            self.path = keep(self.record, self.folder, self.stem)
