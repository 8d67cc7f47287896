"""``lowc compile``: a model in, a ``.vmfb`` out, and an account of every matmul."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UserError
from . import output

if TYPE_CHECKING:
    from ..compiler.tile_choice import TileChoice

STAGES = {
    "import": "importing the model",
    "calibration": "running the calibration",
    "allocation": "choosing planes for each layer",
    "tiles": "choosing tiles",
    "passes": "running passes",
    "parameters": "writing parameters",
    "compile": "generating code with iree-compile",
}


@click.command("compile")
@click.argument("models", nargs=-1, required=True, metavar="MODEL | NAME=MODEL...")
@click.option("-o", "--output", "target_path", metavar="FILE", help="Default: MODEL.vmfb, here.")
@click.option("--recipe", default="f32", show_default=True, help="A built-in name or a .toml file.")
@click.option("--target", default="cpu", show_default=True, help="cpu, vulkan, cuda, cpu:CHIP …")
@click.option(
    "--calibration", "calibrations", multiple=True, metavar="FILE | NAME=FILE",
    help="Stacked inputs, .npz or .safetensors; of several entries, those of NAME.",
)  # fmt: skip
@click.option(
    "--calibration-memory", type=click.IntRange(min=1), default=1024, show_default=True,
    metavar="MIB", help="What its sums take at most; less makes more rounds.",
)  # fmt: skip
@click.option(
    "--cache", metavar="FORMAT",
    help="How keys and values of attention are kept: f32, f16, i8, i4, or keys=i8,values=i4.",
)  # fmt: skip
@click.option(
    "--cost-model",
    default="none",
    metavar="M",
    help="Ranks tiles: none, roofline, learned, a folder, or a server's URL.",
)
@click.option("--measure-top", default=0, metavar="K", help="Time the best K tiles of each matmul.")
@click.option("--store", metavar="PLACE", help="Take tiles by what 'lowc tune' measured there.")
@click.option("--save-temps", metavar="DIR", help="Keep the IR after every pass there.")
@click.option("-v", "--verbose", is_flag=True, help="List every matmul, not groups of them.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def compile_command(
    models: tuple[str, ...],
    target_path: str | None,
    recipe: str,
    target: str,
    calibrations: tuple[str, ...],
    calibration_memory: int,
    cache: str | None,
    cost_model: str,
    measure_top: int,
    store: str | None,
    save_temps: str | None,
    verbose: bool,
    as_json: bool,
) -> None:
    """Compile MODEL (.pt2, .mlir or .mlirbc) and say what became of every matmul, and why.

    Several models, prefill=a.pt2 decode=b.pt2, become entries of one module, with one set of
    weights and one state.

    The parameters go into a .irpa file beside the .vmfb; keep the two together.
    """
    from ..compiler.api import compile  # noqa: A004  (its name in the public API)

    model = _entries(models)
    first = next(iter(model.values())) if isinstance(model, dict) else model
    place = Path(target_path or Path(first).with_suffix(".vmfb").name)
    with _progress() as report_stage:
        artifact = compile(
            model,
            recipe,
            target,
            calibration=_calibration(calibrations, model),
            calibration_memory=calibration_memory << 20,
            output=place,
            save_temps=save_temps,
            progress=report_stage,
            tiles=_tiles(cost_model, measure_top, store, target),
            cache=cache,
        )
    files = {str(place.with_name(path.name)): path.stat().st_size for path in artifact.files}
    if as_json:
        output.result_json({"files": files, **artifact.report})
        return
    for note in artifact.report.get("notes", []):
        output.remark(f"note: {note}")
    rows = artifact.report["matmuls"]
    if verbose:
        _table_of_all(rows)
    elif rows:
        _table_of_groups(rows)
    if not rows:
        output.result("no matmul was found; everything is compiled as it was exported")
    _table_of_embeddings(artifact.report["embeddings"])
    _say_caches(artifact.report["caches"])
    output.result("")
    for path, size in files.items():
        output.result(f"{path}  {output.size_text(size)}")
    energy = artifact.report["energy"]
    for name, of_call in (energy if artifact.manifest.entries else {"": energy}).items():
        _say_energy(of_call, name)
    seconds = artifact.report.get("seconds", {})
    output.remark(", ".join(f"{name} {value:.1f} s" for name, value in seconds.items()))


def _entries(models: Sequence[str]) -> str | dict[str, str]:
    """Return the path of one model, or the paths of several by the names of their entries."""
    pairs = [
        (name, path) for name, equals, path in (one.partition("=") for one in models)
        if equals and name.isidentifier()
    ]  # fmt: skip
    if len(models) == 1 and not pairs:
        return models[0]
    if len(pairs) < len(models):
        raise UserError(
            "several models are several entries, each with a name",
            hint="lowc compile prefill=a.pt2 decode=b.pt2",
        )
    for name, path in pairs:
        if not path:
            raise UserError(f"the entry '{name}' has no file", hint=f"{name}=model.pt2")
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UserError("two entries have the same name", hint=", ".join(name for name, _ in pairs))
    return found


def _calibration(files: Sequence[str], model: str | dict[str, str]) -> str | dict[str, str] | None:
    """Return the file of inputs, or the files by the names of the entries that they are for."""
    if isinstance(model, str):
        if len(files) > 1:
            raise UserError("a model of one entry has one --calibration", hint=", ".join(files))
        return files[0] if files else None
    found: dict[str, str] = {}
    for one in files:
        name, equals, path = one.partition("=")
        if not equals:
            hint = f"--calibration {next(iter(model))}={one}"
            raise UserError(f"'--calibration {one}' does not say which entry it is for", hint=hint)
        if name in found:
            raise UserError(f"the entry '{name}' has two files of inputs", hint=f"{name}={path}")
        found[name] = path
    return found or None


def _tiles(cost_model: str, measure_top: int, store: str | None, target: str) -> TileChoice | None:
    """Return how tiles are chosen; None for default ones."""
    if cost_model == "none" and not measure_top and store is None:
        return None
    if measure_top < 0:
        raise UserError("a number of tiles is 0 or more", where="--measure-top")
    from ..compiler.tile_choice import TileChoice

    if store is None:
        return TileChoice(cost_model, measure_top, tell=output.remark)
    from ..compiler.measuring.fingerprint import measured_on
    from ..compiler.target import load_target
    from .tune import packages

    packages.need(*packages.STORE)
    from .tune.store import Store
    from .tune.times import relative_times

    with Store(store, must_exist=True) as opened:
        known = relative_times(opened.records(measured_on(load_target(target)).key))
    if not known:
        output.remark(f"{store} has no times of tiles for '{target}' on this machine")
    return TileChoice(cost_model, measure_top, known, output.remark)


def _say_caches(rows: list[dict[str, Any]]) -> None:
    """Say in which formats keys and values are kept, what that takes, and why not otherwise."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["role"], row["format"], row["why"]].append(row)
    for (role, name, why), group in groups.items():
        size, before = (sum(row[key] for row in group) for key in ("bytes", "bytes_f32"))
        said = f", {why}" if why else ""
        instead = "" if size == before else f" in the place of {output.size_text(before)}"
        output.result(
            f"cache: {role} in {name}{said}, {output.size_text(size)}{instead}; "
            f"{len(group)} such as {group[0]['name']}"
        )


def _say_energy(energy: dict[str, Any], entry: str) -> None:
    from ..compiler.energy import change_text, joules_text

    now, before = (
        part["picojoules"]["arithmetic"] + part["picojoules"]["guards"]
        for part in (energy, energy["exported"])
    )
    if not before:
        return
    call = f"call of {entry}" if entry else "call"
    each = ", dynamic sizes taken as 1" if energy["dynamic"] else ""
    output.result(
        f"arithmetic per {call}{each}: {joules_text(now)}, as exported {joules_text(before)} "
        f"({change_text(energy['saving'])}); see lowc report energy"
    )


@contextmanager
def _progress() -> Iterator[Callable[[str], object]]:
    """Give a function that shows the current stage on stderr: a spinner, or lines in a log."""
    console = output.console(stderr=True)
    if not console.is_terminal:
        yield lambda stage: output.remark(f"{STAGES.get(stage, stage)} …")
        return
    with console.status("starting") as status:
        yield lambda stage: status.update(f"{STAGES.get(stage, stage)} …")


def _table_of_groups(rows: list[dict[str, Any]]) -> None:
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["form"], row["kind"], row["lowering"]].append(row)
    output.table(
        ["form", "of", "matmuls", "bits/weight", "lowering, and why", "such as"],
        [
            [form, kind, str(len(group)), _bits_range(group), lowering, group[0]["name"]]
            for (form, kind, lowering), group in groups.items()
        ],
        right=["matmuls", "bits/weight"],
    )


def _table_of_all(rows: list[dict[str, Any]]) -> None:
    output.table(
        ["matmul", "shape", "form", "bits/weight", "lowering, and why"],
        [
            [row["name"], row["shape"], row["form"], _bits_range([row]), row["lowering"]]
            for row in rows
        ],
        right=["bits/weight"],
    )


def _table_of_embeddings(rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    output.result("")
    output.table(
        ["embedding", "table", "form", "bits/weight", "lowering, and why"],
        [
            [row["name"], row["shape"], row["form"], _bits_range([row]), row["lowering"]]
            for row in rows
        ],
        right=["bits/weight"],
    )


def _bits_range(rows: list[dict[str, Any]]) -> str:
    bits = sorted(row["bits_per_weight"] for row in rows if row["bits_per_weight"])
    ends = {f"{end:.3g}": None for end in (*bits[:1], *bits[-1:])}
    return "–".join(ends)
