"""The contract of a pass.

A pass is a frozen dataclass whose fields are its options.  It rewrites one ``builtin.module`` in
place, keeps it valid, touches no file and no weight, and says what it did or refused as remarks.
Its text form, ``lowc-name{key=value …}``, round-trips exactly: the command line, logs and cache
keys use the same string.

To write one: put it in a file of its own (``lower_lmul.py``), name it after the file
(``lowc-lower-lmul``), list it in ``registry.py``, and show the IR before and after in its
docstring.  Match first, with a function that changes nothing and returns a description or a
:class:`Refusal`; rewrite from the description.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from iree.compiler import ir

from . import options

PREFIX = "lowc-"


class RemarkKind(enum.StrEnum):
    """What became of an operation."""

    APPLIED = "applied"
    REFUSED = "refused"
    NOTE = "note"
    WARNING = "warning"  # of no operation: what the user probably did not mean


@dataclass(frozen=True)
class Remark:
    """One decision of a pass: which pass, what kind, which matmul or op, why, and where."""

    pass_name: str
    kind: RemarkKind
    subject: str
    message: str
    location: str = ""

    def __str__(self) -> str:
        return f"{self.subject}: {self.message} [{self.pass_name}]"


@dataclass(frozen=True)
class Refusal:
    """Why a matcher did not match."""

    reason: str


@dataclass(frozen=True)
class Pass:
    """Base of all passes; see the module docstring."""

    name: ClassVar[str] = ""

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Rewrite `module` in place.

        ``remark(kind, op, subject, message)`` records a decision about `op`.
        """
        raise TypeError(f"{type(self).__name__} does not implement run()")

    def __str__(self) -> str:
        """Return the text form; options at their default are left out."""
        given = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != options.default_of(field)
        }
        return self.name + options.format_options(given)

    @classmethod
    def parse_options(cls, text: str) -> Pass:
        """Build the pass from the text between its braces.

        Raises
        ------
        UserError
            For an option that the pass does not have, or a value of the wrong type.
        """
        values: dict[str, Any] = options.parse_options(text, cls.name, dataclasses.fields(cls), cls)
        return cls(**values)
