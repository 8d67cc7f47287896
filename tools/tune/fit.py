"""``lowc tune --fit``: make the files of a cost model of what is in a store."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...passes.tiling import features, model_files, revisions
from ...passes.tiling.choice import TOO_UNSURE
from ...passes.tiling.model_files import Manifest
from ...passes.tiling.problem import BACKENDS
from ...passes.tiling.record import Machine, Record
from ...passes.tiling.tree_ranker import FEW
from . import evaluate, measured, metrics, packages, trees
from .evaluate import Held
from .fit_text import TextPart
from .measured import Table
from .metrics import Score

LEAST_PRODUCTS = FEW
LEAST_TILES_OF_GPUS = 2
LEAST_OF_GPUS = 4  # one is seldom at hand: a model of few products says so, and is less sure
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
    backend: str = "",
) -> Manifest:
    """Train on `records`, say what held-out shapes cost, and write the model into `folder`.

    Records are those of one machine: of several, the one with the most is taken.  `backend` is
    ``cpu``, ``vulkan`` or ``cuda``; any if empty.

    Raises
    ------
    UserError
        When there are too few products, or LightGBM is missing.
    """
    check_installed()
    wanted = (r for r in records if backend in ("", r.problem.backend) and revisions.current(r))
    least = LEAST_TILES_OF_GPUS if backend in BACKENDS.values() else measured.LEAST_TILES
    tables, machine = of_one_machine(measured.tables(wanted, least), tell, backend)
    tell(f"{len(tables)} products, {sum(len(t.seconds) for t in tables)} tiles measured")
    held = evaluate.cross_validate(tables, tell, rounds=rounds)
    numbers, found = held.numbers, metrics_of(held)
    if not found["all"]["chosen_regret"] <= found["all"]["default_regret"]:
        # Shapes that it did not see got worse by it: it ranks, and leaves the default where it is.
        tell("of shapes that it did not see it chose no better than the default, which stays")
        numbers = dataclasses.replace(numbers, spread_floor=2 * TOO_UNSURE)
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
        numbers=numbers, formulas=model.formulas,
        data={
            "sha256": measured.data_hash(tables), "products": len(tables),
            "tiles": sum(len(table.seconds) for table in tables),
            "when": datetime.datetime.now(datetime.UTC).date().isoformat(),
        },
        metrics=found | ({"text": text.metrics} if text else {}),
        text=TEXT if text else "", vocabulary=text.vocabulary if text else (),
        versions={name: metadata.version(name) for name in PACKAGES},
    )  # fmt: skip
    model_files.write(folder, manifest, files)
    return manifest


def check_installed() -> None:
    """Raise a UserError unless the packages are there."""
    packages.need(*packages.FITTING)


def of_one_machine(
    found: Sequence[Table], tell: Tell, backend: str = ""
) -> tuple[list[Table], Machine]:
    """Return the tables of the machine that has the most; `backend` is what they are of, if known.

    Raises
    ------
    UserError
        When they are too few.
    """
    counts: dict[str, int] = {}
    for table in found:
        counts[table.machine.key] = counts.get(table.machine.key, 0) + 1
    key = max(sorted(counts), key=lambda one: counts[one], default="")
    kept = [table for table in found if table.machine.key == key]
    if kept:
        backend = kept[0].problem.backend
    least = LEAST_OF_GPUS if backend in BACKENDS.values() else LEAST_PRODUCTS
    if len(kept) < least:
        raise UserError(
            f"there are measurements of {len(kept)} products, fewer than {least}",
            hint="measure more of them with 'lowc tune', or name what was measured with --target",
        )
    if len(kept) < LEAST_PRODUCTS:
        tell(f"measurements of only {len(kept)} products: the model is taken to be twice as unsure")
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
