"""The last imports of this process: a program that is compiled again and again is imported once.

Whoever tries recipes, targets or chips compiles one program several times, and importing, which
loads PyTorch, takes longest.  What the importer makes depends on the clean program, the types of
its tensors, and the bytes of small constants: their digest is the key, so nothing stale is found.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

from .importer import has_bytes
from .subprocesses import Limits

_KEPT = 4
_found: OrderedDict[Key, Imported] = OrderedDict()
_lock = threading.Lock()


class Imported(NamedTuple):
    """What the importer wrote: MLIR bytecode, and the text of ``result.json``."""

    module: bytes
    result: str


class Key(NamedTuple):
    """What an import depends on; under other limits it may fail."""

    digest: bytes
    limits: Limits


def key(spec: dict[str, Any], limits: Limits) -> Key:
    """Return the key of what the importer gets to read, wherever the archive lies."""
    digest = hashlib.sha256(json.dumps(spec | {"archive": ""}).encode())
    with Path(spec["archive"]).open("rb") as archive:
        for tensor in filter(has_bytes, spec["tensors"]):
            archive.seek(tensor["offset"])
            digest.update(archive.read(tensor["nbytes"]))
    return Key(digest.digest(), limits)


def look_up(wanted: Key) -> Imported | None:
    """Return an import of this process, if it was one of the last."""
    with _lock:
        if wanted in _found:
            _found.move_to_end(wanted)
        return _found.get(wanted)


def remember(done: Key, imported: Imported) -> None:
    """Keep what an import made, and forget what was not asked for longest."""
    with _lock:
        _found[done] = imported
        while len(_found) > _KEPT:
            _found.popitem(last=False)
