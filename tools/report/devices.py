"""``lowc report devices``: whether a device gives what the CPU gives, recipe by recipe."""

from __future__ import annotations

import hashlib
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import click

from ...errors import InternalError, UserError
from .. import output
from ..quality_origin import commit_here, recipe_digest
from .accuracy import named_recipes, read_inputs
from .kept_rows import Kept

if TYPE_CHECKING:
    from ...compiler.frontend import Model
    from ...compiler.recipe import Recipe

# Of the largest result.  Sums of f32 come in another order on each device; where activations are
# then rounded, one that lies between two codes may get the other one, which is 1/127 away.
BOUND, ROUNDED_BOUND = 1e-5, 0.05
# Mantissas of 3 bits are 1/16 apart: a CPU alone is as far from itself where weights differ by a
# millionth (benchmarks/README.md).
COARSE_BITS, COARSE_BOUND = 3, 0.1
ROUNDING = ("bipolar", "signed-digits")  # forms
# What JSON makes of a row's types.
_NUMBER = (int, float)
_KINDS = {"bool": (bool,), "float": _NUMBER, "float | None": (*_NUMBER, NoneType), "int": (int,)}


@dataclass(frozen=True)
class Agreement:
    """How far a device is from the CPU under one recipe.

    Attributes
    ----------
    difference : float or None
        The largest difference between both over the largest magnitude on the CPU, of all outputs;
        None where one of them has an infinity or a NaN that the other one has not.
    recipe_error : float or None
        The same between the recipe and ``f32``, both on the CPU: what the recipe itself costs.
    cosine : float or None
        The least cosine between outputs of a call on the device and on the CPU; None as above.
    rounds : bool
        Whether the recipe rounds activations while the model runs.
    bound : float
        What `difference` may be.
    kernels : int
        How many products have a kernel of lowc's own on the device, of `products`.
    compile_s, calls_s : float
        How long compiling for the device and all calls there took, once, whatever else ran.
    """

    difference: float | None
    recipe_error: float | None
    cosine: float | None
    rounds: bool
    bound: float
    kernels: int
    products: int
    compile_s: float
    calls_s: float

    @property
    def holds(self) -> bool:
        """Whether the device gives what the CPU gives."""
        return self.difference is not None and self.difference <= self.bound


@click.command("devices")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--recipe", "recipes", multiple=True, help="A name or a .toml file; by default all built-in."
)
@click.option(
    "--inputs", type=click.Path(path_type=Path), metavar="FILE",
    help="Stacked inputs, .npz or .safetensors: one array per input, by name.",
)  # fmt: skip
@click.option("--device", default="vulkan", show_default=True, help="What is compared to the CPU.")
@click.option("--target", help="The target to compile for; by default that of the device.")
@click.option("--calls", type=click.IntRange(min=1), default=2, show_default=True, help="Calls.")
@click.option("--calibration", metavar="FILE", help="Other inputs, for recipes that need them.")
@click.option(
    "--keep", type=click.Path(path_type=Path, file_okay=False),
    help="Keep a record here, recipe by recipe as they are done.",
)  # fmt: skip
@click.option(
    "--resume", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Go on with a record of --keep: recipes that are in it are not run again.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def devices_command(
    model: Path, recipes: tuple[str, ...], inputs: Path | None, device: str, target: str | None,
    calls: int, calibration: str | None, keep: Path | None, resume: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Compile MODEL under each recipe for the CPU and for a device, and compare the outputs.

    Exits with 1 where a difference is larger than the bound: 1e-5 of the largest output, and 0.05
    under recipes that round activations while the model runs, 0.1 to mantissas of 3 bits.
    """
    from ...compiler.device_targets import chosen
    from ...compiler.frontend import open_model
    from ...compiler.recipe import built_in_names

    if keep is not None and resume is not None:
        raise UserError("--keep begins a record, --resume goes on with one", hint="leave one out")
    target = chosen(target, device)
    wanted = named_recipes(recipes or sorted(built_in_names()))
    output.remark(f"importing {model}")
    with open_model(model) as imported, tempfile.TemporaryDirectory(prefix="lowc-") as folder:
        given, about = read_inputs(imported, inputs)
        study = Study(imported, Path(folder), given[:calls], calibration)
        what = {
            "model": model.name, "target": target, "device": device, "calls": len(study.calls),
            "inputs": about["file"], "shapes": [list(array.shape) for array in study.calls[0]],
            "sha256": _digests(model=model, inputs=inputs, calibration=calibration),
            "commit": commit_here(),
        }  # fmt: skip
        stem = f"devices-{model.stem}-{target.replace(':', '-')}"
        kept = Kept.resume(resume, what, row_kinds()) if resume else Kept(what, keep, stem)
        digests = {name: recipe_digest(recipe) for name, recipe in wanted.items()}
        done = [name for name, digest in digests.items() if kept.has(name, digest)]
        for name, recipe in wanted.items():
            if name in done:
                output.remark(f"{name}: is in {resume}")
                continue
            row = study.compare(recipe, name, target, device)
            kept.add(name, digests[name], {**asdict(row), "holds": row.holds})
    if kept.path is not None:
        output.remark(f"kept in {kept.path}")
    if as_json:
        output.result_json(kept.record)
    else:
        _print(kept.rows, f"{model.name}, {len(study.calls)} calls, {target} beside cpu")
    if apart := [row["recipe"] for row in kept.rows if not row["holds"]]:
        raise InternalError(f"{device} gives other results than the CPU: {', '.join(apart)}")


def row_kinds() -> dict[str, tuple[type, ...]]:
    """Return the types that a row has in a record, by key."""
    return {field.name: _KINDS[str(field.type)] for field in fields(Agreement)} | {"holds": (bool,)}


def _digests(**files: str | Path | None) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name, path in files.items():
        found[name] = None
        if path is not None:
            try:
                with Path(path).open("rb") as file:
                    found[name] = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from error
    return found


class Study:
    """One model, some calls, and what they give under recipes on devices."""

    def __init__(
        self, model: Model, folder: Path, calls: list[list[Any]], calibration: str | None
    ) -> None:
        self.model, self.folder, self.calls, self.calibration = model, folder, calls, calibration
        self._exact: list[list[Any]] | None = None

    def compare(self, recipe: Recipe, name: str, target: str, device: str) -> Agreement:
        """Return how far `device` is from the CPU under `recipe`."""
        from ...compiler.recipe import load_recipe

        if self._exact is None:
            self._exact = self._run(load_recipe("f32"), "cpu", "cpu").outputs
        wanted = self._run(recipe, "cpu", "cpu").outputs
        ran = self._run(recipe, target, device)
        found = ran.outputs
        forms = [rule.form for rule in recipe.rules]
        lowered = [row["lowering"] for row in ran.report["matmuls"]]
        row = Agreement(
            _difference(found, wanted), _difference(wanted, self._exact),
            _least_cosine(found, wanted), any(map(rounds_activations, forms)), bound_for(forms),
            sum("kernel for" in text for text in lowered), len(lowered), ran.compile_s, ran.calls_s,
        )  # fmt: skip
        output.remark(f"{name}: {_text(row.difference, '.1e')} of the largest output apart")
        return row

    def _run(self, recipe: Recipe, target: str, device: str) -> Ran:
        from ...compiler.accuracy import call
        from ...compiler.api import compile as compile_model
        from ...runtime.module import load

        output.remark(f"{recipe.name}: compiling for {target}")
        given = self.calibration if recipe.takes_inputs else None
        begun = time.perf_counter()
        artifact = compile_model(
            self.model.copy(), recipe, target, calibration=given,
            output=self.folder / "model.vmfb",
        )  # fmt: skip
        compiled = time.perf_counter()
        output.remark(f"{recipe.name}: running {len(self.calls)} calls")
        module = load(artifact, device, verify=False)
        outputs = [call(module, inputs) for inputs in self.calls]
        seconds = round(compiled - begun, 1), round(time.perf_counter() - compiled, 1)
        return Ran(outputs, artifact.report, *seconds)


@dataclass(frozen=True)
class Ran:
    """The float outputs of all calls, the report of the module, and what both took."""

    outputs: list[list[Any]]
    report: dict[str, Any]
    compile_s: float
    calls_s: float


def bound_for(forms: Sequence[Any]) -> float:
    """Return how far a device may be from the CPU under a recipe of `forms`."""
    if any(0 < form.to_dict().get("mantissa_bits", 0) <= COARSE_BITS for form in forms):
        return COARSE_BOUND
    return ROUNDED_BOUND if any(map(rounds_activations, forms)) else BOUND


def rounds_activations(form: Any) -> bool:
    """Whether a form rounds activations while the model runs, or their mantissas."""
    facts = form.to_dict()
    has_tables = facts.get("tables", "none") != "none"
    is_rounded = facts.get("activations") == "i8" or facts.get("mantissa_bits", 0) > 0
    return is_rounded or has_tables or form.form in ROUNDING


def _difference(found: Sequence[Sequence[Any]], wanted: Sequence[Sequence[Any]]) -> float | None:
    """Return the largest difference over the largest magnitude, of all calls and outputs.

    Infinities and NaN must be the same ones in the same places, or it is None.
    """
    import numpy as np

    worst = 0.0
    for pair in _pairs(found, wanted):
        if pair is None:
            return None
        a, b = pair
        if b.size:
            worst = max(worst, float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)))
    return worst if math.isfinite(worst) else None


def _least_cosine(found: Sequence[Sequence[Any]], wanted: Sequence[Sequence[Any]]) -> float | None:
    import numpy as np

    least = 1.0
    for pair in _pairs(found, wanted):
        if pair is None:
            return None
        x, y = pair
        length = np.linalg.norm(x) * np.linalg.norm(y)
        least = min(least, float(x @ y / length)) if length else least
    return least


def _pairs(
    found: Sequence[Sequence[Any]], wanted: Sequence[Sequence[Any]]
) -> Iterator[tuple[Any, Any] | None]:
    """Yield both sides' finite values, f64, of all calls and outputs; None where others differ."""
    import numpy as np

    for own, other in ((f, w) for fs, ws in zip(found, wanted, strict=True)
                       for f, w in zip(fs, ws, strict=True)):  # fmt: skip
        a, b = (np.ravel(value).astype(np.float64) for value in (own, other))
        finite = np.isfinite(b)
        is_same = np.array_equal(a[~finite], b[~finite], equal_nan=True)
        yield (a[finite], b[finite]) if is_same and np.isfinite(a[finite]).all() else None


def _text(value: float | None, form: str) -> str:
    return "not finite" if value is None else format(value, form)


def _times(difference: float | None, error: float | None) -> str:
    return "-" if difference is None or not error else f"{difference / error:.1e}"


def _print(found: Sequence[dict[str, Any]], head: str) -> None:
    output.result(head)
    headers = ["difference", "bound", "times the recipe's error", "least cosine", "kernels"]
    output.table(
        ["recipe", *headers, ""],
        [
            [
                row["recipe"], _text(row["difference"], ".1e"), f"{row['bound']:.0e}",
                _times(row["difference"], row["recipe_error"]),
                _text(row["cosine"], ".7f"), f"{row['kernels']} of {row['products']}",
                "" if row["holds"] else "TOO FAR",
            ]
            for row in found
        ],
        right=headers,
    )  # fmt: skip
