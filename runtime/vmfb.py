"""Look into a ``.vmfb`` before IREE does, and read its manifest without running it.

IREE checks the tables of a module, but a flipped bit can still end the process inside it.  Its
compiler writes modules that are zip archives at the same time, with a CRC per part; checking that
first turns truncated, foreign and damaged files into errors.  This guards against accidents, not
against malice: a module holds machine code, so load only what you trust.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import iree.runtime as rt

from ..errors import UserError
from .manifest import REFLECTION_KEY, Manifest

_MODULE_ENTRY = "module.fb"
_AGAIN = "compile the model again with lowc"
_FOREIGN = "expected a .vmfb that lowc compiled"


def artifact_path(artifact: Any) -> Path:
    """Return the path that `artifact` is or has as its ``path``.

    Raises
    ------
    UserError
        When it is neither.
    """
    path = getattr(artifact, "path", artifact)
    if not isinstance(path, (str, os.PathLike)):
        raise UserError(
            f"cannot load a {type(artifact).__module__}.{type(artifact).__qualname__}",
            hint="pass the path of a .vmfb, or what lowc.compile returned",
        )
    return Path(os.fsdecode(path))


def check_file(path: Path) -> None:
    """Refuse a file that is not a whole, undamaged IREE module.

    Raises
    ------
    UserError
        Says whether the file is missing, foreign, truncated or damaged.
    """
    where = str(path)
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except FileNotFoundError:
        raise UserError("the file does not exist", where=where) from None
    except OSError as error:
        raise UserError(f"the file cannot be read ({error.strerror})", where=where) from error
    if not head:
        raise UserError("the file is empty", where=where, hint=_AGAIN)
    if head != b"PK\x03\x04":
        raise UserError("this is not a compiled module", where=where, hint=_FOREIGN)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.namelist()
            if not entries or entries[0] != _MODULE_ENTRY:
                raise UserError("this is not a compiled module", where=where, hint=_FOREIGN)
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise UserError(
            f"the module is truncated or damaged ({error})", where=where, hint=_AGAIN
        ) from error
    if damaged:
        raise UserError(
            f"the module is damaged: '{damaged}' fails its checksum", where=where, hint=_AGAIN
        )


def read_module(path: Path, instance: Any) -> tuple[Any, list[Manifest]]:
    """Map the module of a checked file; return IREE's ``VmModule`` and its entries' manifests.

    They come in the order in which they were given when the module was compiled.

    Raises
    ------
    UserError
        When IREE does not take the module, or no function carries a manifest.
    """
    where = str(path)
    try:
        module = rt.VmModule.mmap(instance, where)
    except (RuntimeError, ValueError, LookupError, OSError) as error:
        raise UserError(
            "IREE refuses the module",
            where=where,
            hint=f"it may be of another version of IREE; {_AGAIN}",
            detail=str(error)[:300],
        ) from error
    found = []
    for name in module.function_names:
        function = module.lookup_function(name)
        text = function.reflection.get(REFLECTION_KEY) if function else None
        if text is None:
            continue
        manifest = Manifest.from_json(text, where)
        if manifest.entry_point == name:
            found.append(manifest)
    if found:
        return module, sorted(found, key=_place)
    raise UserError(
        "the module has no lowc manifest, so its inputs and outputs are unknown",
        where=where,
        hint=f"{_FOREIGN}; run others with iree-run-module",
    )


def _place(manifest: Manifest) -> tuple[int, bool]:
    """Return what sorts entries; of modules that do not say, the one with the report is first."""
    names = manifest.entries
    return (names.index(manifest.entry_point) if names else 0, not manifest.report)
