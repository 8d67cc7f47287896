"""Where the server's models come from: the package, and the folder of ``--model-repository``."""

from __future__ import annotations

from pathlib import Path

from ...passes.tiling import model_files
from . import kinds
from .folder import Folder
from .models import Model
from .repository import Source
from .settings import Settings

VERSION = "1"


class Packaged:
    """The cost models that come with lowc: ``tiles-avx512``, ``tiles-avx512-w4a8`` …."""

    def versions(self) -> dict[str, list[str]]:
        """Return the versions of each model."""
        return {name: [VERSION] for name in self._parts()}

    def load(self, name: str, version: str) -> Model:
        """Return a model of :meth:`versions`."""
        folder, part = self._parts()[name]
        return kinds.load(folder, name, version, part, folder.name)

    def _parts(self) -> dict[str, tuple[Path, str]]:
        found = sorted(model_files.PACKAGED.glob(f"*/{kinds.MANIFEST}"))
        return {
            f"tiles-{path.parent.name}{suffix}": (path.parent, part)
            for path in found
            for suffix, part in kinds.parts(path.parent).items()
        }


def all_sources(settings: Settings) -> list[Source]:
    """Return the sources of models for `settings`; a folder's models come before the package's."""
    folders: list[Source] = [Folder(Path(settings.repository))] if settings.repository else []
    return [*folders, Packaged()]
