"""Put IREE's errors into words; they come as one line with source files and a trace in it."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import InternalError, LowcError, UserError
from .devices import Device
from .manifest import Manifest

# What the bindings raise.
IREE_ERRORS = (RuntimeError, ValueError, LookupError, OSError, NotImplementedError, MemoryError)

_NO_KEY = re.compile(r"no parameter found in index with key '([^']*)'")
_BAD_LENGTH = re.compile(r"parameter `([^`]*)` range out of bounds.*?length=(\d+), size=(\d+)")
_NO_ARCHIVE = re.compile(r"required module 'io_parameters'|no provider .*scope")
_WRONG_DEVICE = re.compile(r"not found or unavailable|INCOMPATIBLE|no executable (loader|format)")
_SOURCE = re.compile(r"^[\w ]*:? ?(\S+/runtime/src/iree/\S+:|<vm>:)\d+: ")
_AGAIN = "compile the model again"


def start_error(path: Path, manifest: Manifest, device: Device, error: Exception) -> LowcError:
    """Return what to raise when IREE has refused to start a module."""
    text, where = str(error), str(path)
    file = manifest.parameters.file if manifest.parameters else ""
    if found := _NO_KEY.search(text):
        what = f"the module needs the parameter '{found[1]}', which '{file}' lacks"
        return UserError(what, where=where, hint=_AGAIN)
    if found := _BAD_LENGTH.search(text):
        what = f"the parameter '{found[1]}' has {found[3]} bytes in '{file}', needed are {found[2]}"
        return UserError(what, where=where, hint=_AGAIN)
    if _NO_ARCHIVE.search(text):
        what = "the module needs parameters, but its manifest names no archive"
        return UserError(what, where=where, hint=_AGAIN)
    if _WRONG_DEVICE.search(text):
        return wrong_device(path, manifest, device.name, short(error, 160))
    return InternalError("IREE cannot start the module", where=where, detail=short(error))


def wrong_device(path: Path, manifest: Manifest, name: str, why: str) -> UserError:
    """Return what to raise when the module is for another device than that called `name`."""
    built = manifest.target or manifest.device or "another target"
    kind = name.partition(":")[0]
    hint = "load it with device='auto', or compile it for that device"
    if kind == manifest.device:
        hint = f"compile it for that device ('lowc doctor' tells its target), or for {kind}"
    return UserError(
        f"the module was compiled for {built} and does not run on the device '{name}'",
        where=str(path), hint=hint, detail=why,
    )  # fmt: skip


def short(error: Exception, most: int = 400) -> str:
    """Return IREE's message without source files and trace, `most` characters at most."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    text = _SOURCE.sub("", line).strip()
    return text if len(text) <= most else text[: most - 1] + "…"
