"""``lowc run``: call a compiled model on inputs from files or text."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ..errors import UserError
from ..runtime import tree as trees
from . import output
from .inputs import bind, read_input

if TYPE_CHECKING:
    from ..runtime.module import Module

MAX_JSON_VALUES = 10_000  # a larger output is summarised; --output writes all of it


@click.command("run")
@click.argument("module")
@click.option(
    "--input", "inputs", multiple=True, metavar="[NAME=]VALUE",
    help="FILE.npy, 2x3xf32=1.5 (all the same) or 2x3xf32=1 2 3 4 5 6; once per input, in order.",
)  # fmt: skip
@click.option(
    "--output", "outputs", multiple=True, metavar="FILE.npy",
    help="Write an output there; once per output, in order.",
)  # fmt: skip
@click.option("--entry", metavar="NAME", help="Which entry to call, of a module with several.")
@click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cpu-sync, vulkan or cuda."
)
@click.option("--json", "as_json", is_flag=True, help="Print the outputs as JSON.")
def run_command(
    module: str,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    entry: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Run the compiled model MODULE (.vmfb) once and print or write its outputs."""
    from ..runtime.module import load

    given = [read_input(text) for text in inputs]
    loaded = _entry(load(module, device=device), entry)
    manifest = loaded.manifest
    leaves = iter(bind(given, manifest.inputs))
    args = trees.unflatten(manifest.args_tree, leaves)
    kwargs = trees.unflatten(manifest.kwargs_tree, leaves)
    results = list(trees.flatten(manifest.out_tree, loaded(*args, **kwargs), "output"))
    named = [
        (leaf.name or f"output{index}", np.asarray(value))
        for index, (leaf, value) in enumerate(zip(manifest.outputs, results, strict=True))
        if not leaf.literal
    ]
    if len(outputs) > len(named):
        raise UserError(f"the model has {len(named)} outputs, {len(outputs)} files were given")
    for path, (_, array) in zip(outputs, named, strict=False):
        write_npy(Path(path), array)
    if as_json:
        output.result_json(
            {"outputs": [_as_data(name, array) for name, array in named]}, indent=None
        )
        return
    for index, (name, array) in enumerate(named):
        place = f" → {outputs[index]}" if index < len(outputs) else ""
        output.result(f"{_title(name, array)}{place}\n{_excerpt(array)}")


def _entry(loaded: Module, name: str | None) -> Module:
    """Return the entry to call.

    Raises
    ------
    UserError
        There are several and none is named, or none of that name.
    """
    from ..runtime.program import Program

    if isinstance(loaded, Program):
        if name is None and len(loaded) > 1:
            loaded.refuse()
        return loaded[next(iter(loaded)) if name is None else name]
    if name not in (None, loaded.manifest.entry_point):
        raise UserError(
            f"the module has no entry '{name}'", hint=f"its entry is {loaded.manifest.entry_point}"
        )
    return loaded


def write_npy(path: Path, array: np.ndarray[Any, Any]) -> None:
    """Write `array` to `path`, whole or not at all.

    Types that NumPy's format does not know (bfloat16, 8-bit floats) are written as float32, which
    holds each of their values.
    """
    plain = array if array.dtype.isbuiltin == 1 else array.astype(np.float32)
    output.write_atomically(
        path, lambda file: np.lib.format.write_array(file, plain, allow_pickle=False)
    )


def _title(name: str, array: np.ndarray[Any, Any]) -> str:
    shape = "x".join(str(size) for size in array.shape)
    return f"{name}: {shape}{'x' if shape else ''}{array.dtype}"


def _excerpt(array: np.ndarray[Any, Any]) -> str:
    shown = array if array.dtype.isbuiltin == 1 else array.astype(np.float32)
    return np.array2string(shown, threshold=64, edgeitems=3, max_line_width=100)


def _as_data(name: str, array: np.ndarray[Any, Any]) -> dict[str, Any]:
    data: dict[str, Any] = {"name": name, "shape": list(array.shape), "dtype": str(array.dtype)}
    if array.size <= MAX_JSON_VALUES:
        data["values"] = _json_values(array.tolist())
    if array.size and array.dtype.kind != "b":
        wide = array.astype(np.float64)
        summary = {"min": wide.min(), "max": wide.max(), "mean": wide.mean()}
        data |= {key: _json_values(float(value)) for key, value in summary.items()}
    return data


def _json_values(value: Any) -> Any:
    """Return nested lists with words for what JSON has no number for (``nan``, ``inf``)."""
    if isinstance(value, list):
        return [_json_values(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
