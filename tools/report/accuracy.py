"""``lowc report accuracy``: what recipes do to a model's outputs, and to each of its layers."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...errors import UserError
from .. import output
from ..bench.inputs import make_inputs, symbol_sizes
from ..bench.record import new_record
from .accuracy_figure import fill, size
from .plots import check_plot_path, draw

if TYPE_CHECKING:
    from ...compiler.accuracy import LayerError, OutputErrors
    from ...compiler.frontend import Model
    from ...compiler.recipe import Recipe

RANDOM_CALLS = 4


@dataclass(frozen=True)
class Result:
    """What one recipe does: to the outputs (None if none holds floats), and to each layer.

    ``bits_per_weight`` is the mean over all weights of rewritten matmuls, scales counted;
    ``picojoules`` those of a call's arithmetic and guards; ``bits_per_token`` what the model needs
    for its own next input, if asked for.
    """

    recipe: str
    outputs: OutputErrors | None
    layers: list[LayerError]
    bits_per_weight: float | None = None
    picojoules: float | None = None
    bits_per_token: float | None = None


@click.command("accuracy")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--recipe", "recipes", multiple=True, default=("w8a16", "w4a16"), show_default=True,
    help="A built-in name or a .toml file; may be given several times.",
)  # fmt: skip
@click.option(
    "--inputs", type=click.Path(path_type=Path), metavar="FILE",
    help="Stacked inputs, .npz or .safetensors: one array per input, by name.",
)  # fmt: skip
@click.option("--target", default="cpu", show_default=True, help="The target to compile for.")
@click.option(
    "--against", type=click.Choice(["f32", "torch"]), default="f32", show_default=True,
    help="What outputs are compared with: recipe f32 of lowc, or PyTorch.",
)  # fmt: skip
@click.option(
    "--rank", is_flag=True, help="Outputs of any shape are embeddings, not only 2-D ones."
)
@click.option(
    "--next-token", is_flag=True,
    help="MODEL is a language model: also say how many bits its next input token costs.",
)  # fmt: skip
@click.option(
    "--top", type=click.IntRange(min=0), default=12, show_default=True, help="Layers in the text."
)
@click.option(
    "--threads", type=click.IntRange(min=0), default=0, help="Threads; 0 means all cores."
)
@click.option("--calibration", metavar="FILE", help="Other inputs, for recipes that need them.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw .png, .svg, …")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all layers.")
def accuracy_command(
    model: Path, recipes: tuple[str, ...], inputs: Path | None, target: str, against: str,
    rank: bool, next_token: bool, top: int, threads: int, calibration: str | None,
    plot: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Say how far recipes move the outputs of MODEL (.pt2), and which layers they damage.

    Each recipe is compiled twice.  The model as it would be deployed gives the errors of the
    outputs.  In a second module every layer runs exact, and beside that in its form on the same
    inputs, which gives the damage of each layer alone.
    """
    if plot is not None:
        check_plot_path(plot)
    from ...compiler.frontend import open_model

    chosen = named_recipes(recipes)
    if calibration and not any(recipe.takes_inputs for recipe in chosen.values()):
        raise UserError("no recipe has a method that uses calibration data", hint="leave it out")
    output.remark(f"importing {model}")
    with open_model(model) as imported, tempfile.TemporaryDirectory(prefix="lowc-") as folder:
        calls, about = read_inputs(imported, inputs)
        study = Study(imported, target, Path(folder), threads or None, calls, calibration)
        study.rank, study.next_token = rank, next_token
        expected = study.pytorch(model) if against == "torch" else study.outputs(_exact()).outputs
        exact = study.bits_per_token(expected)
        results = [study.result(recipe, name, expected) for name, recipe in chosen.items()]
    if plot is not None:
        draw(plot, lambda figure: fill(figure, results, against), size(results))
        output.remark(f"drawn into {plot}")
    if as_json:
        recorded = [_finite(asdict(result)) for result in results]
        output.result_json(
            new_record(
                model=model.name, target=target, against=against, inputs=about,
                bits_per_token=exact, recipes=recorded,
            )
        )  # fmt: skip
        return
    _print(results, model.name, about["text"], against, top)
    if exact is not None:
        output.result(f"\nbits per token of {against}: {exact:.4f}")


@dataclass(frozen=True)
class Run:
    """The outputs per call, and the report of the module that made them."""

    outputs: list[list[Any]]
    report: dict[str, Any]


class Study:
    """One model, some calls, and what modules make of them."""

    rank = next_token = False
    with_layers = True

    def __init__(
        self, model: Model, target: str, folder: Path, threads: int | None,
        calls: list[list[Any]], calibration: str | None = None,
    ) -> None:  # fmt: skip
        self.model, self.target, self.folder, self.calls = model, target, folder, calls
        self.calibration = calibration
        self.threads = threads if target.partition(":")[0] == "cpu" else None

    def pytorch(self, path: Path) -> list[list[Any]]:
        """Return the outputs of PyTorch, per call."""
        from ...compiler.reference import load_reference

        output.remark("running PyTorch")
        program = load_reference(path)
        return [
            [_from_torch(value) for value in program(*map(_to_torch, inputs))]
            for inputs in self.calls
        ]

    def outputs(self, recipe: Recipe) -> Run:
        """Return the outputs under `recipe`, per call, and the report of its module."""
        from ...compiler.accuracy import call
        from ...compiler.api import compile as compile_model
        from ...runtime.module import load

        output.remark(f"{recipe.name}: compiling")
        place = self.folder / "model.vmfb"
        given = self.calibration if recipe.takes_inputs else None
        artifact = compile_model(
            self.model.copy(), recipe, self.target, calibration=given, output=place
        )
        output.remark(f"{recipe.name}: running {len(self.calls)} calls")
        module = load(artifact, threads=self.threads, verify=False)
        return Run([call(module, inputs) for inputs in self.calls], artifact.report)

    def bits_per_token(self, outputs: list[list[Any]]) -> float | None:
        """Return what the next token costs by `outputs`; None if nobody asked."""
        from ...compiler.next_token import NextToken

        if not self.next_token:
            return None
        found = NextToken()
        for inputs, values in zip(self.calls, outputs, strict=True):
            found.add(inputs, values)
        return found.mean

    def layers(self, recipe: Recipe) -> list[LayerError]:
        """Return the damage that `recipe` does to each layer, worst first."""
        from ...compiler.accuracy import layer_errors, shadow
        from ...runtime.module import load

        if not self.with_layers or all(rule.form.form == "exact" for rule in recipe.rules):
            return []
        output.remark(f"{recipe.name}: compiling with each layer measured")
        place = self.folder / "shadow.vmfb"
        given = self.calibration if recipe.takes_inputs else None
        artifact = shadow(self.model.copy(), recipe, self.target, place, calibration=given)
        output.remark(f"{recipe.name}: measuring layers")
        return layer_errors(load(artifact, threads=self.threads, verify=False), self.calls)

    def result(self, recipe: Recipe, name: str, expected: list[list[Any]]) -> Result:
        """Return what `recipe` does to outputs and layers."""
        from ...compiler.accuracy import Comparison

        comparison = Comparison(rank=self.rank)
        run = self.outputs(recipe)
        for found, wanted in zip(run.outputs, expected, strict=True):
            comparison.add(found, wanted)
        return Result(
            name, comparison.errors(), self.layers(recipe), _bits_per_weight(run.report),
            _picojoules(run.report), self.bits_per_token(run.outputs),
        )  # fmt: skip


def _bits_per_weight(report: dict[str, Any]) -> float | None:
    """Return the mean over the weights of all matmuls that are not exact."""
    total = weights = 0.0
    for row in report["matmuls"]:
        # … x M x N x K: rows of activations may be several sizes, a weight has the last two.
        n, k = row["shape"].split("x")[-2:]
        if row["form"] == "exact" or row["bits_per_weight"] is None or "?" in (n, k):
            continue
        size = int(n) * int(k)
        total, weights = total + size * row["bits_per_weight"], weights + size
    return total / weights if weights else None


def _picojoules(report: dict[str, Any]) -> float | None:
    found = report.get("energy", {}).get("picojoules")
    return None if found is None else float(found["arithmetic"] + found["guards"])


def _exact() -> Recipe:
    from ...compiler.recipe import load_recipe

    return load_recipe("f32")


def named_recipes(texts: Sequence[str]) -> dict[str, Recipe]:
    """Return the recipes under their names; two files of one name go by their paths."""
    from ...compiler.recipe import load_recipe

    found: dict[str, Recipe] = {}
    for text in dict.fromkeys(texts):
        recipe = load_recipe(text)
        found[text if recipe.name in found else recipe.name] = recipe
    return found


def read_inputs(model: Model, file: Path | None) -> tuple[list[list[Any]], dict[str, Any]]:
    """Return the inputs of all calls, and what there is to say of them."""
    from ...compiler.calibration import read_calibration

    if file is not None:
        calls = read_calibration(file, model.interface)
        text = f"{len(calls)} calls from {file.name}"
        return calls, {"calls": len(calls), "random": False, "file": file.name, "text": text}
    try:
        sizes = symbol_sizes(model.interface, {})
        calls = [make_inputs(model.interface, sizes, seed) for seed in range(RANDOM_CALLS)]
    except UserError as error:
        raise UserError(error.what, hint="give inputs with --inputs FILE.npz") from error
    if not calls[0]:
        calls = calls[:1]
    text = f"{len(calls)} calls of random inputs"
    output.remark(f"{text}: errors on real inputs (--inputs FILE.npz) may be others")
    return calls, {"calls": len(calls), "random": True, "file": None, "text": text}


def _to_torch(value: Any) -> Any:
    import torch

    if value.dtype != "bfloat16":
        return torch.as_tensor(value)
    return torch.as_tensor(value.view("int16")).view(torch.bfloat16)


def _from_torch(value: Any) -> Any:
    if not hasattr(value, "detach"):
        return value
    return value.detach().float().numpy() if value.is_floating_point() else value.numpy()


def _finite(value: Any) -> Any:
    """Return `value` with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print(results: list[Result], model: str, inputs: str, against: str, top: int) -> None:
    output.result(f"{model}, {inputs}, errors against {against}")
    headers = ["mean cosine", "min cosine", "rank correlation", "relative L2", "max |error|"]
    headers += ["bits / weight", "energy"]
    headers += ["bits / token"] if any(result.bits_per_token for result in results) else []
    output.table(
        ["recipe", *headers],
        [[result.recipe, *_output_cells(result.outputs), *_costs(result)] for result in results],
        right=headers,
    )
    for result in results:
        output.result("")
        if not result.layers:
            output.result(f"{result.recipe}: no layer has another form than exact")
            continue
        shown = result.layers[:top]
        what = f"{len(shown)} of {len(result.layers)} layers" if top else "layers"
        output.result(f"{result.recipe}: {what}, each alone on exact inputs, worst first")
        numbers = ["relative rms error", "slope", "without slope"]
        output.table(
            ["layer", "batch x M x N x K", "form", *numbers],
            [
                [
                    layer.name, layer.shape, layer.form, f"{layer.relative_rms:.3e}",
                    f"{layer.slope:.5f}", f"{layer.scatter:.3e}",
                ]
                for layer in shown
            ],
            right=numbers,
        )  # fmt: skip


def _output_cells(errors: OutputErrors | None) -> list[str]:
    if errors is None:
        return ["-"] * 5
    rank = errors.rank_correlation
    return [
        f"{errors.mean_cosine:.6f}", f"{errors.min_cosine:.6f}",
        "-" if rank is None else f"{rank:.5f}", f"{errors.relative_l2:.2e}",
        f"{errors.max_abs:.2e}",
    ]  # fmt: skip


def _costs(result: Result) -> list[str]:
    from ...compiler.energy import joules_text

    bits, joules, token = result.bits_per_weight, result.picojoules, result.bits_per_token
    cells = ["-" if bits is None else f"{bits:.2f}"]
    cells.append("-" if joules is None else joules_text(joules))
    return cells if token is None else [*cells, f"{token:.4f}"]
