"""Read stacked inputs, ``.npz`` or ``.safetensors``: one array per input of the model, by its name.

The leading dimension of each array counts samples.  An array with as many dimensions as the input
is cut along it into the model's own batches (1 where the batch is dynamic); one with one dimension
more holds whole inputs, one after another.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, nearest
from ..runtime.convert import to_array
from ..runtime.manifest import Leaf, Manifest
from ..runtime.shapes import ShapeChecker

Array = np.ndarray[Any, Any]
SUFFIXES = (".npz", ".safetensors")


def read_calibration(path: str | os.PathLike[str], manifest: Manifest) -> list[list[Array]]:
    """Return the inputs of each call, in the order of the model's tensors.

    Raises
    ------
    UserError
        The file is missing, damaged or holds a pickle; an input is missing or unknown; a data type
        or a size does not fit; the samples are no whole number of batches, or differ in number.
    """
    file = Path(path)
    arrays = _read(file)
    leaves = [leaf for leaf in manifest.inputs if not leaf.literal]
    names = [leaf.name for leaf in leaves]
    for name in arrays:
        if name not in names:
            hint = nearest(name, names) if names else "it has no inputs"
            raise UserError(f"the model has no input '{name}'", where=str(file), hint=hint)
    for leaf in leaves:
        if leaf.name not in arrays:
            raise UserError(
                f"no array is called '{leaf.name}', which the model needs", where=str(file),
                hint="it takes " + ", ".join(str(leaf) for leaf in leaves),
            )  # fmt: skip
    if not leaves:
        raise UserError("the model has no inputs, so it needs no file of them", where=str(file))
    columns = [_cut(arrays[leaf.name], leaf, manifest, file) for leaf in leaves]
    counts = {leaf.name: len(column) for leaf, column in zip(leaves, columns, strict=True)}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"'{name}' {count}" for name, count in counts.items())
        raise UserError(f"the inputs differ in their number of calls: {told}", where=str(file))
    if not columns[0]:
        raise UserError("the arrays hold no sample", where=str(file))
    calls = [list(call) for call in zip(*columns, strict=True)]
    # All calls have the shapes of the first, up to what _cut saw to.
    _check_shapes(calls[0], leaves, manifest, file)
    return calls


def _read(file: Path) -> dict[str, Array]:
    if file.suffix not in SUFFIXES:
        raise UserError(
            f"inputs are read from {' and '.join(SUFFIXES)} files", where=str(file),
            hint="numpy.savez(file, name=stacked_array, …)",
        )  # fmt: skip
    if not file.exists():
        raise UserError("the file does not exist", where=str(file))
    if not file.is_file():
        raise UserError("this is not a file", where=str(file))
    try:
        return _read_npz(file) if file.suffix == ".npz" else _read_safetensors(file)
    except OSError as error:
        raise UserError(
            f"the file cannot be read ({error.strerror or error})", where=str(file)
        ) from error


def _read_npz(file: Path) -> dict[str, Array]:
    try:
        archive = np.load(file, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("it holds one array without a name")
        with archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"this is no .npz file of plain numbers ({said})", where=str(file),
            hint="write one with numpy.savez(file, name=stacked_array, …)",
        ) from error  # fmt: skip


def _read_safetensors(file: Path) -> dict[str, Array]:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ModuleNotFoundError as error:
        raise UserError(
            "reading .safetensors files needs safetensors, which is not installed",
            where=str(file), hint="pip install 'lowc[report]', or write a .npz file",
        ) from error  # fmt: skip
    try:
        return dict(load_file(file))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"this is no .safetensors file ({said})", where=str(file)) from error


def _cut(array: Array, leaf: Leaf, manifest: Manifest, file: Path) -> list[Array]:
    """Return the array of each call."""
    where = f"{file}, input '{leaf.name}'"
    values = to_array(array, leaf.dtype, where)
    if values.ndim == len(leaf.shape) + 1:
        return list(values)
    if values.ndim != len(leaf.shape) or not values.ndim:
        wanted = " or ".join(sorted({str(max(len(leaf.shape), 1)), str(len(leaf.shape) + 1)}))
        raise UserError(
            f"the array has {values.ndim} dimensions, stacked inputs have {wanted}",
            where=where, hint=f"the model takes {leaf}",
        )  # fmt: skip
    batch = _batch(leaf, manifest)
    if len(values) % batch:
        raise UserError(
            f"{len(values)} samples are no whole number of batches of {batch}",
            where=where, hint=f"the model takes {leaf}",
        )  # fmt: skip
    return [values[start : start + batch] for start in range(0, len(values), batch)]


def _batch(leaf: Leaf, manifest: Manifest) -> int:
    size = leaf.shape[0]
    if isinstance(size, int):
        return max(size, 1)
    return max(manifest.ranges.get(size, (None, None))[0] or 1, 1)


def _check_shapes(call: list[Array], leaves: list[Leaf], manifest: Manifest, file: Path) -> None:
    try:
        ShapeChecker(manifest.ranges).check(
            (leaf, array.shape) for leaf, array in zip(leaves, call, strict=True)
        )
    except UserError as error:
        raise UserError(
            error.what, where=f"{file}, {error.where}",
            hint="the leading dimension of each array counts samples",
        ) from error  # fmt: skip
