"""The passes that lowc has: kebab-case name → ``module:Class``, loaded when asked for."""

from __future__ import annotations

import importlib
import re

from ..errors import UserError, nearest
from .base import PREFIX, Pass

PASSES = {
    "lowc-name-matmuls": "name_matmuls:NameMatmuls",
    "lowc-assign-forms": "assign_forms:AssignForms",
    "lowc-shadow-matmuls": "shadow_matmuls:ShadowMatmuls",
    "lowc-collect-moments": "collect_moments:CollectMoments",
    "lowc-quantize-caches": "quantize_caches:QuantizeCaches",
    "lowc-quantize-weights": "quantize_weights:QuantizeWeights",
    "lowc-quantize-embeddings": "quantize_embeddings:QuantizeEmbeddings",
    "lowc-quantize-activations": "quantize_activations:QuantizeActivations",
    "lowc-fuse-dequant": "fuse_dequant:FuseDequant",
    "lowc-count-operations": "count_operations:CountOperations",
    "lowc-lower-bipolar": "lower_bipolar:LowerBipolar",
    "lowc-lower-lmul": "lower_lmul:LowerLmul",
    "lowc-lower-pam": "lower_pam:LowerPam",
    "lowc-lower-shift-add": "lower_shift_add:LowerShiftAdd",
    "lowc-lower-lut": "lower_lut:LowerLut",
    "lowc-verify-no-multiplication": "verify_no_multiplication:VerifyNoMultiplication",
    "lowc-select-tiles": "select_tiles:SelectTiles",
    "lowc-lift-elementwise": "lift_elementwise:LiftElementwise",
    "lowc-outline-attention": "outline_attention:OutlineAttention",
    "lowc-outline-kernels": "outline_kernels:OutlineKernels",
    "lowc-outline-softmax": "outline_softmax:OutlineSoftmax",
    "lowc-fuse-rotations": "fuse_rotations:FuseRotations",
    "lowc-clamp-indices": "clamp_indices:ClampIndices",
    "lowc-share-embeddings": "share_embeddings:ShareEmbeddings",
    "lowc-stabilize-sorts": "stabilize_sorts:StabilizeSorts",
    "lowc-separate-sorts": "separate_sorts:SeparateSorts",
    "lowc-share-gathers": "share_gathers:ShareGathers",
    "lowc-reduce-angles": "reduce_angles:ReduceAngles",
    "lowc-reorder-joins": "reorder_joins:ReorderJoins",
    "lowc-separate-scatters": "separate_scatters:SeparateScatters",
    "lowc-strip-annotations": "strip_annotations:StripAnnotations",
}

_ELEMENT = re.compile(r"([\w-]+)\s*(?:\{(.*)\})?\s*", re.DOTALL)


def pass_class(name: str) -> type[Pass]:
    """Return the class of the pass called `name`.

    Raises
    ------
    UserError
        When there is none; names the nearest.
    """
    if name not in PASSES:
        raise UserError(f"there is no pass '{name}'", hint=nearest(name, PASSES))
    module, _, class_name = PASSES[name].partition(":")
    found: type[Pass] = getattr(importlib.import_module(f".{module}", __package__), class_name)
    return found


def parse_pass(text: str) -> Pass:
    """Build a pass of ours from its text form, ``lowc-name{key=value}``."""
    match = _ELEMENT.fullmatch(text.strip())
    if match is None:
        raise UserError(f"'{text}' is not a pass", hint="a pass looks like lowc-name{key=value}")
    return pass_class(match[1]).parse_options(match[2] or "")


def is_ours(element: str) -> bool:
    """Whether a pipeline element names a pass of lowc's, known or not."""
    return element.strip().startswith(PREFIX)
