"""Recipes: which matmul gets which form, as TOML.

A recipe is an ordered list of rules, and the first whose glob matches a matmul's name decides::

    description = "4-bit weights, float activations"

    [[rules]]
    match = "*"
    form = "dequant"
    weights = "i4"
    group = 32

    [cache]
    keys = "i8"
    values = "i8"
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from ..passes.formats.caches import FORMATS as CACHE_FORMATS
from ..passes.formats.caches import Name as CacheFormat
from ..passes.forms import MOST_PLANES, Rule

_FOLDER = "recipes"
_KEYS = ("rules", "description", "average-planes", "allot-by", "cache")
_EACH = "keys=i8,values=i4"
_ALLOT_BY = ("any", "inputs")


@dataclass(frozen=True)
class Budget:
    """Planes of signs per weight, at most `average` over the matmuls whose rule leaves a choice.

    `choices` has the numbers of such rules, and the numbers of planes that each allows.  If it goes
    `by_inputs`, it is spent where there is a calibration; without one all get the average.
    """

    average: float
    choices: tuple[tuple[int, tuple[int, ...]], ...]
    by_inputs: bool = False


@dataclass(frozen=True)
class Cache:
    """Formats of key-value caches (``passes/formats/caches.py``): of keys, and of values."""

    keys: CacheFormat = "f32"
    values: CacheFormat = "f32"

    def __post_init__(self) -> None:
        """Refuse unknown formats."""
        for key in ("keys", "values"):
            _check_cache(key, getattr(self, key))

    def __str__(self) -> str:
        """Return the text that :func:`cache_of` reads."""
        return f"keys={self.keys},values={self.values}"


def cache_of(text: str | Cache) -> Cache:
    """Read ``i8``, or ``keys=i4,values=i8``; what is not named stays f32.

    Raises
    ------
    UserError
        An unknown key or format, or a key that is there twice.
    """
    if isinstance(text, Cache):
        return text
    if not isinstance(text, str):
        raise UserError(f"a {type(text).__name__} is no format of a cache", hint='cache="i8"')
    found: dict[str, str] = {}
    if "=" not in text:
        if "," in text:
            raise UserError(f"'{text}' does not say of what its formats are", hint=_EACH)
        return _cache(dict.fromkeys(("keys", "values"), text.strip()), "cache")
    where = f"cache '{text}'"
    for part in filter(None, text.split(",")):
        key, _, value = (word.strip() for word in part.partition("="))
        if key in found:
            raise UserError(f"{key} is there twice", where=where, hint=_EACH)
        found[key] = value
    return _cache(found, where)


def _cache(data: object, where: str) -> Cache:
    if not isinstance(data, dict):
        raise UserError("cache is a table", where=where, hint='[cache], and below it keys = "i8"')
    for key, value in data.items():
        if key not in ("keys", "values"):
            hint = nearest(str(key), ("keys", "values"))
            raise UserError(f"the key '{key}' of cache is unknown", where=where, hint=hint)
        _check_cache(key, value, where)
    return Cache(**data)


def _check_cache(key: str, value: object, where: str = "cache") -> None:
    if value not in CACHE_FORMATS:
        raise UserError(
            f"{key} = {value!r} is no format of a cache", where=where,
            hint=nearest(str(value), CACHE_FORMATS),
        )  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """Rules in order, under a name; build one with :func:`load_recipe` or directly.

    With a `budget`, the `planes` of a rule that leaves a choice are the most it allows, or the
    average if the budget goes by inputs, until ``compiler/planes.py`` spends it.
    """

    name: str
    rules: tuple[Rule, ...]
    description: str = ""
    budget: Budget | None = None
    cache: Cache = Cache()

    @property
    def takes_inputs(self) -> bool:
        """Whether a method of it uses what matmuls read, where there is a calibration."""
        return any(rule.form.takes_inputs for rule in self.rules)

    @property
    def needs_inputs(self) -> bool:
        """Whether a method of it is nothing without a calibration."""
        return any(rule.form.needs_inputs for rule in self.rules)


def built_in_names() -> list[str]:
    """Return the names of the recipes that come with lowc."""
    folder = resources.files(__package__) / _FOLDER
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def load_recipe(recipe: str | os.PathLike[str] | Recipe) -> Recipe:
    """Return a recipe from a built-in name, a path to a ``.toml``, or a :class:`Recipe`.

    Raises
    ------
    UserError
        Unknown name, unreadable file, or a rule that is not possible; names file and line.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, (str, os.PathLike)):
        raise UserError(f"a {type(recipe).__name__} is no recipe", hint="a name, a path, a Recipe")
    name = os.fspath(recipe)
    if name in built_in_names():
        text = (resources.files(__package__) / _FOLDER / f"{name}.toml").read_text()
        return parse_recipe(text, name, f"recipe '{name}'")
    path = Path(name)
    if path.suffix != ".toml" and not path.exists():
        raise UserError(
            f"there is no recipe '{name}'",
            hint=f"a path to a recipe ends in .toml; {nearest(name, built_in_names())}",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError("the recipe file does not exist", where=name) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the recipe file cannot be read ({error})", where=name) from error
    return parse_recipe(text, path.stem, name)


def parse_recipe(text: str, name: str, where: str) -> Recipe:
    """Read the TOML of a recipe; `where` stands in front of line numbers in errors."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"the recipe is not valid TOML: {error}", where=where) from error
    for key in data:
        if key not in _KEYS:
            raise UserError(
                f"the key '{key}' is unknown", where=f"{where}:{_line_of_key(text, key)}",
                hint=nearest(key, _KEYS),
            )  # fmt: skip
    rules = data.get("rules")
    if not isinstance(rules, list) or not rules:
        raise UserError("the recipe has no [[rules]]", where=where)
    lines = _rule_lines(text)
    lines += [1] * (len(rules) - len(lines))
    choices = {
        number: _choice(rule, where, _line_in_rule(text, line, "planes") or line)
        for number, (rule, line) in enumerate(zip(rules, lines, strict=False))
        if isinstance(rule, dict) and isinstance(rule.get("planes"), list)
    }
    budget = _budget(data, choices, text, where)
    closed = [
        rule | {"planes": _closed(choices[number], budget)} if number in choices else rule
        for number, rule in enumerate(rules)
    ]
    return Recipe(
        name,
        tuple(_rule(rule, text, where, line) for rule, line in zip(closed, lines, strict=False)),
        str(data.get("description", "")),
        budget,
        _cache(data.get("cache", {}), f"{where}:{_line_of_key(text, 'cache')}"),
    )


def _closed(planes: tuple[int, ...], budget: Budget | None) -> int:
    return int(budget.average) if budget is not None and budget.by_inputs else max(planes)


def _choice(rule: dict[str, Any], where: str, line: int) -> tuple[int, ...]:
    """Return the numbers of planes that a rule allows, in rising order."""
    planes: list[object] = rule["planes"]
    if rule.get("form") == "bipolar":  # other forms have none, which is said of the rule
        raise UserError(
            "a list of planes is for weights: for rules of form 'binary'",
            where=f"{where}:{line}", hint=f"planes = {planes[0] if planes else 1}",
        )  # fmt: skip
    numbers = [value for value in planes if type(value) is int and 1 <= value <= MOST_PLANES]
    if len(numbers) != len(planes) or not numbers:
        raise UserError(
            f"planes = {planes} is no list of numbers from 1 to {MOST_PLANES}",
            where=f"{where}:{line}", hint="planes = [2, 3, 4]",
        )  # fmt: skip
    return tuple(sorted(set(numbers)))


def _budget(
    data: dict[str, Any], choices: dict[int, tuple[int, ...]], text: str, where: str
) -> Budget | None:
    average, by = data.get("average-planes"), data.get("allot-by", "any")
    if by not in _ALLOT_BY:
        raise UserError(
            f"allot-by = {by!r} is unknown", where=f"{where}:{_line_of_key(text, 'allot-by')}",
            hint=nearest(str(by), _ALLOT_BY),
        )  # fmt: skip
    if "allot-by" in data and average is None:
        raise UserError(
            "allot-by is for a budget of planes, and there is none",
            where=f"{where}:{_line_of_key(text, 'allot-by')}", hint="average-planes = 3",
        )  # fmt: skip
    if average is None:
        if not choices:
            return None
        line = _rule_lines(text)[next(iter(choices))] if _rule_lines(text) else 1
        raise UserError(
            "a list of planes needs 'average-planes'",
            where=f"{where}:{_line_in_rule(text, line, 'planes') or line}",
            hint="average-planes = 3 above the rules, or planes = 3",
        )
    place = f"{where}:{_line_of_key(text, 'average-planes')}"
    if type(average) not in (int, float):
        raise UserError(f"average-planes = {average!r} is no number", where=place)
    if not choices:
        raise UserError(
            "average-planes is for rules with a list of planes, and there is none", where=place,
            hint="planes = [2, 3, 4] in a rule of form 'binary'",
        )  # fmt: skip
    number = float(average)
    fewest, most = (end(end(planes) for planes in choices.values()) for end in (min, max))
    if not fewest <= number <= most:
        raise UserError(
            f"average-planes = {average} is not {fewest} to {most}, what the rules allow",
            where=place, hint="2, 3 and 4 are usual",
        )  # fmt: skip
    if by == "inputs" and not all(number in planes for planes in choices.values()):
        raise UserError(
            f"without a calibration all would get {average} planes, which some list does not allow",
            where=place, hint='allot-by = "any", or a whole number that each list has',
        )  # fmt: skip
    return Budget(number, tuple(choices.items()), by == "inputs")


def _rule(data: object, text: str, where: str, line: int) -> Rule:
    try:
        return Rule.from_dict(data, where)
    except UserError as error:
        # The rule knows the key that is wrong; the line is found in the text below its header.
        named = re.search(r"'([\w-]+)'|^([\w-]+) =", error.what)
        candidates = [group for group in (named.groups() if named else ()) if group]
        key_line = next(
            (found for key in candidates if (found := _line_in_rule(text, line, key))), line
        )
        raise UserError(error.what, where=f"{where}:{key_line}", hint=error.hint) from error


def _rule_lines(text: str) -> list[int]:
    return [
        number
        for number, content in enumerate(text.splitlines(), 1)
        if re.match(r"\s*\[\[\s*rules\s*\]\]", content)
    ]


def _line_in_rule(text: str, start: int, key: str) -> int | None:
    for number, content in enumerate(text.splitlines()[start:], start + 1):
        if content.lstrip().startswith("[["):
            return None
        if re.match(rf"\s*\"?{re.escape(key)}\"?\s*=", content):
            return number
    return None


def _line_of_key(text: str, key: str) -> int:
    for number, content in enumerate(text.splitlines(), 1):
        if re.match(rf"\s*\[*\s*\"?{re.escape(key)}\b", content):
            return number
    return 1
