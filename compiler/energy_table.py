"""Prices of operations in picojoules, with their sources, from a TOML file."""

from __future__ import annotations

import fnmatch
import os
import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest

DEFAULT = "horowitz-45nm"
PARTS = ("core", "guard")
_FOLDER = "energy"
# Section → its keys; all are required.
_KEYS = {
    "prices": ("kinds", "picojoules", "part", "source"),
    "unpriced": ("kinds", "reason"),
    "memory": ("picojoules-per-bit", "source"),
}
_TOP = ("description", "source", *_KEYS)


@dataclass(frozen=True)
class Price:
    """What one operation of some kinds (globs) costs; `part` is ``core`` or ``guard``."""

    kinds: tuple[str, ...]
    picojoules: float
    part: str
    source: str


@dataclass(frozen=True)
class Table:
    """Prices of operations; load one with :func:`load_table`.

    Attributes
    ----------
    prices : tuple of Price
        The first that has a glob for a kind decides.
    picojoules_per_bit : float
        Of memory.
    memory_source : str
        Where that is from.
    reasons : tuple of (globs, reason)
        Why kinds have no price.
    """

    name: str
    description: str
    source: str
    prices: tuple[Price, ...]
    picojoules_per_bit: float
    memory_source: str
    reasons: tuple[tuple[tuple[str, ...], str], ...] = ()

    def price_of(self, kind: str) -> Price | None:
        """Return the price of a kind such as ``addf.f32``, or None."""
        return next((price for price in self.prices if _matches(kind, price.kinds)), None)

    def why_unpriced(self, kind: str) -> str:
        """Return the table's reason for having no price for a kind."""
        found = (reason for kinds, reason in self.reasons if _matches(kind, kinds))
        return next(found, "the table does not list it")


# -- reading a table -------------------------------------------------------------------------------


def built_in_tables() -> list[str]:
    """Return the names of the tables that come with lowc."""
    folder = resources.files(__package__) / _FOLDER
    names = [entry.name for entry in folder.iterdir()]
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def load_table(table: str | os.PathLike[str] = DEFAULT) -> Table:
    """Return a table by the name of a built-in one, or from a ``.toml`` file.

    Raises
    ------
    UserError
        Unknown name, unreadable file, or a wrong entry; names file and line.
    """
    name = os.fspath(table)
    if name in built_in_tables():
        text = (resources.files(__package__) / _FOLDER / f"{name}.toml").read_text("utf-8")
        return parse_table(text, name, f"energy table '{name}'")
    path = Path(name)
    if path.suffix != ".toml" and not path.exists():
        raise UserError(
            f"there is no energy table '{name}'",
            hint=f"a path to a table ends in .toml; {nearest(name, built_in_tables())}",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError("the energy table does not exist", where=name) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the energy table cannot be read ({error})", where=name) from error
    return parse_table(text, path.stem, name)


def parse_table(text: str, name: str, where: str) -> Table:
    """Read the TOML of a table; `where` stands in front of line numbers in errors."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"the energy table is not valid TOML: {error}", where=where) from error
    for key in data:
        if key not in _TOP:
            raise UserError(
                f"the key '{key}' is unknown", where=f"{where}:{_line(text, 0, key)}",
                hint=nearest(key, _TOP),
            )  # fmt: skip
    prices = [
        Price(_kinds(entry), _amount(entry, "picojoules"), _part(entry), _text(entry, "source"))
        for entry in _entries(data, "prices", text, where)
    ]
    if not prices:
        raise UserError("the energy table has no [[prices]]", where=where)
    if "memory" not in data:
        raise UserError(
            "the energy table has no [memory]",
            where=where,
            hint="picojoules-per-bit = 0 is a price",
        )
    memory = _entries(data | {"memory": [data["memory"]]}, "memory", text, where)[0]
    return Table(
        name=name,
        description=str(data.get("description", "")),
        source=str(data.get("source", "")),
        prices=tuple(prices),
        picojoules_per_bit=_amount(memory, "picojoules-per-bit"),
        memory_source=_text(memory, "source"),
        reasons=tuple(
            (_kinds(entry), _text(entry, "reason"))
            for entry in _entries(data, "unpriced", text, where)
        ),
    )


@dataclass(frozen=True)
class _Entry:
    """A table in the file, and how to say where in it something is wrong."""

    data: dict[str, Any]
    text: str
    where: str
    line: int

    def error(self, what: str, key: str = "", hint: str = "") -> UserError:
        line = _line(self.text, self.line, key) if key else self.line
        return UserError(what, where=f"{self.where}:{line}", hint=hint)


def _entries(data: dict[str, Any], section: str, text: str, where: str) -> list[_Entry]:
    found = data.get(section, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise UserError(
            f"'{section}' is no list of tables", where=f"{where}:{_line(text, 0, section)}",
            hint=f"[memory] or [[{section}]]" if section == "memory" else f"[[{section}]]",
        )  # fmt: skip
    header = re.compile(rf"\s*\[+\s*{section}\s*\]+")
    lines = [number for number, line in enumerate(text.splitlines(), 1) if header.match(line)]
    lines += [1] * (len(found) - len(lines))
    entries = [_Entry(one, text, where, line) for one, line in zip(found, lines, strict=False)]
    for entry in entries:
        for key in entry.data:
            if key not in _KEYS[section]:
                hint = nearest(key, _KEYS[section])
                raise entry.error(f"the key '{key}' is unknown", key, hint)
        for key in _KEYS[section]:
            if key not in entry.data:
                raise entry.error(f"the entry has no '{key}'")
    return entries


def _line(text: str, start: int, key: str) -> int:
    """Return the line of `key` at or below line `start`."""
    for number, content in enumerate(text.splitlines(), 1):
        if number >= start and re.match(rf"\s*\[*\s*\"?{re.escape(key)}\b", content):
            return number
    return max(start, 1)


def _kinds(entry: _Entry) -> tuple[str, ...]:
    kinds = entry.data["kinds"]
    if not isinstance(kinds, list) or not kinds or not all(isinstance(one, str) for one in kinds):
        raise entry.error("kinds is no list of names", "kinds", 'kinds = ["addf.f32", "subf.*"]')
    return tuple(kinds)


def _amount(entry: _Entry, key: str) -> float:
    value = entry.data[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise entry.error(f"{key} = {value!r} is no number", key)
    if not 0 <= value < float("inf"):
        raise entry.error(f"{key} = {value} is no energy: 0 or more is", key)
    return float(value)


def _part(entry: _Entry) -> str:
    part = entry.data["part"]
    if part not in PARTS:
        raise entry.error(f"part = {part!r} is unknown", "part", nearest(str(part), PARTS))
    return str(part)


def _text(entry: _Entry, key: str) -> str:
    value = entry.data[key]
    if not isinstance(value, str) or not value:
        raise entry.error(f"{key} is no text", key, "say where the number is from")
    return value


def _matches(kind: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(kind, glob) for glob in globs)
