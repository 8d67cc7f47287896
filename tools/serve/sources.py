"""Where the server's models come from: the package, and the folder of ``--model-repository``."""

from __future__ import annotations

from pathlib import Path

from ...passes.tiling import model_files
from . import kinds
from .folder import Folder
from .models import Model
from .repository import Source
from .settings import Settings
from .text_cost import SUFFIX

VERSION = "1"


class Packaged:
    """The cost models that come with lowc: ``tiles-avx512``, ``tiles-avx512-text`` …."""

    def versions(self) -> dict[str, list[str]]:
        """Return the versions of each model."""
        found = sorted(model_files.PACKAGED.glob(f"*/{kinds.MANIFEST}"))
        names = [f"tiles-{path.parent.name}" for path in found]
        names += [
            f"tiles-{path.parent.name}{SUFFIX}" for path in found if kinds.has_text(path.parent)
        ]
        return {name: [VERSION] for name in names}

    def load(self, name: str, version: str) -> Model:
        """Return a model of :meth:`versions`."""
        family = name.removeprefix("tiles-").removesuffix(SUFFIX)
        return kinds.load(model_files.PACKAGED / family, name, version, family)


def all_sources(settings: Settings) -> list[Source]:
    """Return the sources of models for `settings`; a folder's models come before the package's."""
    folders: list[Source] = [Folder(Path(settings.repository))] if settings.repository else []
    return [*folders, Packaged()]
