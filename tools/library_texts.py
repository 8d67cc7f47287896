"""Text that every machine with Python has: the sources of its library, and their docstrings."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SHORTEST = 60  # characters of a docstring that says something


def library_files() -> list[Path]:
    """Return the ``.py`` files of the running Python's library, without its tests, by name."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    return sorted(
        path for path in folder.rglob("*.py")
        if "site-packages" not in path.parts and "test" not in path.parts
    )  # fmt: skip


def docstrings(count: int) -> list[str]:
    """Return `count` docstrings, spread over the whole library; fewer if it has not so many."""
    found = [text for path in library_files() for text in _docstrings_of(path)]
    places = np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)
    return [found[place] for place in places]


def _docstrings_of(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):  # some are broken on purpose, or in another encoding
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            text = ast.get_docstring(node)
            if text and len(text) > SHORTEST:
                yield text
