"""What a line of docs/quality.md was made from, so that it is not shown for something else.

A line belongs to a recipe, a model, inputs and a calibration; each has a digest.  Archives
(``.pt2``, ``.npz``) go by the names and checksums of what is in them, not by when they were packed,
and a model's graph without its traces: an export in another folder is the same model.
The commit is kept beside these for people to read: most commits change no figure, and nobody
measures for an hour after each.
"""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __file__ as _package

if TYPE_CHECKING:
    from ..compiler.recipe import Recipe

_CALCULATES = ("compiler", "passes", "runtime")  # folders
_IDENTITY = "/.data/serialization_id"  # PyTorch's, of all parts with their traces


def origin(recipe: Recipe, model: Path, inputs: Path, calibration: Path | None) -> dict[str, str]:
    """Return the digests of what a line is made from; a line without calibration has none of it."""
    found = {"recipe": recipe_digest(recipe)}
    files = {"model": model, "inputs": inputs, "calibration": calibration}
    return found | {name: archive_digest(path) for name, path in files.items() if path is not None}


def differences(kept: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return the names of what differs."""
    return [name for name in sorted({*kept, *now}) if kept.get(name) != now.get(name)]


def recipe_digest(recipe: Recipe) -> str:
    """Return the digest of rules and budget, without names, descriptions and keys at their default.

    So a new key with a default changes no digest.
    """
    from ..passes.forms import Form

    plain = Form()
    rules = [
        [rule.match, {k: v for k, v in rule.form.to_dict().items() if v != getattr(plain, k)}]
        for rule in recipe.rules
    ]
    budget = recipe.budget
    spent = budget and [budget.average, budget.choices, budget.by_inputs]
    return _digest(json.dumps([rules, spent], sort_keys=True))


@functools.cache
def archive_digest(path: Path) -> str:
    """Return the digest of what lies in the zip archive `path`."""
    with zipfile.ZipFile(path) as archive:
        parts: list[Any] = [
            [part.filename, _graph_digest(archive.read(part)) if _is_graph(part) else part.CRC]
            for part in archive.infolist()
            if not part.filename.endswith(_IDENTITY)
        ]
    return _digest(json.dumps(sorted(parts)))


def _is_graph(part: zipfile.ZipInfo) -> bool:
    return part.filename.endswith(".json") and "/models/" in part.filename


def _graph_digest(text: bytes) -> str:
    """Return the digest of a graph; ``metadata`` of nodes has the paths and lines of sources."""
    graph = json.loads(text, object_hook=lambda found: found | {"metadata": None})
    return _digest(json.dumps(graph, sort_keys=True))


def commit_here() -> str | None:
    """Return the last commit that changed what calculates, with ``+`` if there are changes to it.

    None where the sources are no checkout of git's.
    """
    asked = ("log", "-1", "--format=%H"), ("status", "--porcelain", "--untracked-files=no")
    try:
        commit, changes = (
            subprocess.run(
                ["git", *question, "--", *_CALCULATES], cwd=Path(_package).parent,
                capture_output=True, text=True, check=True,
            ).stdout.strip()
            for question in asked
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+" if commit and changes else commit or None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
