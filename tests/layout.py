"""Which files the repository has, and which of them are the package."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Folders of the root that are no part of the package.
OUTSIDE = ("benchmarks", "deploy", "docs", "examples", "tests")
_BUILT = ("build", "dist")


def files(*suffixes: str) -> Iterator[Path]:
    """Yield the source files with one of `suffixes`, relative to the root, sorted."""
    found = []
    for folder, below, names in os.walk(ROOT):
        here = Path(folder).relative_to(ROOT)
        # Not walked at all: an environment has a hundred times as many files as the repository.
        below[:] = [name for name in below if not _is_by_product(here / name)]
        found += [here / name for name in names if Path(name).suffix in suffixes]
    yield from sorted(found)


def package_files(*suffixes: str) -> list[Path]:
    """Return those of :func:`files` that belong to the package."""
    return [path for path in files(*suffixes) if path.parts[0] not in OUTSIDE]


def _is_by_product(folder: Path) -> bool:
    name = folder.name
    return (
        name.startswith(".")
        or name == "__pycache__"
        or name.endswith(".egg-info")
        or folder.as_posix() in _BUILT
    )


def pyproject() -> dict[str, Any]:
    """Return pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())
