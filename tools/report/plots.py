"""Draw figures into files, without a display; matplotlib is loaded when one is drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import UserError
from ..output import write_atomically

SUFFIXES = (".png", ".svg", ".pdf")


def check_plot_path(path: Path) -> None:
    """Raise a UserError unless `path` ends in a format that can be drawn."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"a plot cannot be written as '{path.suffix}'",
            where=str(path),
            hint=f"known: {', '.join(SUFFIXES)}",
        )


def draw(path: Path, fill: Callable[[Any], object], size: tuple[float, float] = (9, 6)) -> None:
    """Write the figure that `fill` draws on to `path`; `size` is in inches.

    Raises
    ------
    UserError
        Unknown suffix, a folder that cannot be written, or matplotlib is not installed.
    """
    check_plot_path(path)
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError(
            "plots need matplotlib, which is not installed", hint="pip install 'lowc[report]'"
        ) from error
    figure = Figure(figsize=size, layout="constrained")
    fill(figure)
    write_atomically(
        path, lambda file: figure.savefig(file, format=path.suffix[1:].lower(), dpi=150)
    )
