"""The text form of pass options: ``{key=value other="a b" list=1,2}``.

Values are booleans (``true``/``false``), integers, floats, strings and tuples of these.  A string
that holds a space, a quote, a comma or a brace is quoted; inside quotes ``\\"`` and ``\\\\`` are
escapes.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import UserError, nearest

_BARE = re.compile(r"[A-Za-z0-9_.:*/+-]+")
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
    return "{" + " ".join(f"{kebab(k)}={_format_value(v)}" for k, v in values.items()) + "}"


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return _quote(",".join(_format_value(item) for item in value))
    if isinstance(value, float):
        return repr(value)
    return _quote(str(value))


def _quote(text: str) -> str:
    if _BARE.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _unquote(text: str) -> str:
    if len(text) >= 2 and text[0] in "\"'" and text[-1] == text[0]:
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def parse_options(
    text: str, owner: str, fields: Iterable[dataclasses.Field[Any]], cls: type
) -> dict[str, Any]:
    """Return the values that `text` gives to `fields` of `cls`.

    Raises
    ------
    UserError
        Unknown key (with the nearest one), missing value, wrong type, bad syntax.
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
        field = by_key[key]
        value = "true" if raw is None else _unquote(raw)
        values[field.name] = _convert(value, hints[field.name], f"{owner}, option '{key}'")
    return values


def _convert(text: str, type_: Any, where: str) -> Any:
    if typing.get_origin(type_) in (typing.Union, types.UnionType):
        if text == "none":
            return None
        type_ = next(part for part in typing.get_args(type_) if part is not type(None))
    if typing.get_origin(type_) is tuple:
        item = typing.get_args(type_)[0]
        return tuple(_convert(part, item, where) for part in text.split(",") if part)
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
