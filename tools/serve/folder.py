"""A folder of models: ``NAME/VERSION/manifest.json``, and the model beside it."""

from __future__ import annotations

import re
from pathlib import Path

from . import kinds
from .models import Model

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[0-9]{1,9}")


class Folder:
    """Models below `path`; links that lead elsewhere are not followed."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()

    def versions(self) -> dict[str, list[str]]:
        """Return the versions of each model, oldest first; parts of one have names of their own."""
        return {name: [*versions] for name, versions in self._folders().items()}

    def load(self, name: str, version: str) -> Model:
        """Return a model of :meth:`versions`."""
        folder, part = self._folders()[name][version]
        return kinds.load(folder, name, version, part)

    def _folders(self) -> dict[str, dict[str, tuple[Path, str]]]:
        """Return the folder of each version of each model, and which part of it that is."""
        found: dict[str, dict[str, tuple[Path, str]]] = {}
        of_parts: dict[str, dict[str, tuple[Path, str]]] = {}
        for model in sorted(self._path.iterdir()):
            if not (_NAME.fullmatch(model.name) and model.is_dir() and self._has(model)):
                continue
            folders = [one for one in model.iterdir() if (one / kinds.MANIFEST).is_file()]
            numbered = [one for one in folders if _VERSION.fullmatch(one.name)]
            for folder in sorted(numbered, key=lambda one: int(one.name)):
                for suffix, part in kinds.parts(folder).items():
                    into = of_parts if suffix else found
                    into.setdefault(model.name + suffix, {})[folder.name] = (folder, part)
        # A folder's own name comes before that of another one's part.
        return {**of_parts, **found}

    def _has(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self._path)
