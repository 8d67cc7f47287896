"""Model files: a folder with ``manifest.json``, trees as LightGBM's text, and safetensors.

The manifest names every other file with its size and SHA-256, the features in order, what it was
trained on and what it was found to reach.  All of it is checked before any of it is used, and
nothing in such a folder can run code: there is no pickle.  A folder from a stranger can at worst
make a bad choice among legal tiles.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UserError
from .features import COMPONENTS, NAMES, VERSION
from .record import Machine

FORMAT = "lowc-cost-model"
MANIFEST = "manifest.json"
PACKAGED = Path(__file__).parent / "models"
MOST_MANIFEST = 1 << 20
MOST_BYTES = 32 << 20
MOST_TOGETHER = 64 << 20
MOST_FILES = 32
_FILE = re.compile(r"[a-z0-9][a-z0-9-]{0,40}\.(txt|safetensors)")
_HINT = "fit it again with 'lowc tune --fit', or take the one that comes with lowc"


@dataclass(frozen=True)
class Numbers:
    """What was fitted beside trees.

    Attributes
    ----------
    time_slope, rank_slope : float
        How much the differences between tiles count that the models of times see, and a score.
    spread_factor, spread_floor : float
        What makes the disagreement of models a standard deviation, which has a least value.
    """

    time_slope: float = 1.0
    rank_slope: float = 0.0
    spread_factor: float = 1.0
    spread_floor: float = 0.02


@dataclass(frozen=True)
class Manifest:
    """What a model's folder says of itself.

    Attributes
    ----------
    name : str
        For reports.
    machine : Machine
        What it was trained on.
    time, level, rank : tuple of str
        Files of trees that predict how logarithms of times of tiles differ, one for each part of
        the data that was left out; how far a product's are off its formula; and what ranks.
    numbers : Numbers
        How their words are put together.
    formulas : dict of str to tuple of float
        By ``form/lowering``: what each component of a time counts (:func:`.features.components`).
    text : str
        The safetensors of the text model; "" without one.
    vocabulary : tuple of str
        Its tokens.
    knows_time : bool
        Whether the text model has learnt times.
    data, metrics, versions : dict
        What it was trained on (``sha256``, counts), what it reached, and with which packages.
    """

    name: str
    machine: Machine
    time: tuple[str, ...]
    level: tuple[str, ...]
    rank: tuple[str, ...]
    numbers: Numbers
    formulas: dict[str, tuple[float, ...]] = field(default_factory=dict)
    text: str = ""
    vocabulary: tuple[str, ...] = ()
    knows_time: bool = False
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelFiles:
    """A manifest and the bytes of the files that it names."""

    manifest: Manifest
    files: dict[str, bytes]


def home() -> Path:
    """Return the folder of models that were fitted on this computer: LOWC_MODELS, or a cache."""
    told = os.environ.get("LOWC_MODELS")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(told or f"{cache}/lowc/models").expanduser()


def write(folder: Path, manifest: Manifest, files: dict[str, bytes]) -> None:
    """Write a model's folder; the manifest comes last, so that half a model has none.

    One that is there is written over, and its manifest goes first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    listed = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in sorted(files.items())
    }
    value = {
        "format": FORMAT, "version": 1, "name": manifest.name, "features_version": VERSION,
        "features": list(NAMES), "machine": json.loads(manifest.machine.to_json()),
        "files": listed, "time": list(manifest.time),
        "level": list(manifest.level), "rank": list(manifest.rank),
        "numbers": dataclasses.asdict(manifest.numbers), "formulas": manifest.formulas,
        "text": manifest.text, "vocabulary": list(manifest.vocabulary),
        "knows_time": manifest.knows_time, "data": manifest.data, "metrics": manifest.metrics,
        "versions": manifest.versions,
    }  # fmt: skip
    temporary = folder / f".{MANIFEST}"
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    temporary.replace(folder / MANIFEST)


def move(folder: Path, to: Path) -> Path:
    """Put a model's folder in the place of another one; return where it is."""
    if to.exists():
        shutil.rmtree(to)
    folder.replace(to)
    return to


def read(folder: Path) -> ModelFiles:
    """Read a model's folder, and check all that can be checked without running it.

    Raises
    ------
    UserError
        When there is none, or it is damaged, of another lowc, or larger than models are.
    """
    where = str(folder / MANIFEST)
    value = _manifest_value(folder / MANIFEST)
    if value.get("format") != FORMAT or value.get("version") != 1:
        raise UserError("this is no manifest of a cost model", where=where, hint=_HINT)
    if value.get("features") != list(NAMES) or value.get("features_version") != VERSION:
        raise UserError(
            "this model reads other features than this lowc has", where=where, hint=_HINT
        )
    try:
        manifest = _parsed(value)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        said = f"{type(error).__name__}: {error}"[:200]
        raise UserError(f"the manifest is damaged ({said})", where=where, hint=_HINT) from error
    listed = value.get("files")
    if not isinstance(listed, dict) or len(listed) > MOST_FILES:
        raise UserError("the manifest lists no files, or too many", where=where, hint=_HINT)
    trees = (*manifest.time, *manifest.level, *manifest.rank)
    wanted = {*trees, *filter(None, [manifest.text])}
    if wanted - set(listed):
        missing = sorted(wanted - set(listed))[0]
        raise UserError(f"the manifest does not list '{missing[:60]}'", where=where, hint=_HINT)
    files: dict[str, bytes] = {}
    rest = MOST_TOGETHER
    for name in sorted(wanted):
        files[name] = _checked(folder, name, listed[name], min(rest, MOST_BYTES))
        rest -= len(files[name])
    return ModelFiles(manifest, files)


def contents(path: Path, most: int) -> bytes:
    """Return the bytes of a file; what is no plain file, or grows, is not waited for.

    Raises
    ------
    UserError
        When it is no plain file, or larger than `most` bytes.
    OSError
        When it cannot be read.
    """
    # Opening a FIFO would wait for who writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UserError("it is no plain file", where=str(path), hint=_HINT)
        data = file.read(most + 1)
    if len(data) > most:
        raise UserError(f"it is larger than {most} bytes", where=str(path), hint=_HINT)
    return data


def _manifest_value(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(contents(path, MOST_MANIFEST).decode())
    except OSError as error:
        raise UserError(
            f"there is no cost model here ({error.strerror})", where=str(path), hint=_HINT
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError("the manifest is no JSON", where=str(path), hint=_HINT) from error
    if not isinstance(value, dict):
        raise UserError("the manifest is no JSON object", where=str(path), hint=_HINT)
    return value


def _parsed(value: dict[str, Any]) -> Manifest:
    names = {key: tuple(map(str, value[key])) for key in ("time", "level", "rank", "vocabulary")}
    numbers = {one.name: float(value["numbers"][one.name]) for one in dataclasses.fields(Numbers)}
    formulas = {str(form): tuple(map(float, counts)) for form, counts in value["formulas"].items()}
    every = [*numbers.values(), *(count for counts in formulas.values() for count in counts)]
    if not all(math.isfinite(number) and 0 <= number < 1e6 for number in every):
        raise ValueError("one of its numbers is out of range")
    if any(len(counts) != COMPONENTS for counts in formulas.values()):
        raise ValueError(f"a formula has {COMPONENTS} numbers")
    text = str(value.get("text", ""))
    for name in (*names["time"], *names["level"], *names["rank"], *filter(None, [text])):
        if not _FILE.fullmatch(name):
            raise ValueError(f"'{name[:60]}' is no name of a model's file")
    if not names["time"] or not names["level"]:
        raise ValueError("it names no trees")
    trees = (*names["time"], *names["level"], *names["rank"])
    if len(set(trees)) != len(trees) or len(trees) > MOST_FILES:
        raise ValueError("it names trees twice, or too many")
    return Manifest(
        str(value["name"])[:80], Machine.from_json(json.dumps(value["machine"])), names["time"],
        names["level"], names["rank"], Numbers(**numbers), formulas,
        text=text, vocabulary=names["vocabulary"],
        knows_time=value.get("knows_time") is True, data=dict(value.get("data", {})),
        metrics=dict(value.get("metrics", {})), versions=dict(value.get("versions", {})),
    )  # fmt: skip


def _checked(folder: Path, name: str, listed: Any, most: int) -> bytes:
    path = folder / name
    try:
        data = contents(path, most)
    except OSError as error:
        raise UserError(
            f"a file of the model cannot be read ({error.strerror})", where=str(path), hint=_HINT
        ) from error
    said = listed.get("sha256") if isinstance(listed, dict) else None
    if said != hashlib.sha256(data).hexdigest():
        raise UserError("its SHA-256 is not the manifest's", where=str(path), hint=_HINT)
    return data
