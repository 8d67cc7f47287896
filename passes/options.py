r"""The text form of pass options: ``{key=value other="a b" list=1,2}``.

Values are booleans (``true``/``false``), integers, floats, strings, ``none`` and tuples of these.
A string that holds a space, a quote, a comma or a brace is quoted, and so is the word "none";
inside quotes ``\"`` and ``\\`` are escapes.  A tuple with such a string in it is quoted once more.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import UserError, nearest

NONE = "none"
_BARE = re.compile(r"[A-Za-z0-9_.:*/+-]+")
_ITEM = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^,]+)(?:,|$)""", re.DOTALL)
_TOKEN = re.compile(r"""\s*([A-Za-z][\w-]*)(?:=("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s"']*))?""")


def kebab(name: str) -> str:
    """``mantissa_bits`` → ``mantissa-bits``."""
    return name.replace("_", "-")


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return the default of a dataclass field, or the MISSING marker."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def format_options(values: Mapping[str, Any]) -> str:
    """Return ``{key=value …}``, or nothing when there are no values."""
    if not values:
        return ""
    return "{" + " ".join(f"{kebab(k)}={format_value(v)}" for k, v in values.items()) + "}"


def format_value(value: Any) -> str:
    """Return the text of one value."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        items = [format_value(item) for item in value]
        text = ",".join(items)
        return text if items and all(_BARE.fullmatch(item) for item in items) else _quoted(text)
    if isinstance(value, float):
        return repr(value)
    text = str(value)
    return text if _BARE.fullmatch(text) and text != NONE else _quoted(text)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _unquote(text: str) -> str:
    if len(text) >= 2 and text[0] in "\"'" and text[-1] == text[0]:
        return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
    return text


def parse_options(
    text: str, owner: str, fields: Iterable[dataclasses.Field[Any]], cls: type
) -> dict[str, Any]:
    """Return the values that `text` gives to `fields` of `cls`.

    Raises
    ------
    UserError
        Unknown key (with the nearest one), key given twice, missing value, wrong type, bad syntax.
    """
    by_key = {kebab(field.name): field for field in fields}
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    position = 0
    while text[position:].strip():
        token = _TOKEN.match(text, position)
        if token is None:
            raise UserError(
                f"cannot read the options from '{text[position:].strip()[:40]}'",
                where=owner,
                hint="options look like {key=value other=2}",
            )
        position = token.end()
        key, raw = token[1], token[2]
        if key not in by_key:
            known = nearest(key, by_key) if by_key else "it takes no options"
            raise UserError(f"the pass has no option '{key}'", where=owner, hint=known)
        field, where = by_key[key], f"{owner}, option '{key}'"
        if field.name in values:
            raise UserError("the option is given twice", where=where)
        if raw is None and hints[field.name] is not bool:
            raise UserError("the option lacks a value", where=where, hint=f"{key}=…")
        values[field.name] = _convert("true" if raw is None else raw, hints[field.name], where)
    return values


def _convert(raw: str, type_: Any, where: str) -> Any:
    """Turn the text of one value, perhaps in quotes, into a value of `type_`."""
    if typing.get_origin(type_) in (typing.Union, types.UnionType):
        if raw == NONE:
            return None
        type_ = next(part for part in typing.get_args(type_) if part is not type(None))
    text = _unquote(raw)
    if typing.get_origin(type_) is tuple:
        item = typing.get_args(type_)[0]
        return tuple(_convert(part, item, where) for part in _split_items(text, where))
    if type_ is bool:
        if text in ("true", "false"):
            return text == "true"
        raise UserError(f"'{text}' is not true or false", where=where)
    if type_ is str:
        return text
    if typing.get_origin(type_) is typing.Literal:
        choices = typing.get_args(type_)
        if text in choices:
            return text
        raise UserError(f"'{text}' is not a choice", where=where, hint=nearest(text, choices))
    try:
        return type_(text)
    except (ValueError, TypeError) as error:
        raise UserError(f"'{text}' is not a {type_.__name__}", where=where) from error


def _split_items(text: str, where: str) -> list[str]:
    """Split at the commas that are outside of quotes."""
    items, position = [], 0
    while position < len(text):
        found = _ITEM.match(text, position)
        if found is None:
            raise UserError(f"cannot read the list from '{text[position:][:40]}'", where=where)
        items.append(found[1])
        position = found.end()
    return items
