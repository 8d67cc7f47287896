"""The two ways in which lowc fails, and how a failure is put into words.

A :class:`UserError` is the caller's to mend (exit code 2); an :class:`InternalError` is ours (exit
code 1).  Both carry the same four parts, so that every message says what is wrong, where, and what
to do about it.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own takes a while to load, and every process begins here
if TYPE_CHECKING:
    from collections.abc import Iterable


class LowcError(Exception):
    """Base of every error that lowc raises on purpose.

    Parameters
    ----------
    what : str
        One sentence without a full stop: what is wrong.
    where : str, optional
        The file, archive entry, op, layer or recipe line that it is about.
    hint : str, optional
        What the reader can do.
    detail : str, optional
        Output of another program, already cut short.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "", detail: str = "") -> None:
        self.what = what
        self.where = where
        self.hint = hint
        self.detail = detail
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.detail:
            lines.extend(f"  | {line}" for line in self.detail.rstrip().splitlines())
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


class UserError(LowcError):
    """The input, the command line or the machine is at fault; exit code 2."""

    exit_code = 2


class InternalError(LowcError):
    """lowc or a tool that it drives is at fault; exit code 1."""

    exit_code = 1


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` for the closest of `known`, or a list of them all."""
    choices = sorted(known)
    import difflib

    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known: " + ", ".join(choices)
