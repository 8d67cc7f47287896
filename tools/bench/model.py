"""``lowc bench model``: a whole model, compiled by lowc and run by its opponents."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ...errors import LowcError, UserError, nearest
from ...runtime import tree as trees
from .. import output
from ..inputs import read_npy
from . import inputs as bench_inputs
from . import onnx_model, opponents
from .record import keep as keep_record
from .record import new_record

if TYPE_CHECKING:
    from ...compiler.frontend import Model


@dataclass(frozen=True)
class Row:
    """One contender: median milliseconds, spread over blocks, error against PyTorch."""

    name: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    ratio: float
    max_abs_error: float | None
    cosine: float | None


@click.command("model")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--recipe", "recipes", multiple=True, default=("f32",), show_default=True,
    help="A recipe to compile with; may be given several times.",
)  # fmt: skip
@click.option("--target", help="The target to compile for; by default that of the device.")
@click.option(
    "--device", default="auto", show_default=True,
    help="Where to run: cpu, vulkan, cuda, vulkan://0, vulkan://UUID … ('lowc doctor' lists them).",
)  # fmt: skip
@click.option(
    "--against", default="torch,iree", show_default=True,
    help=f"Opponents, separated by commas: {', '.join(opponents.NAMES)}.",
)  # fmt: skip
@click.option(
    "--onnx", type=click.Path(path_type=Path),
    help="The same model as ONNX; without it PyTorch exports MODEL for those that read ONNX.",
)  # fmt: skip
@click.option(
    "--dim", "dims", multiple=True, metavar="SYMBOL=N", help="Size of a dynamic dimension."
)
@click.option("--input", "files", multiple=True, metavar="NAME=F.npy", help="Use this input.")
@click.option(
    "--threads", type=click.IntRange(min=0), default=0, help="Threads for each; 0 means all cores."
)
@click.option(
    "--blocks",
    type=click.IntRange(min=1),
    default=15,
    show_default=True,
    help="Blocks of calls for each.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--keep", type=click.Path(path_type=Path, file_okay=False),
    help="Keep the result, with machine and date, as a JSON file in this folder.",
)  # fmt: skip
def model_command(
    model: Path, recipes: tuple[str, ...], target: str | None, device: str, against: str,
    onnx: Path | None, dims: tuple[str, ...], files: tuple[str, ...], threads: int, blocks: int,
    as_json: bool, keep: Path | None,
) -> None:  # fmt: skip
    """Time MODEL (.pt2) under some recipes beside its opponents.

    All are loaded in one process and called in blocks that alternate, after an idle gap and
    warm-up calls, with the same inputs and number of threads.  Times are medians of block medians;
    ratio is the opponent's time over that of the first recipe.  Outputs are compared with
    PyTorch's.  ``iree`` measures every stock flag set and names the best.  ``onnxruntime-int8``
    and ``openvino-int8`` run what ONNX Runtime's ``quantize_dynamic`` makes of the model, with
    signed (``int8``) and unsigned (``uint8``) weights.
    """
    from ...compiler.device_targets import chosen

    names = tuple(part.strip() for part in against.split(",") if part.strip())
    opponents.check_names(names)
    target = chosen(target, device)
    if onnx is not None and not onnx.is_file():
        raise UserError("the file does not exist", where=str(onnx), hint="export the model as ONNX")
    sizes, given = _pairs(dims, int), {n: read_npy(f) for n, f in _pairs(files, str).items()}
    threads = threads or len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="lowc-bench-") as folder:
        contest = Contest(model, Path(folder), threads, target, device)
        contest.prepare(recipes, sizes, given, names, onnx)
        rows = contest.run(blocks)
    best = min((row for row in rows if row.name.startswith("iree:")), key=_time, default=None)
    record = new_record(
        model=model.name,
        target=target,
        device=device,
        threads=threads,
        inputs=contest.input_text,
        rows=[asdict(row) for row in rows],
        skipped=contest.skipped,
        best_stock_iree=best.name if best else None,
    )
    if keep is not None:
        output.remark(f"kept in {keep_record(record, keep, f'model-{model.stem}')}")
    if as_json:
        output.result_json(record)
        return
    _print(rows, contest, best)


class Contest:
    """Everything that takes part in one measurement."""

    def __init__(self, model: Path, folder: Path, threads: int, target: str, device: str) -> None:
        self.model, self.folder, self.threads, self.target = model, folder, threads, target
        self.device = device
        self.runners: dict[str, Callable[[], Any]] = {}
        self.skipped: dict[str, str] = {}
        self.input_text = ""
        self._files: dict[str, Path] = {}

    def prepare(
        self, recipes: tuple[str, ...], dims: dict[str, int], given: dict[str, Any],
        names: tuple[str, ...], onnx: Path | None,
    ) -> None:  # fmt: skip
        """Compile and load every contender."""
        from ...compiler.api import compile as compile_model
        from ...compiler.frontend import open_model

        output.remark(f"importing {self.model}")
        with open_model(self.model) as imported:
            values = self._inputs(imported.interface, dims, given)
            for recipe in recipes:
                output.remark(f"compiling with recipe {recipe}")
                path = self.folder / f"lowc-{Path(recipe).stem}.vmfb"
                compile_model(imported.copy(), recipe, self.target, output=path)
                self._add_module(f"lowc:{Path(recipe).stem}", path, values)
            for name in names:
                self._add_opponent(name, imported, values, onnx)

    def _inputs(self, manifest: Any, dims: dict[str, int], given: dict[str, Any]) -> list[Any]:
        sizes = bench_inputs.symbol_sizes(manifest, dims)
        values = bench_inputs.make_inputs(manifest, sizes)
        leaves = [leaf for leaf in manifest.inputs if not leaf.literal]
        for name, array in given.items():
            position = next((i for i, leaf in enumerate(leaves) if leaf.name == name), None)
            if position is None:
                hint = nearest(name, [leaf.name for leaf in leaves])
                raise UserError(f"the model has no input '{name}'", hint=hint)
            values[position] = array
        self.input_text = ", ".join(
            f"{leaf.name}: {'x'.join(map(str, np.shape(value)))} {leaf.dtype}"
            for leaf, value in zip(leaves, values, strict=True)
        )
        return values

    def _add_module(self, name: str, path: Path, values: list[Any]) -> None:
        from ...runtime.module import load

        is_stock = name.startswith("iree:")  # always the CPU's
        on_cpu = self.target.partition(":")[0] == "cpu" or is_stock
        on_cpu = on_cpu and self.device != "cpu-sync"
        device = "auto" if is_stock else self.device
        module = load(path, device, threads=self.threads if on_cpu else None)
        manifest = module.manifest
        tensors = iter(values)
        leaves = iter([leaf.value if leaf.literal else next(tensors) for leaf in manifest.inputs])
        args = trees.unflatten(manifest.args_tree, leaves)
        kwargs = trees.unflatten(manifest.kwargs_tree, leaves)

        def call() -> list[Any]:
            return list(trees.flatten(manifest.out_tree, module(*args, **kwargs), "output"))

        # On a GPU, inputs are brought there once, and results stay: that is not the model's time.
        self.runners[name] = module.bound(*args, **kwargs) if module.device.is_gpu else call

    def _add_opponent(
        self, name: str, imported: Model, values: list[Any], onnx: Path | None
    ) -> None:
        output.remark(f"preparing {name}")
        if name == "iree":
            for flags, path in opponents.iree_artifacts(imported, self.folder):
                if isinstance(path, Path):
                    self._add_module(flags, path, values)
                else:
                    self.skipped[flags] = path
            return
        try:
            if name == "torch":
                self.runners[name] = opponents.torch_runner(self.model, values, self.threads)
                return
            path = self._onnx_file(onnx)
        except LowcError as error:
            self.skipped[name] = error.what
            return
        library, _, quantised = name.partition("-")
        runner = {
            "onnxruntime": opponents.onnxruntime_runner, "openvino": opponents.openvino_runner,
        }[library]  # fmt: skip
        for kind in ("int8", "uint8") if quantised else ("",):
            label = f"{library}:{kind}" if kind else library
            try:
                file = self._quantised(path, kind) if kind else path
                self.runners[label] = runner(file, values, self.threads)
            except LowcError as error:
                self.skipped[label] = error.what

    def _onnx_file(self, given: Path | None) -> Path:
        """Return the model as ONNX: the file that was given, or one that is made once."""
        if given is not None:
            return given
        if "f32" not in self._files:
            output.remark("exporting the model as ONNX")
            self._files["f32"] = onnx_model.export(self.model, self.folder)
        return self._files["f32"]

    def _quantised(self, path: Path, kind: str) -> Path:
        if kind not in self._files:
            self._files[kind] = onnx_model.quantise(path, self.folder, kind)
        return self._files[kind]

    def run(self, blocks: int) -> list[Row]:
        """Compare the results with PyTorch's, or the first contender's, and time all."""
        from ...runtime.timing import time_interleaved

        # The results that are compared are those of the first call: a model with state gives
        # others at each.
        results = {name: run() for name, run in self.runners.items()}
        expected = results["torch" if "torch" in results else next(iter(results))]
        for name, found in results.items():
            if len(found) != len(expected):
                self.skipped[name] = f"it gives {len(found)} results, not {len(expected)}"
                del self.runners[name]
        output.remark(f"timing {', '.join(self.runners)}")
        times = time_interleaved(self.runners, blocks=blocks)
        first = next(iter(times.values())).median
        rows = []
        for name, timing in times.items():
            error, cosine = compare(results[name], expected)
            rows.append(
                Row(
                    name, timing.median * 1e3, timing.p10 * 1e3, timing.p90 * 1e3,
                    timing.median / first, error, cosine,
                )
            )  # fmt: skip
        return rows


def compare(found: list[Any], expected: list[Any]) -> tuple[float | None, float | None]:
    """Return the largest absolute difference and the cosine over all float outputs."""
    pairs = [
        (np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel())
        for a, b in zip(found, expected, strict=True)
        if np.asarray(b).dtype.kind in "fV"
    ]
    if not pairs:
        return None, None
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.abs(a - b).max()), float(a @ b / norm) if norm else None


def _time(row: Row) -> float:
    return row.median_ms


def _pairs(texts: tuple[str, ...], convert: Callable[[str], Any]) -> dict[str, Any]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            pairs[name] = convert(value)
        except ValueError:
            equals = ""
        if not equals:
            raise UserError(f"'{text}' is not of the form NAME={convert.__name__}")
    return pairs


def _print(rows: list[Row], contest: Contest, best: Row | None) -> None:
    output.result(f"{contest.model.name} on {contest.threads} threads, {contest.input_text}")
    output.table(
        ["contender", "median ms", "p10", "p90", "ratio", "max |error|", "cosine"],
        [
            [
                row.name, f"{row.median_ms:.2f}", f"{row.p10_ms:.2f}", f"{row.p90_ms:.2f}",
                f"{row.ratio:.2f}",
                "-" if row.max_abs_error is None else f"{row.max_abs_error:.2e}",
                "-" if row.cosine is None else f"{row.cosine:.5f}",
            ]
            for row in rows
        ],
        right=["median ms", "p10", "p90", "ratio", "max |error|", "cosine"],
    )  # fmt: skip
    for name, why in contest.skipped.items():
        output.result(f"skipped {name}: {why}")
    if best is not None:
        output.result(f"best stock IREE flag set: {best.name}, {best.median_ms:.2f} ms")
