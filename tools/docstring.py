"""Read the docstring of a pass: summary, text, options, and the IR before and after."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from dataclasses import dataclass
from typing import Any

from ..passes import options, registry
from ..passes.base import Pass

_SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)
_FIELD = re.compile(r"^(\w+)(?: :.*)?$")


@dataclass(frozen=True)
class Option:
    """One option of a pass, in the words of the command line."""

    name: str
    type: str
    default: str
    description: str

    def __str__(self) -> str:
        return f"{self.name}: {self.type} = {self.default}"


@dataclass(frozen=True)
class PassDoc:
    """What there is to say about a pass; ``text`` is its docstring without the options."""

    name: str
    summary: str
    text: str
    options: tuple[Option, ...]


def describe(name: str) -> PassDoc:
    """Describe the pass called `name`; raises UserError when there is none."""
    found = registry.pass_class(name)
    text = inspect.cleandoc(found.__doc__ or "")
    body, sections = split_sections(text)
    described = parameter_texts(sections.get("Parameters", ""))
    hints = typing.get_type_hints(found)
    return PassDoc(
        name=name,
        summary=body.partition("\n")[0].rstrip("."),
        text=body,
        options=tuple(
            Option(
                name=options.kebab(field.name),
                type=type_text(hints[field.name]),
                default=_default_text(field),
                description=described.get(field.name, ""),
            )
            for field in dataclasses.fields(found)
        ),
    )


def describe_all() -> list[PassDoc]:
    """Describe every pass, in the order of the registry."""
    return [describe(name) for name in registry.PASSES]


def split_sections(text: str) -> tuple[str, dict[str, str]]:
    """Take NumPy sections (``Parameters``) out of a docstring.

    A section ends at the next one, or at the first paragraph that starts a literal block such as
    ``Before::``, which is part of the text wherever it stands.
    """
    sections: dict[str, str] = {}
    while (match := _SECTION.search(text)) is not None:
        rest = text[match.end() :]
        ends = [found.start() for found in (_SECTION.search(rest), _literal(rest)) if found]
        end = min(ends, default=len(rest))
        sections[match[1]] = rest[:end].strip("\n")
        text = f"{text[: match.start()].rstrip()}\n\n{rest[end:].lstrip()}".rstrip()
    return text, sections


def _literal(text: str) -> re.Match[str] | None:
    return re.search(r"^\S.*::$", text, re.MULTILINE)


def parameter_texts(section: str) -> dict[str, str]:
    """Return field name → its description, on one line."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in section.splitlines():
        match = _FIELD.match(line)
        if match is not None:
            current = found.setdefault(match[1], [])
        elif line.strip():
            current.append(line.strip())
    return {name: " ".join(lines) for name, lines in found.items()}


def type_text(type_: Any) -> str:
    """Return the type of an option for people: ``int``, ``bits|words``, ``list of str``."""
    if typing.get_origin(type_) is typing.Literal:
        return "|".join(typing.get_args(type_))
    if typing.get_origin(type_) is tuple:
        return f"list of {type_text(typing.get_args(type_)[0])}"
    if typing.get_origin(type_) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(type_) if part is not type(None)]
        return "|".join([*(type_text(part) for part in parts), "none"])
    return str(type_.__name__)


def _default_text(field: dataclasses.Field[Any]) -> str:
    return options.format_value(options.default_of(field))


def is_documented(found: type[Pass]) -> bool:
    """Whether a pass says what it does and shows the IR before and after."""
    text = found.__doc__ or ""
    return re.search(r"^\s*Before\b.*::", text, re.MULTILINE) is not None and (
        re.search(r"^\s*After\b.*::", text, re.MULTILINE) is not None
    )
