"""Modules that were compiled before, by what they were made of: the same text is compiled once.

A run that is repeated, or goes on where it was stopped, takes them from here.  A name is the
SHA-256 of the MLIR, of the flags, of the compiler's version, and of the processor where flags say
``host``.  Files are only ever put there whole, so that several processes, and machines, can share a
folder.  The oldest go when all take too much.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from importlib import metadata
from pathlib import Path

from .. import backend
from ..target import Target

MOST_BYTES = 2 << 30
STALE_SECONDS = (
    3600.0  # since then nobody wrote to a file that is not whole: its process was killed
)
_COMPILER = "iree-base-compiler"


def default_folder() -> Path:
    """Return where modules are kept: ``$XDG_CACHE_HOME/lowc/compiled``, or below ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "lowc" / "compiled"


def key_of(text: str, target: Target) -> str:
    """Return the name of what `text` is compiled to for `target`, without fallbacks."""
    is_host = any(flag.partition("=")[2] == "host" for flag in target.flags)
    processor = backend.processor(target) if is_host else None
    told = json.dumps([list(target.flags), processor, metadata.version(_COMPILER), text])
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
            part = Path(name)
            try:
                shutil.copyfile(module, part)
                part.replace(self.folder / f"{key}.vmfb")
            finally:
                part.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            _make_room(self.folder, self.most)


def _make_room(folder: Path, most: int) -> None:
    """Remove what was left in the middle, and modules not used for the longest time if too many."""
    for path in folder.glob("*.part"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
    found = []
    for path in folder.glob("*.vmfb"):
        with contextlib.suppress(OSError):  # another process made room, too
            found.append((path, path.stat()))
    total = sum(stat.st_size for _, stat in found)
    for path, stat in sorted(found, key=lambda one: one[1].st_mtime):
        if total <= most:
            return
        with contextlib.suppress(OSError):
            path.unlink()
            total -= stat.st_size
