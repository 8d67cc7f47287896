"""The one ordered list of passes that a model goes through."""

from __future__ import annotations

from ..passes.assign_forms import AssignForms
from ..passes.base import Pass
from ..passes.clamp_indices import ClampIndices
from ..passes.count_operations import CountOperations
from ..passes.forms import rules_to_text
from ..passes.fuse_dequant import FuseDequant
from ..passes.name_matmuls import NameMatmuls
from ..passes.quantize_weights import QuantizeWeights
from .recipe import Recipe
from .target import Target


def passes_for(recipe: Recipe, target: Target) -> list[Pass | str]:
    """Return the elements to run, in order, for `recipe` on `target`."""
    return [
        # Names come from locations, which native passes may drop: first of all.
        NameMatmuls(),
        AssignForms(rules=rules_to_text(recipe.rules)),
        # Weights change before shapes do: the layout of a weight is still readable.
        QuantizeWeights(packing="words" if target.backend == "vulkan" else "bits"),
        FuseDequant(),
        CountOperations(),
        ClampIndices(),
        # The float weights have no reader now; their loads go, then their globals, so that they
        # are not written into the parameter archive.
        "canonicalize",
        "cse",
        "symbol-dce",
    ]
