"""Where commands write: results to stdout, progress and remarks to stderr."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from rich import box
from rich.console import Console
from rich.table import Table

from ..errors import UserError

_WIDE = 10_000  # columns given to output that no terminal shows, so that no cell is cut


def result(text: str) -> None:
    """Print a result to stdout."""
    sys.stdout.write(text + "\n")


def result_json(data: Any, *, indent: int | None = 2) -> None:
    """Print a result to stdout as JSON; `indent` None puts it on one line."""
    result(json.dumps(data, indent=indent))


def remark(text: str) -> None:
    """Print a remark to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints text as it is: no markup, no emoji, no highlighting."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDE
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False)


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()
) -> None:
    """Print a table to stdout; the columns named in `right` are aligned to the right."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for header in headers:
        grid.add_column(header, justify="right" if header in right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*row)
    target = console()
    with target.capture() as captured:
        target.print(grid)
    result("\n".join(line.rstrip() for line in captured.get().rstrip().splitlines()))


def size_text(count: int) -> str:
    """Return a number of bytes for people: ``512 B``, ``12.3 KB``, ``90.9 MB``."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("KB", "MB", "GB"):
        value /= 1000
        if value < 1000:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`.

    Whatever interrupts it, `path` holds the old content or the new, never half of it.

    Raises
    ------
    UserError
        When the folder is missing or cannot be written, or the disk is full.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            write(file)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError):
            raise UserError(
                f"the file cannot be written ({error.strerror or error})", where=str(path)
            ) from error
        raise
