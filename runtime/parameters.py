"""The parameter archive (``.irpa``) beside a module: check it, and hand it to IREE."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import iree.runtime as rt

from ..errors import UserError
from . import huge_pages
from .irpa import check_tables
from .manifest import PARAMETER_SCOPE, Parameters

_HINT = "keep the .vmfb and its .irpa together, or compile the model again"


def check_archive(path: Path, expected: Parameters, *, verify: bool) -> None:
    """Compare the archive with what the manifest says: size in bytes, and SHA-256 if `verify`.

    Raises
    ------
    UserError
        Says whether the archive is missing, too short, too long or changed.
    """
    where = str(path)
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size != expected.size:
                word = "short" if size < expected.size else "long"
                raise UserError(
                    f"the parameter archive is too {word}: {size} bytes, the module was compiled "
                    f"with {expected.size}",
                    where=where,
                    hint=_HINT,
                )
            file.seek(0)
            if verify and hashlib.file_digest(file, "sha256").hexdigest() != expected.sha256:
                raise UserError(
                    "the parameter archive has changed since the module was compiled "
                    "(its SHA-256 differs)",
                    where=where,
                    hint=_HINT,
                )
    except FileNotFoundError:
        raise UserError("the parameter archive is missing", where=where, hint=_HINT) from None
    except OSError as error:
        raise UserError(
            f"the parameter archive cannot be read ({error.strerror})", where=where
        ) from error


def parameters_module(
    path: Path, instance: Any, looked_up: Collection[str] = (), *, in_place: bool = False
) -> Any:
    """Map the archive and return IREE's module that provides scope ``model`` from it.

    `in_place` says that the device reads parameters where they are, at each call: then all but
    those of `looked_up` are brought into huge pages, where that helps (:mod:`.huge_pages`).

    Raises
    ------
    UserError
        When the file is no parameter archive, or a damaged one.
    """
    index = rt.ParameterIndex()
    try:
        check_tables(path)
        index.load(str(path), format="irpa", mmap=True)
        if in_place:
            index = huge_pages.read(path, index, looked_up)
    except (RuntimeError, ValueError, LookupError, OSError, OverflowError) as error:
        raise UserError(
            "this is not a parameter archive, or a damaged one",
            where=str(path),
            hint=_HINT,
            detail=str(error)[:300],
        ) from error
    return rt.create_io_parameters_module(instance, index.create_provider(PARAMETER_SCOPE))
