"""The kinds of models that a folder can hold, by what its manifest says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...passes.tiling import model_files
from .boosted import load_boosted
from .cost_model import load_cost_model
from .models import Model
from .text_cost import SUFFIX, load_text_cost

MANIFEST = model_files.MANIFEST


def load(folder: Path, name: str, version: str, family: str = "") -> Model:
    """Return the model in `folder`, for units whose names begin with `family` if it is given.

    Raises
    ------
    UserError
        When there is none, it is damaged, or of no kind that is known.
    """
    value = _value(folder / MANIFEST)
    if value.get("format") == model_files.FORMAT:
        if name.endswith(SUFFIX) and has_text(folder):
            return load_text_cost(folder, name, version)
        return load_cost_model(folder, name, version, family)
    return load_boosted(folder, name, version, value)


def has_text(folder: Path) -> bool:
    """Whether the model in `folder` has a text model beside its trees."""
    try:
        return bool(_value(folder / MANIFEST).get("text"))
    except (UserError, OSError):
        return False


def _value(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(model_files.contents(path, model_files.MOST_MANIFEST).decode())
    except (ValueError, RecursionError) as error:
        raise UserError("the manifest is no JSON", where=str(path)) from error
    if not isinstance(value, dict):
        raise UserError("the manifest is no JSON object", where=str(path))
    return value
