"""Run the program of a ``.pt2`` in PyTorch, to compare with: the same checks, no pickle."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import importer
from .archive import Archive
from .frontend import import_spec
from .program import read_program


def load_reference(path: str | os.PathLike[str]) -> Callable[..., list[Any]]:
    """Return a function from the program's tensors, flat, to its results, flat.

    The program runs in this process, in inference mode, and keeps the state that it mutates.

    Raises
    ------
    UserError
        When the archive is refused, or PyTorch is not installed.
    """
    module = load_program(path).module(check_guards=False)
    import torch

    def call(*inputs: Any) -> list[Any]:
        with torch.inference_mode():
            return list(module(*(torch.as_tensor(value) for value in inputs)))

    return call


def load_program(path: str | os.PathLike[str]) -> Any:
    """Return the ``torch.export.ExportedProgram`` of a ``.pt2``, with its weights.

    Raises
    ------
    UserError
        When the archive is refused, or PyTorch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise UserError("PyTorch is not installed", hint="pip install 'lowc[torch]'")
    spec = import_spec(read_program(Archive(Path(path))))
    return importer.deserialise(spec, with_weights=True)
