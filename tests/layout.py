"""Which files the repository has, and which of them are the package."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Folders of the root that are no part of the package.
OUTSIDE = ("benchmarks", "docs", "examples", "tests")
_BUILT = ("build", "dist")


def files(*suffixes: str) -> Iterator[Path]:
    """Yield the source files with one of `suffixes`, relative to the root, sorted."""
    for path in sorted(ROOT.rglob("*")):
        relative = path.relative_to(ROOT)
        if relative.parts[0] in _BUILT or any(_is_by_product(part) for part in relative.parts[:-1]):
            continue
        if path.suffix in suffixes and path.is_file():
            yield relative


def package_files(*suffixes: str) -> list[Path]:
    """Return those of :func:`files` that belong to the package."""
    return [path for path in files(*suffixes) if path.parts[0] not in OUTSIDE]


def _is_by_product(folder: str) -> bool:
    return folder.startswith(".") or folder == "__pycache__" or folder.endswith(".egg-info")


def pyproject() -> dict[str, Any]:
    """Return pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())
