"""The kinds of models that a folder can hold, by what its manifest says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...passes.tiling import model_files
from .boosted import load_boosted
from .cost_model import load_cost_model
from .models import Model
from .text_cost import SUFFIX, load_text_cost

MANIFEST = model_files.MANIFEST
TEXT = "text"
_FORM = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*/(?:kernel|linalg)")


def parts(folder: Path) -> dict[str, str]:
    """Return what is served of the model in `folder`: how its name goes on, and a word for it.

    All of it has no more of a name and the word ``""``.  A cost model has its text model besides,
    and each form that it was fitted on, whose word is as ``w4a8/kernel``.
    """
    try:
        value = _value(folder / MANIFEST)
    except (UserError, OSError):
        return {"": ""}
    found = {"": ""}
    if value.get("format") == model_files.FORMAT:
        if value.get("text"):
            found[SUFFIX] = TEXT
        formulas = value.get("formulas")
        for form in formulas if isinstance(formulas, dict) else ():
            if _FORM.fullmatch(form):
                found["-" + form.removesuffix("/kernel").replace("/", "-")] = form
    return found


def load(folder: Path, name: str, version: str, part: str = "", family: str = "") -> Model:
    """Return a part of the model in `folder`, for units whose names begin with `family`, if given.

    Raises
    ------
    UserError
        When there is none, it is damaged, or of no kind that is known.
    """
    value = _value(folder / MANIFEST)
    if value.get("format") != model_files.FORMAT:
        return load_boosted(folder, name, version, value)
    if part == TEXT:
        return load_text_cost(folder, name, version)
    return load_cost_model(folder, name, version, form=part, family=family)


def _value(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(model_files.contents(path, model_files.MOST_MANIFEST).decode())
    except (ValueError, RecursionError) as error:
        raise UserError("the manifest is no JSON", where=str(path)) from error
    if not isinstance(value, dict):
        raise UserError("the manifest is no JSON object", where=str(path))
    return value
