"""A folder of models: ``NAME/VERSION/manifest.json``, and the model beside it."""

from __future__ import annotations

import re
from pathlib import Path

from . import kinds
from .models import Model
from .text_cost import SUFFIX

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[0-9]{1,9}")


class Folder:
    """Models below `path`; links that lead elsewhere are not followed."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()

    def versions(self) -> dict[str, list[str]]:
        """Return the versions of each model, oldest first; text models are called ``NAME-text``."""
        found: dict[str, list[str]] = {}
        for model in sorted(self._path.iterdir()):
            if not (_NAME.fullmatch(model.name) and model.is_dir() and self._has(model)):
                continue
            folders = [one for one in model.iterdir() if (one / kinds.MANIFEST).is_file()]
            numbered = [one for one in folders if _VERSION.fullmatch(one.name)]
            numbered.sort(key=lambda one: int(one.name))
            with_text = [one.name for one in numbered if kinds.has_text(one)]
            if numbered:
                found[model.name] = [one.name for one in numbered]
            if with_text:
                found.setdefault(model.name + SUFFIX, with_text)
        return found

    def load(self, name: str, version: str) -> Model:
        """Return a model of :meth:`versions`."""
        stem = name if (self._path / name).is_dir() else name.removesuffix(SUFFIX)
        return kinds.load(self._path / stem / version, name, version)

    def _has(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self._path)
