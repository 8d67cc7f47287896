"""``--verify-diagnostics``: comments in the input say which diagnostics must come, and where.

The language is MLIR's::

    // expected-remark@+1 {{part of the message}}
    %0 = linalg.matmul …
    // expected-error@above {{part of the message}}
    // expected-remark@unknown {{of an operation that has no line}}

``@+N`` and ``@-N`` count lines from the comment; ``@above`` and ``@below`` are the next lines
without an expectation; without any of these the comment's own line is meant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .diagnostics import Diagnostic

_EXPECTATION = re.compile(
    r"expected-(error|warning|remark|note)(?:\s*@([+-]\d+|above|below|unknown))?\s*\{\{(.*?)\}\}"
)
_UNFINISHED = re.compile(r"expected-(?:error|warning|remark|note)\b")


@dataclass(frozen=True)
class Expectation:
    """A diagnostic that must come: at `line` (0: no place), with `part` in its message."""

    severity: str
    line: int
    part: str
    written_at: int

    def is_met_by(self, found: Diagnostic) -> bool:
        """Whether `found` is what was expected."""
        return (
            self.severity == found.severity
            and self.line == found.line
            and self.part in found.message
        )


def read_expectations(text: str) -> list[Expectation]:
    """Return the expectations in the comments of `text`, with absolute lines from 1.

    A comment that starts like an expectation and is none counts as one that nothing meets, so that
    a slip of the pen cannot pass for a test.
    """
    lines = text.splitlines()
    found: list[Expectation] = []
    for number, line in enumerate(lines, start=1):
        comment = line.partition("//")[2]
        for match in _EXPECTATION.finditer(comment):
            target = _target(match[2], number, lines)
            found.append(Expectation(match[1], target, match[3], number))
        if len(_UNFINISHED.findall(comment)) > len(_EXPECTATION.findall(comment)):
            found.append(Expectation("readable expectation", number, comment.strip(), number))
    return found


def _target(designator: str | None, number: int, lines: Sequence[str]) -> int:
    if designator is None:
        return number
    if designator == "unknown":
        return 0
    if designator[0] in "+-":
        return number + int(designator)
    step = -1 if designator == "above" else 1
    number += step
    while 1 <= number <= len(lines) and _EXPECTATION.search(lines[number - 1]):
        number += step
    return number


def complaints(
    expected: Sequence[Expectation], found: Sequence[Diagnostic], file: str
) -> list[str]:
    """Compare; return one line per expectation not met and per diagnostic not expected."""
    open_diagnostics = list(found)
    result = []
    for expectation in expected:
        met = next((d for d in open_diagnostics if expectation.is_met_by(d)), None)
        if met is None:
            result.append(
                f"{file}:{expectation.written_at}: expected {expectation.severity} "
                f"'{expectation.part}' was not produced"
            )
        else:
            open_diagnostics.remove(met)
    result.extend(
        f"unexpected {diagnostic.text(file)}"
        for diagnostic in open_diagnostics
        if diagnostic.is_required
    )
    return result
