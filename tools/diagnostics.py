"""Diagnostics of passes, parser and verifier, in one shape and with a line in the input.

A remark of a lowc pass and an error of MLIR's verifier reach the user the same way,
``file:line:column: severity: message``, and ``--verify-diagnostics`` compares both with what a
test expects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir

from ..errors import LowcError
from ..passes.base import Remark, RemarkKind

# The place inside of loc("file":3:8), loc("fc"("file":3:8)) and loc(fused[…]): the first one.
_PLACE = re.compile(r'"(?:[^"\\]|\\.)*":(\d+):(\d+)')


@dataclass(frozen=True)
class Diagnostic:
    """One thing that was said about the input.

    ``severity`` is ``error``, ``warning``, ``remark`` or ``note``.  ``line`` and ``column`` count
    from 1 and are 0 when the place is unknown.  ``is_required`` says that ``--verify-diagnostics``
    must find it among the expected ones.
    """

    severity: str
    message: str
    line: int = 0
    column: int = 0
    source: str = ""
    is_required: bool = True

    def text(self, file: str) -> str:
        """Return ``file:line:column: severity: message [source]``."""
        place = f"{file}:{self.line}:{self.column}" if self.line else file
        source = f" [{self.source}]" if self.source else ""
        return f"{place}: {self.severity}: {self.message}{source}"


def place_in(location: object) -> tuple[int, int]:
    """Return line and column of an MLIR location or its text; (0, 0) when it has none."""
    found = _PLACE.search(str(location))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def of_remark(remark: Remark) -> Diagnostic:
    """Turn what a lowc pass said into a diagnostic; a note or a warning need not be expected."""
    line, column = place_in(remark.location)
    message = f"{remark.subject}: {remark.message}"
    required = remark.kind in (RemarkKind.APPLIED, RemarkKind.REFUSED)
    severity = "warning" if remark.kind is RemarkKind.WARNING else "remark"
    return Diagnostic(severity, message, line, column, remark.pass_name, required)


def of_mlir(diagnostic: Any) -> Diagnostic:
    """Turn an MLIR ``Diagnostic`` or ``DiagnosticInfo`` into one of ours."""
    line, column = place_in(diagnostic.location)
    severity = diagnostic.severity.name.lower()
    return Diagnostic(severity, str(diagnostic.message).splitlines()[0], line, column)


def of_failure(error: BaseException) -> Iterator[Diagnostic]:
    """Yield MLIR's own diagnostics behind `error`, or `error` itself without a place."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, ir.MLIRError) and cause.error_diagnostics:
            yield from (of_mlir(diagnostic) for diagnostic in cause.error_diagnostics)
            return
        cause = cause.__cause__
    what = error.what if isinstance(error, LowcError) else str(error)
    yield Diagnostic("error", what)
