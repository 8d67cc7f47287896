"""``lowc report cost-model``: how well tiles are chosen, on shapes that no model saw."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...errors import UserError
from .. import output

if TYPE_CHECKING:
    from ..tune.evaluate import Held

TREES = "trees (lowc)"
SHARES = (0.1, 0.25, 0.5, 1.0)  # of the products, for the learning curve
_HEADS = ("products", "regret", "p95", "top 8", "chosen", "p95", "tau", "apart", "MAPE",
          "slower", "gain")  # fmt: skip


@click.command("cost-model")
@click.option("--store", metavar="PLACE", help="Measurements: a file, or a URL of PostgreSQL.")
@click.option("--data", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Measurements: Parquet that 'lowc tune --export' wrote.")  # fmt: skip
@click.option("--plots", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Draw figures into this folder.")  # fmt: skip
@click.option("--model", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Say what a model's manifest says of it, and no more.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def cost_model_command(
    store: str | None, data: Path | None, plots: Path | None, model: Path | None, as_json: bool
) -> None:
    """Cross-validate cost models on measured tiles, split by whole shapes.

    Every product is predicted by models that saw no product with a weight of its sizes.  Judged are
    the tiles that a compilation can choose, and once more all legal ones.  Regret is how much
    longer the tile that is predicted fastest takes than the best measured one; "top 8" the best of
    the first eight; "chosen" what is taken in fact, the default where the prediction is unsure: how
    sure it must be is what products of the other folds ask.  "slower" counts products whose chosen
    tile is slower than the default by more than noise; "gain" is how many times as fast as with
    their defaults products are.  "apart" is Kendall's tau of the pairs of tiles whose times differ
    by more than noise.  "any margin" may ask less of a prediction than lowc does; "all rounds" has
    the same predictions, judged by disturbed measurements too.
    """
    if model is not None:
        _print_manifest(model, as_json)
        return
    from ..tune import evaluate, fit, measured
    from ..tune.baselines import BASELINES

    fit.check_installed()
    records = _records(store, data)
    tables, machine = fit.of_one_machine(measured.tables(records), output.remark)
    others = measured.tables((r for r in records if r.machine.key == machine.key), all_rounds=True)
    held = evaluate.cross_validate(tables, output.remark, others=others)
    models: dict[str, Any] = {TREES: fit.metrics_of(held)}
    models[f"{TREES}, no margin"] = fit.by_form(held.scores(margin=False))
    loose = held.with_factors(evaluate.ANY_FACTORS)
    models[f"{TREES}, any margin"] = fit.by_form(loose.scores())
    if held.others is not None:
        models[f"{TREES}, all rounds"] = fit.by_form(held.others.scores())
    whole = {TREES: fit.by_form(held.scores(whole=True))}
    for name in BASELINES:
        of_baseline = evaluate.cross_validate_baseline(name, tables)
        models[name] = fit.by_form(of_baseline.scores())
        models[f"{name}, with a margin"] = fit.by_form(of_baseline.scores(margin=True))
        whole[name] = fit.by_form(of_baseline.scores(whole=True))
        output.remark(f"{name}: done")
    found = {
        "machine": machine.name, "unit": machine.unit, "threads": machine.threads,
        "products": len(tables), "shapes": len({table.problem.shape for table in tables}),
        "tiles": sum(len(table.seconds) for table in tables),
        "choosable tiles": sum(int(table.choosable.sum()) for table in tables),
        "rounds": sum(table.rounds for table in tables),
        "dropped rounds": sum(table.dropped for table in tables),
        "products with dropped rounds": sum(table.dropped > 0 for table in tables),
        "products of one round": sum(table.rounds == 1 for table in tables),
        "products of one process": sum(table.is_pooled for table in tables),
        "data": measured.data_hash(tables), "models": models, fit.WHOLE: whole,
        "as GPPerf splits": evaluate.gpperf_split(tables),
    }  # fmt: skip
    if plots is not None:
        found["learning curve"] = _draw(held, plots)
    if as_json:
        output.result_json(found)
    else:
        _print(found)


def _records(store: str | None, data: Path | None) -> list[Any]:
    from ..tune import packages

    packages.need(*packages.STORE)
    from ..tune.store import Store

    if data is not None:
        packages.need(*packages.PARQUET)
        from ..tune import parquet

        return list(parquet.read(data))
    from ..tune.command import default_store

    with Store(store or default_store(), must_exist=True) as opened:
        return list(opened.records())


def _draw(held: Held, folder: Path) -> list[dict[str, float]]:
    from ..tune import trees
    from ..tune.evaluate import learning_curve
    from . import cost_model_figures as figures
    from .plots import draw

    folder.mkdir(parents=True, exist_ok=True)
    curve = learning_curve(held, SHARES, output.remark)
    model = trees.train(held.tables)
    widest = max(held.tables, key=lambda table: (len(table.seconds), table.problem.products))
    drawn = {
        "predicted.png": lambda figure: figures.predicted(figure, held),
        "regret.png": lambda figure: figures.regret(figure, held),
        "learning-curve.png": lambda figure: figures.learning(figure, curve),
        "importance.png": lambda figure: figures.importance(figure, model),
        "landscape.png": lambda figure: figures.landscape(figure, widest),
    }
    for name, fill in drawn.items():
        draw(folder / name, fill)
    output.remark(f"figures in {folder}")
    return curve


def _print_manifest(folder: Path, as_json: bool) -> None:
    from ...passes.tiling import model_files

    manifest = model_files.read(folder).manifest
    found: dict[str, Any] = {
        "machine": manifest.machine.name, "unit": manifest.machine.unit,
        "threads": manifest.machine.threads, "data": manifest.data, "versions": manifest.versions,
        "models": {TREES: manifest.metrics},
    }  # fmt: skip
    if as_json:
        output.result_json(found)
        return
    if "all" not in manifest.metrics:
        raise UserError("the manifest has no metrics", where=str(folder))
    output.result(f"{manifest.machine.name}, {manifest.machine.threads} threads")
    output.result(f"data: {manifest.data}")
    _print_models(found["models"])
    for what, one in manifest.metrics.get("text", {}).items():
        output.result(f"text model, {what}: {_figures(one)}")


def _figures(one: Any) -> str:
    if not isinstance(one, dict):
        return str(one)
    return ", ".join(f"{name} {value:.4g}" for name, value in one.items())


def _print(found: dict[str, Any]) -> None:
    output.result(
        f"{found['tiles']} tiles of {found['products']} products in {found['shapes']} shapes on "
        f"{found['machine']}, {found['threads']} threads; {found['choosable tiles']} of the tiles "
        "can be chosen"
    )
    output.result(
        f"{found['rounds']} rounds of measurements count; {found['dropped rounds']}, of "
        f"{found['products with dropped rounds']} products, do not, for all took longer in them. "
        f"{found['products of one round']} products rest on one round"
    )
    output.result(
        f"of {found['products of one process']} products no two processes measured the same tiles: "
        "their noise is the one that the others have between processes"
    )
    every = found["models"][TREES]["all"]
    output.result(
        f"noise floor: measured again, the best tile would have a regret of "
        f"{100 * every['floor']:.2f} %, and all of them a tau of {every['tau_ceiling']:.2f}; "
        f"{100 * every['apart']:.0f} % of the pairs of tiles differ by more than noise"
    )
    _print_models(found["models"])
    output.result("")
    output.result("of all legal tiles, those that no compilation chooses among them:")
    _print_models(found["all legal tiles"])
    for name, values in found["as GPPerf splits"].items():
        what = name if name.startswith("MAPE") else f"R2 of time, {name}"
        seeds = ", ".join(f"{value:.3f}" for value in values)
        mean = statistics.fmean(values)
        output.result(
            f"split at random as GPPerf does (shapes in both), {what}: {mean:.3f}, "
            f"by {len(values)} seeds {seeds}"
        )
    for point in found.get("learning curve", []):
        output.result(
            f"from {point['tiles']:.0f} measurements: chosen regret "
            f"{100 * point['chosen_regret']:.1f} %"
        )


def _print_models(models: dict[str, Any]) -> None:
    width = max(len(name) for name in models)
    output.result("")
    output.result(" ".join([" " * width, *(f"{head:>8}" for head in _HEADS)]))
    for name, forms in models.items():
        output.result(_line(name, forms["all"], width))
    for form, summary in models[TREES].items():
        if form not in ("all", "text"):
            output.result(_line(f"  {form}", summary, width))


def _line(name: str, one: dict[str, Any], width: int) -> str:
    def percent(key: str) -> str:
        return f"{100 * one[key]:.1f} %"

    cells = [
        str(one["products"]), percent("mean_regret"), percent("p95_regret"), percent("top_regret"),
        percent("chosen_regret"), percent("p95_chosen_regret"), f"{one['tau']:.2f}",
        f"{one['tau_apart']:.2f}", percent("mape"), str(one["slower"]), f"{one['gain']:.3f}",
    ]  # fmt: skip
    return " ".join([f"{name:{width}}", *(f"{cell:>8}" for cell in cells)])
