"""Compile PyTorch models, and compare what they give with PyTorch itself.

For a recipe that rounds weights the reference is PyTorch with the rounded weights put into the
model, so that the arithmetic must agree to rounding errors, whatever rounding the weights costs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import iree.runtime as rt
import numpy as np
import torch
from lowc.compiler.recipe import Recipe, load_recipe
from lowc.passes.formats import weights
from lowc.passes.forms import Form
from torch import nn
from torch.utils import _pytree

TOLERANCE = 1e-4


def export(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    dynamic_shapes: Any = None,
    *,
    strict: bool = False,
) -> torch.export.ExportedProgram:
    """Export `model` for inference."""
    model.eval().requires_grad_(False)
    with torch.no_grad():
        return torch.export.export(
            model, args, kwargs or {}, dynamic_shapes=dynamic_shapes, strict=strict
        )


def as_arrays(value: Any) -> Any:
    """Replace the tensors in a nest of inputs by NumPy arrays, bfloat16 ones left as they are."""
    return _pytree.tree_map(lambda leaf: leaf.numpy() if _is_array(leaf) else leaf, value)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.dtype != torch.bfloat16


def flat(value: Any) -> list[Any]:
    """Return the leaves of nested outputs, of PyTorch's or of lowc's, as NumPy arrays or values."""
    if isinstance(value, torch.Tensor):
        wide = value.detach()
        return [(wide.float() if wide.dtype == torch.bfloat16 else wide).numpy()]
    if isinstance(value, Mapping):
        return [leaf for part in value.values() for leaf in flat(part)]
    if isinstance(value, (tuple, list)):
        return [leaf for part in value for leaf in flat(part)]
    if _pytree.tree_structure(value).is_leaf():
        return [value]
    return [leaf for part in _pytree.tree_leaves(value) for leaf in flat(part)]


def error(got: Any, wanted: Any) -> float:
    """Return the largest difference of any leaf, relative to that leaf's largest magnitude.

    Shapes, data types, and the values of leaves that are no tensors must agree.
    """
    ours, theirs = flat(got), flat(wanted)
    assert len(ours) == len(theirs), f"{len(ours)} outputs instead of {len(theirs)}"
    # NumPy's maximum, because Python's may pass over a NaN.
    return float(np.max([_leaf_error(a, b) for a, b in zip(ours, theirs, strict=True)], initial=0))


def _leaf_error(got: Any, wanted: Any) -> float:
    if not isinstance(wanted, np.ndarray):
        assert got == wanted, f"{got!r} instead of {wanted!r}"
        return 0.0
    assert isinstance(got, np.ndarray), f"{type(got).__name__} instead of an array"
    assert got.shape == wanted.shape, f"shape {got.shape} instead of {wanted.shape}"
    if got.dtype.name != "bfloat16":
        assert got.dtype == wanted.dtype, f"{got.dtype} instead of {wanted.dtype}"
    if wanted.dtype.kind in "biu":
        return 0.0 if (got == wanted).all() else np.inf
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(wanted)
    if not np.array_equal(got[~finite], wanted[~finite], equal_nan=True):
        return np.inf
    largest = np.abs(wanted[finite]).max(initial=0)
    difference = np.abs(got - wanted)[finite].max(initial=0)
    return float(difference / largest) if largest else float(difference > 0)


# -- rounded weights -------------------------------------------------------------------------------


def form_of(recipe: str | Recipe) -> Form:
    """Return the form that `recipe` gives to products with a weight."""
    return load_recipe(recipe).rules[-1].form


def rounded(weight: torch.Tensor, form: Form, axis: int = -1) -> torch.Tensor:
    """Return `weight` as `form` stores it; its groups run along `axis`."""
    rows = np.moveaxis(weight.detach().float().numpy(), axis, -1)
    values = weights.rounded(
        rows, form.weights, form.group, symmetric=form.symmetric, scales=form.scales
    )
    values = np.moveaxis(values, -1, axis)
    return torch.from_numpy(np.ascontiguousarray(values)).to(weight.dtype)


def linear_layers(model: nn.Module) -> dict[str, int]:
    """Return every layer that is a product with a weight → the axis of the weight that is K."""
    # Conv1D is GPT-2's linear layer, stored transposed.
    axes = {"Linear": 1, "Conv1D": 0}
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    return {name: axes[kind] for name, kind in kinds.items() if kind in axes}


def with_rounded_weights(model: nn.Module, form: Form) -> nn.Module:
    """Return a copy whose linear layers have rounded weights; a tied embedding keeps its own."""
    model = copy.deepcopy(model)
    for name, axis in linear_layers(model).items():
        layer = model.get_submodule(name)
        layer.weight = nn.Parameter(rounded(layer.weight, form, axis), requires_grad=False)
    return model


# -- what a compilation left -----------------------------------------------------------------------


def stored_parameters(artifact: Any) -> dict[str, int]:
    """Return the entries of the ``.irpa`` and their sizes in bytes."""
    if artifact.parameters_path is None:
        return {}
    index = rt.ParameterIndex()
    index.load(str(artifact.parameters_path))
    return {key: entry.length for key, entry in index.items()}


def matmul_rows(artifact: Any) -> dict[str, dict[str, Any]]:
    """Return the report's rows by name."""
    return {row["name"]: row for row in artifact.report["matmuls"]}


def run_and_compare(
    module: Callable[..., Any], reference: Callable[..., Any], *args: Any, **kwargs: Any
) -> float:
    """Call both with the same inputs; return :func:`error`."""
    with torch.no_grad():
        wanted = reference(*copy.deepcopy(args), **copy.deepcopy(kwargs))
    return error(module(*as_arrays(args), **as_arrays(kwargs)), wanted)
