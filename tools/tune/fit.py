"""``lowc tune --fit``: make the files of a cost model of what is in a store."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...passes.tiling import features, model_files
from ...passes.tiling.model_files import Manifest
from ...passes.tiling.record import Machine, Record
from . import evaluate, measured, metrics, packages, trees
from .evaluate import Held
from .fit_text import TextPart
from .measured import Table
from .metrics import Score

LEAST_PRODUCTS = 10
QUIET = 0.03  # median noise of a product's times
WHOLE = "all legal tiles"
TEXT = "text.safetensors"
PACKAGES = ("lightgbm", "iree-base-compiler", "numpy")
Tell = Callable[[str], object]


def fit(
    records: Iterable[Record],
    folder: Path,
    tell: Tell,
    rounds: int = trees.ROUNDS,
    text: TextPart | None = None,
) -> Manifest:
    """Train on `records`, say what held-out shapes cost, and write the model into `folder`.

    Records are those of one machine: of several, the one with the most is taken.

    Raises
    ------
    UserError
        When there are too few products, or LightGBM is missing.
    """
    check_installed()
    tables, machine = of_one_machine(measured.tables(records), tell)
    tell(f"{len(tables)} products, {sum(len(t.seconds) for t in tables)} tiles measured")
    held = evaluate.cross_validate(tables, tell, rounds=rounds)
    model = trees.train(tables, rounds=rounds)
    files = {f"time-{i}.txt": _text(booster) for i, booster in enumerate(model.time)}
    files |= {f"level-{i}.txt": _text(booster) for i, booster in enumerate(model.level)}
    files |= {f"rank-{i}.txt": _text(booster) for i, booster in enumerate(model.rank)}
    if text is not None:
        files[TEXT] = text.data
    manifest = Manifest(
        name=machine.unit, machine=machine,
        time=tuple(name for name in files if name.startswith("time")),
        level=tuple(name for name in files if name.startswith("level")),
        rank=tuple(name for name in files if name.startswith("rank")),
        numbers=held.numbers, formulas=model.formulas,
        data={
            "sha256": measured.data_hash(tables), "products": len(tables),
            "tiles": sum(len(table.seconds) for table in tables),
            "when": datetime.datetime.now(datetime.UTC).date().isoformat(),
        },
        metrics=metrics_of(held) | ({"text": text.metrics} if text else {}),
        text=TEXT if text else "", vocabulary=text.vocabulary if text else (),
        versions={name: metadata.version(name) for name in PACKAGES},
    )  # fmt: skip
    model_files.write(folder, manifest, files)
    return manifest


def check_installed() -> None:
    """Raise a UserError unless the packages are there."""
    packages.need(*packages.FITTING)


def of_one_machine(found: Sequence[Table], tell: Tell) -> tuple[list[Table], Machine]:
    """Return the tables of the machine that has the most.

    Raises
    ------
    UserError
        When they are too few.
    """
    counts: dict[str, int] = {}
    for table in found:
        counts[table.machine.key] = counts.get(table.machine.key, 0) + 1
    if not counts or max(counts.values()) < LEAST_PRODUCTS:
        raise UserError(
            f"there are measurements of {max(counts.values(), default=0)} products, fewer than "
            f"{LEAST_PRODUCTS}",
            hint="measure more of them with 'lowc tune'",
        )
    key = max(sorted(counts), key=lambda one: counts[one])
    kept = [table for table in found if table.machine.key == key]
    if len(counts) > 1:
        tell(f"of {len(counts)} machines, {kept[0].machine.name} has the most measurements")
    rates = [table.machine for table in kept if table.machine.multiply_rate]
    return kept, (rates or [kept[0].machine])[0]


def metrics_of(held: Held) -> dict[str, Any]:
    """Return :func:`by_form` of the tiles that can be chosen, and a summary of all legal ones."""
    return by_form(held.scores()) | {WHOLE: metrics.summarize(held.scores(whole=True)).to_dict()}


def by_form(scores: Sequence[Score]) -> dict[str, Any]:
    """Return summaries of all scores, of those with little noise, and of each form's, as JSON."""
    found = {"all": metrics.summarize(scores).to_dict()}
    quiet = [one for one in scores if one.noise <= QUIET]
    if quiet:
        found[f"noise at most {100 * QUIET:.0f} %"] = metrics.summarize(quiet).to_dict()
    for form in sorted({(one.form, one.lowering) for one in scores}):
        same = [one for one in scores if (one.form, one.lowering) == form]
        name = form[0] if form[1] == "kernel" else f"{form[0]} ({form[1]})"
        found[name] = metrics.summarize(same).to_dict()
    return found


def _text(booster: Any) -> bytes:
    """Return LightGBM's text of a model, without the parameters of its training."""
    text = booster.model_to_string(importance_type="gain")
    if booster.feature_name() != list(features.NAMES):
        raise ValueError("the model was trained on other features")
    return str(text).encode("ascii")
