"""``lowc tune``: the command line."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...errors import UserError
from .. import output
from ..seconds import Seconds

if TYPE_CHECKING:
    from ...passes.tiling.problem import Lowering
    from .plan import Round
    from .run import Job, Progress
    from .store import Store

QUICK_SECONDS, QUICK_TILES = 540.0, 8
HOME = "home"  # of the models that are fitted on this machine: 'learned' finds them there
STAGES = ("all", "prepare", "measure")


def default_store() -> str:
    """Return where measurements are kept unless told otherwise."""
    told = os.environ.get("LOWC_STORE")
    if told:
        return told
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return str(cache / "lowc" / "tiles.sqlite")


def _place(store: str | None) -> str:
    """Return where to keep measurements; of lowc's own folder, not of a user's, make what lacks."""
    place = store or default_store()
    if not store and not os.environ.get("LOWC_STORE"):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
    return place


@click.command("tune")
@click.option("--store", metavar="PLACE", help="A file, or a URL of PostgreSQL; LOWC_STORE.")
@click.option("--form", "forms", multiple=True, metavar="F", help="f32, lmul, w4a8 …: all if none.")
@click.option(
    "--shape", "shapes", multiple=True, metavar="BxMxNxK", help="A list of its own if none."
)
@click.option("--tiles", default=24, show_default=True, help="Tiles of each product; 0 for all.")
@click.option("--round", "size", default=24, show_default=True, help="Tiles that take turns.")
@click.option("--passes", default=2, show_default=True, type=click.IntRange(min=1),
              help="Processes that measure each tile; the fastest counts.")  # fmt: skip
@click.option(
    "--target",
    default="cpu",
    show_default=True,
    help="cpu, cpu:CHIP, vulkan, vulkan:FAMILY, cuda:SM.",
)
@click.option(
    "--lowering", type=click.Choice(("kernel", "linalg")), default="kernel", show_default=True,
    help="lowc's kernels, or IREE's code generation (f32, lmul, shift-add).",
)  # fmt: skip
@click.option(
    "--cost-model", default="learned", show_default=True, metavar="M",
    help="What it thinks best is a fifth of the tiles: none, learned, roofline …",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="What fits ten minutes, and a model of it.")
@click.option("--seconds", type=Seconds(), help="Begin nothing after so long.")
@click.option("--work", metavar="DIR", help="Keep compiled tiles there until they are measured.")
@click.option("--stage", type=click.Choice(STAGES), default="all", show_default=True,
              help="Compile only, or measure what is compiled in --work.")  # fmt: skip
@click.option("--executor", default="local", show_default=True, help="local, ray, ray:ADDRESS.")
@click.option(
    "--fit",
    "fitted",
    metavar="DIR",
    help="Fit a cost model to the store, into DIR or 'home', and measure nothing.",
)
@click.option(
    "--corpus",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Kernels that a text model learns from with --fit.",
)
@click.option(
    "--kernels",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Compile kernels into --corpus until it has N, and measure nothing.",
)
@click.option("--export", "exported", metavar="FILE", help="Write the store as Parquet, no more.")
@click.option("--import", "imported", metavar="FILE", help="Add the records of a Parquet file.")
@click.option("--json", "as_json", is_flag=True, help="Print what is in the store as JSON.")
def tune_command(
    store: str | None, forms: tuple[str, ...], shapes: tuple[str, ...], tiles: int, size: int,
    passes: int, target: str, lowering: Lowering, cost_model: str, quick: bool,
    seconds: float | None, work: str | None, stage: str, executor: str, fitted: str | None,
    corpus: Path | None, kernels: int, exported: str | None, imported: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure tiles of products on this machine, and keep every measurement.

    It can be stopped and started again: what is in the store is not measured twice.
    """
    from . import packages

    if kernels:
        _compile_corpus(corpus, kernels)
        if not fitted:
            return
    if stage != "all" and work is None:
        raise UserError("a stage alone needs a folder for compiled tiles", hint="--work DIR")
    if size < 2 or tiles < 0:
        raise UserError("a round has 2 tiles or more, and a product no fewer than 0")
    _check_executor(executor, target, stage)
    packages.need(*packages.STORE)
    from .store import Store

    place = _place(store)
    with Store(place) as opened:
        if exported or imported or fitted:
            _exchange(opened, exported, imported)
            if fitted:
                _fit(opened, fitted, corpus, target)
        else:
            limit = seconds if seconds is not None else QUICK_SECONDS if quick else math.inf
            if quick:
                tiles = min(tiles or QUICK_TILES, QUICK_TILES)
            with _folder(work) as folder:
                job = _job(
                    opened, target, folder, time.monotonic() + limit, passes,
                    measures=stage != "prepare",
                )  # fmt: skip
                found: list[Round] = []
                if stage != "measure":
                    found = _rounds(job, forms, shapes, lowering, tiles, size, cost_model)
                _tune(job, found, stage, executor)
            if quick and stage != "prepare":
                _fit_quick(opened, target)
        counts = opened.count()
    _say(counts, place, as_json)


def _check_executor(executor: str, target: str, stage: str) -> None:
    """Raise a UserError unless there is such an executor, and it can do `stage` for `target`."""
    from ...compiler.target import load_target

    kind = executor.partition(":")[0]
    if kind not in ("local", "ray"):
        raise UserError(f"there is no executor '{executor}'", hint="local, ray, ray:ADDRESS")
    if kind == "ray" and load_target(target).backend != "cpu":
        raise UserError(
            f"clusters measure on CPUs, not on '{target}'", where="--executor", hint="local"
        )
    if kind == "ray" and stage != "all":
        raise UserError(
            "a cluster compiles and measures in one go", where="--stage",
            hint="leave --stage out, or take --executor local",
        )  # fmt: skip


def _exchange(opened: Store, exported: str | None, imported: str | None) -> None:
    from . import packages

    packages.need(*packages.PARQUET)
    from . import parquet

    if imported:
        kept = opened.add(parquet.read(Path(imported)))
        output.remark(f"{kept} records are new")
    if exported:
        count = parquet.write(opened.records(), Path(exported))
        output.remark(f"{count} records written to {exported}")


def _fit_quick(opened: Store, target: str) -> None:
    """Fit a model that 'learned' finds, if there is enough to fit it to."""
    try:
        _fit(opened, HOME, None, target)
    except UserError as error:
        output.remark(f"no cost model was fitted: {error.what}")


def _compile_corpus(corpus: Path | None, kernels: int) -> None:
    from . import text_corpus

    if corpus is None:
        raise UserError("kernels are compiled into a file", hint="--corpus FILE")
    text_corpus.mend(corpus)
    have = sum(1 for _ in text_corpus.read(corpus)) if corpus.exists() else 0
    batches = range(-(-kernels // text_corpus.BATCH))
    with _progress(len(batches)) as progress:
        for done, count in enumerate(text_corpus.collect(corpus, batches)):
            have += count
            progress(done + 1, f"{have} kernels")
    output.result(f"{corpus}: {have} kernels")


def _fit(opened: Store, place: str, corpus: Path | None, target: str) -> None:
    from ...compiler.target import load_target
    from ...passes.tiling import model_files
    from .fit import check_installed, fit

    check_installed()
    text = None
    if corpus is not None:
        from .fit_text import fit_text

        text = fit_text(corpus, output.remark)
    home = model_files.home()
    folder = home / ".fitted" if place == HOME else Path(place)
    backend = load_target(target).backend
    manifest = fit(opened.records(), folder, output.remark, text=text, backend=backend)
    if place == HOME:
        folder = model_files.move(folder, home / manifest.machine.key)
    found = manifest.metrics["all"]
    output.remark(
        f"model of {found['products']} products in {folder}: of shapes that it did not see, the "
        f"chosen tile takes {100 * found['chosen_regret']:.1f} % longer than the best measured, "
        f"the default {100 * found['default_regret']:.1f} %"
    )


def _job(
    opened: Store, target: str, place: Path, deadline: float, passes: int, *, measures: bool
) -> Job:
    from ...compiler.device_targets import device_for
    from ...compiler.measuring import compiled
    from ...compiler.measuring.fingerprint import effort_on, fingerprint, of_device
    from ...compiler.target import load_target
    from .rates import with_rates
    from .run import Job

    goal = load_target(target)
    is_gpu = goal.backend != "cpu"
    machine = of_device(goal) if is_gpu and measures else fingerprint(goal)
    if measures and not is_gpu:
        machine = with_rates(machine, opened)
    cache = compiled.Cache(compiled.default_folder())
    effort = effort_on(machine)
    device = (device_for(goal) if is_gpu and measures else None) or goal.backend
    return Job(opened, machine, target, place, effort, deadline, passes, device, cache)


def _rounds(
    job: Job,
    forms: tuple[str, ...],
    shapes: tuple[str, ...],
    lowering: Lowering,
    tiles: int,
    size: int,
    cost_model: str,
) -> list[Round]:
    from ...passes.tiling import rankers
    from . import plan

    ranker = rankers.ranker(cost_model, job.machine)
    if isinstance(ranker, rankers.Unable):
        output.remark(f"no tiles are those that a cost model thinks best: {ranker.why}")
        ranker = None
    unit = job.machine.unit
    usual = plan.usual_forms(unit, lowering)
    chosen = plan.problems(forms or usual, unit, shapes, lowering)
    if unit == "portable":
        chosen = [one for one in chosen if one.form != "shift-add"]
    measured = job.store.measured(job.machine.key)
    return list(plan.rounds(chosen, tiles, measured, size, ranker))


def _tune(job: Job, rounds: list[Round], stage: str, executor: str) -> None:
    from . import run

    kind, _, address = executor.partition(":")
    with _progress(len(rounds)) as progress:
        if kind == "ray":
            from .distribute import tune_on_ray

            tune_on_ray(job, rounds, address, progress)
        elif stage == "prepare":
            run.prepare_all(job, rounds, progress)
        elif stage == "measure":
            run.measure_ready(job, progress)
        else:
            run.measure_all(job, rounds, progress)
    if job.cache.hits:
        output.remark(f"{job.cache.hits} modules were taken from the cache")


@contextmanager
def _folder(work: str | None) -> Iterator[Path]:
    if work is not None:
        Path(work).mkdir(parents=True, exist_ok=True)
        yield Path(work)
        return
    with tempfile.TemporaryDirectory(prefix="lowc-tune-") as name:
        yield Path(name)


@contextmanager
def _progress(total: int) -> Iterator[Progress]:
    """Give a function that shows rounds on stderr: a bar, or now and then a line in a log."""
    console = output.console(stderr=True)
    if not console.is_terminal:
        last = [0.0]

        def say(done: int, what: str) -> None:
            if time.monotonic() - last[0] > 10 or done == total:
                last[0] = time.monotonic()
                output.remark(f"{done} of {total} rounds: {what}")

        yield say
        return
    from rich.progress import Progress as Bar

    with Bar(console=console) as bar:
        task = bar.add_task("measuring", total=total)
        yield lambda done, what: bar.update(task, completed=done, description=what)


def _say(counts: dict[str, int], place: str, as_json: bool) -> None:
    if as_json:
        output.result_json({"store": place, "records": counts})
        return
    text = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    output.result(f"{place}: {text or 'no records'}")
