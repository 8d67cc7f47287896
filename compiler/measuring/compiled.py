"""Modules that were compiled before, by what they were made of: the same text is compiled once.

A run that is repeated, or goes on where it was stopped, takes them from here.  A name is the
SHA-256 of the MLIR, of the flags and of the compiler's version; files are only ever put there
whole, so that several processes can share a folder.  The oldest go when all take too much.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

from ..target import Target

MOST_BYTES = 2 << 30
_COMPILER = "iree-base-compiler"


def default_folder() -> Path:
    """Return where modules are kept: ``$XDG_CACHE_HOME/lowc/compiled``, or below ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "lowc" / "compiled"


def key_of(text: str, target: Target) -> str:
    """Return the name of what `text` is compiled to for `target`, without fallbacks."""
    told = json.dumps([list(target.flags), metadata.version(_COMPILER), text])
    return hashlib.sha256(told.encode()).hexdigest()


class Cache:
    """Modules in a folder; without one nothing is kept.

    Attributes
    ----------
    hits : int
        How many modules were taken from it.
    """

    def __init__(self, folder: Path | None, most: int = MOST_BYTES) -> None:
        self.folder, self.most, self.hits = folder, most, 0

    def fetch(self, key: str, output: Path) -> bool:
        """Copy the module called `key` to `output`; return whether there is one."""
        if self.folder is None:
            return False
        kept = self.folder / f"{key}.vmfb"
        try:
            shutil.copyfile(kept, output)
        except OSError:
            output.unlink(missing_ok=True)
            return False
        with contextlib.suppress(OSError):
            os.utime(kept)  # it is the newest now
        self.hits += 1
        return True

    def keep(self, key: str, module: Path) -> None:
        """Keep `module` under the name `key`; a folder that cannot be written keeps nothing."""
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self.folder, suffix=".part")
            os.close(descriptor)
            shutil.copyfile(module, name)
            Path(name).replace(self.folder / f"{key}.vmfb")
            self._make_room()

    def _make_room(self) -> None:
        """Remove the modules that were not used for the longest time, until the rest fits."""
        kept = () if self.folder is None else self.folder.glob("*.vmfb")
        found = [(path, path.stat()) for path in kept]
        total = sum(stat.st_size for _, stat in found)
        for path, stat in sorted(found, key=lambda one: one[1].st_mtime):
            if total <= self.most:
                return
            path.unlink(missing_ok=True)
            total -= stat.st_size
