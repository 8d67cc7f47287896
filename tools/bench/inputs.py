"""Inputs for a model that only its interface is known of."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import UserError, nearest
from ...runtime.manifest import Leaf, Manifest
from ...runtime.shapes import evaluate, is_plain

DEFAULT_SIZE = 8


def symbol_sizes(manifest: Manifest, given: dict[str, int]) -> dict[str, int]:
    """Return a size for every dynamic dimension: as given, else 8 within its range.

    Raises
    ------
    UserError
        For a symbol that the model does not have, or a size out of its range.
    """
    dims = [dim for leaf in manifest.inputs for dim in leaf.shape]
    symbols = {dim for dim in dims if isinstance(dim, str) and is_plain(dim)}
    for name, size in given.items():
        if name not in symbols:
            hint = nearest(name, symbols) if symbols else "its inputs have fixed shapes"
            raise UserError(f"the model has no dynamic dimension '{name}'", hint=hint)
        low, high = manifest.ranges.get(name, (None, None))
        if size < (low or 0) or (high is not None and size > high):
            raise UserError(f"{name} = {size} is not in the exported range [{low}, {high}]")
    sizes = {}
    for name in symbols:
        low, high = manifest.ranges.get(name, (None, None))
        sizes[name] = given.get(name, max(low or 0, min(DEFAULT_SIZE, high or DEFAULT_SIZE)))
    return sizes


def make_inputs(manifest: Manifest, sizes: dict[str, int], seed: int = 0) -> list[Any]:
    """Return one array per tensor of the interface, in order.

    Floats are normal, integers 0 or 1 (an index into a table of unknown size), masks are all ones.
    """
    generator = np.random.default_rng(seed)
    return [_array(leaf, sizes, generator) for leaf in manifest.inputs if not leaf.literal]


def _array(leaf: Leaf, sizes: dict[str, int], generator: np.random.Generator) -> Any:
    shape = [_size(dim, sizes) for dim in leaf.shape]
    if "mask" in leaf.name:
        return np.ones(shape, leaf.dtype)
    if leaf.dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    if "int" in leaf.dtype:
        return generator.integers(0, 2, shape).astype(leaf.dtype)
    values = generator.standard_normal(shape, np.float32)
    if leaf.dtype in ("float16", "float32", "float64"):
        return values.astype(leaf.dtype)
    import ml_dtypes

    return values.astype(getattr(ml_dtypes, leaf.dtype))


def _size(dim: int | str, sizes: dict[str, int]) -> int:
    size = dim if isinstance(dim, int) else evaluate(dim, sizes)
    if size is None:
        raise UserError(f"cannot choose a size for the dimension '{dim}'")
    return size
