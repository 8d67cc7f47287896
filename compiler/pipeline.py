"""The one ordered list of passes that a model goes through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..passes.assign_forms import AssignForms
from ..passes.base import Pass
from ..passes.clamp_indices import ClampIndices
from ..passes.count_operations import CountOperations
from ..passes.forms import rules_to_text
from ..passes.fuse_dequant import FuseDequant
from ..passes.fuse_rotations import FuseRotations
from ..passes.kernels.tiles import ISAS
from ..passes.lift_elementwise import LiftElementwise
from ..passes.lower_bipolar import LowerBipolar
from ..passes.lower_lmul import LowerLmul
from ..passes.lower_lut import LowerLut
from ..passes.lower_pam import LowerPam
from ..passes.lower_shift_add import LowerShiftAdd
from ..passes.name_matmuls import NameMatmuls
from ..passes.outline_attention import OutlineAttention
from ..passes.outline_kernels import OutlineKernels
from ..passes.outline_softmax import OutlineSoftmax
from ..passes.quantize_activations import QuantizeActivations
from ..passes.quantize_caches import QuantizeCaches
from ..passes.quantize_embeddings import QuantizeEmbeddings
from ..passes.quantize_weights import QuantizeWeights
from ..passes.reduce_angles import ReduceAngles
from ..passes.reorder_joins import ReorderJoins
from ..passes.select_tiles import SelectTiles
from ..passes.separate_scatters import SeparateScatters
from ..passes.separate_sorts import SeparateSorts
from ..passes.share_embeddings import ShareEmbeddings
from ..passes.share_gathers import ShareGathers
from ..passes.stabilize_sorts import StabilizeSorts
from ..passes.verify_no_multiplication import VerifyNoMultiplication
from .backend import vector_unit
from .recipe import Recipe
from .target import Target


def passes_for(
    recipe: Recipe,
    target: Target,
    measures: Sequence[Pass | str] = (),
    *,
    kernels: bool = True,
    tiles: SelectTiles | None = None,
) -> list[Pass | str]:
    """Return the elements to run, in order, for `recipe` on `target`.

    `measures` run when forms are assigned and nothing is rewritten yet.  Without `kernels` every
    product is left to stock code generation.  Without `tiles` every product has its default tile.
    """
    # Vulkan's code generator has no 4-bit elements, and looks up wrong bytes.
    unit = vector_unit(target) if kernels else "none"
    told = vector_unit(target) if kernels or tiles is not None else "none"
    packing: Literal["bits", "words"] = "words" if target.backend == "vulkan" else "bits"
    # CUDA's has them, but none that is looked up.
    tables: Literal["bits", "words"] = "words" if target.backend == "cuda" else packing
    return [
        # Names come from locations, which native passes may drop: first of all.
        NameMatmuls(),
        StabilizeSorts(),
        # Before anything makes equal values one.
        SeparateSorts(),
        AssignForms(rules=rules_to_text(recipe.rules)),
        # By the names of the products that read them.
        QuantizeCaches(keys=recipe.cache.keys, values=recipe.cache.values),
        *measures,
        # Weights change before shapes do: the layout of a weight is still readable.
        QuantizeWeights(packing=packing),
        QuantizeEmbeddings(packing=tables),
        QuantizeActivations(),
        LowerLmul(),
        LowerPam(),
        LowerShiftAdd(),
        LowerLut(packing=packing),
        LowerBipolar(),
        # Products of the same activation prepare it once, and are to be counted so.
        "cse",
        VerifyNoMultiplication(),
        # Operations are counted where they still stand as linalg: a kernel hides them.
        CountOperations(),
        # Before its products get tiles, and its softmax and they kernels of their own.
        OutlineAttention(unit=unit),
        # Products are what kernels will be made of, and kernels read the tile.
        *([] if tiles is None else [tiles]),
        *([LiftElementwise()] if unit in ISAS else []),
        OutlineKernels(unit=told, kernels=kernels, dot4=unit == "spirv" and _has_dot4(target)),
        # Kernels have decided the panels that tables can be looked up in.
        ShareEmbeddings(),
        # What is executed in the place of what was verified above.
        VerifyNoMultiplication(),
        OutlineSoftmax(unit=unit),
        # Behind what finds heads by what is done to them.
        FuseRotations(unit=unit),
        # Only what no kernel took.
        FuseDequant(),
        ClampIndices(),
        ShareGathers(),
        # The float weights have no reader now; their loads go, then their globals, so that they
        # are not written into the parameter archive.
        "canonicalize",
        "cse",
        "symbol-dce",
        # Their cost is no part of what the model calculates.
        ReduceAngles(),
        # No pass of ours finds a scatter by what it writes into behind this.
        SeparateScatters(),
        # As IREE will see them.
        ReorderJoins(),
    ]


def _has_dot4(target: Target) -> bool:
    """Whether a GPU multiplies four bytes in one instruction, and may read them from buffers."""
    return target.gpu is not None and target.gpu.dot4 and 8 in target.gpu.storage
