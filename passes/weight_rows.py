"""The weight of a matmul as rows of K: what a pass needs that stores it in another form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir

from . import parameters
from .base import Refusal
from .build import element_of
from .contraction import Contraction, Weight, find_weight, match_contraction, simplify_layout


@dataclass(frozen=True)
class WeightRows:
    """A contraction, and its weight in ``[batch…, free…, K]`` order.

    Attributes
    ----------
    contraction : Contraction
        The product.
    weight : Weight
        Its operand that is a parameter.
    source : str
        Key of the model's parameter.
    layout : tuple of LayoutStep
        From the stored tensor to ``[batch…, free…, K]``.
    rows : tuple of int
        The sizes ahead of K.
    row_dims : tuple of int
        Their loops.
    k : int
        How many products are summed.
    """

    contraction: Contraction
    weight: Weight
    source: str
    layout: tuple[Any, ...]
    rows: tuple[int, ...]
    row_dims: tuple[int, ...]
    k: int

    @property
    def batches(self) -> int:
        """How many leading `rows` are batches, which the activation has too."""
        return sum(loop in self.contraction.batch for loop in self.row_dims)

    @property
    def batch(self) -> int:
        """The number of matrices ``[N, K]``."""
        return math.prod(self.rows[: self.batches])

    @property
    def n(self) -> int:
        """The rows of each matrix."""
        return math.prod(self.rows[self.batches :])


def too_wide(found: WeightRows) -> str:
    """Return the type that the product is calculated in if f32 is too short for it, or nothing."""
    values = (*found.contraction.operands, found.contraction.init)
    wide = (type_ for type_ in map(element_of, values) if type_.width > 32)
    return str(next(wide, ""))


def find_rows(module: ir.Module, op: Any) -> WeightRows | Refusal:
    """Describe the weight of the matmul `op`, or say why there is none.  Changes nothing."""
    found = match_contraction(op)
    if isinstance(found, Refusal):
        return found
    weight = find_weight(found)
    if isinstance(weight, Refusal):
        return weight
    holder = parameters.find_global(module, weight.symbol)
    source = parameters.parameter_key(holder) if holder is not None else None
    if source is None:
        return Refusal(f"the global '{weight.symbol}' is no parameter, or the model writes to it")
    if len(found.k) != 1:
        return Refusal(f"it sums over {len(found.k)} dimensions")
    if not isinstance(weight.element, (ir.F32Type, ir.F16Type, ir.BF16Type, ir.F64Type)):
        return Refusal(f"the weight is of type {weight.element}")
    k_loop = found.k[0]
    if k_loop not in weight.dims:
        return Refusal("the weight does not have the summed dimension")
    order = [*(d for d in weight.dims if d in found.batch)]
    order += [d for d in weight.dims if d not in found.batch and d != k_loop]
    order += [k_loop]
    axes = [weight.dims.index(d) for d in order]
    shape = [weight.shape[axis] for axis in axes]
    if 0 in shape:
        return Refusal("the weight is empty")
    layout = simplify_layout([*weight.layout, ["transpose", axes]])
    return WeightRows(
        found, weight, source, layout, tuple(shape[:-1]), tuple(order[:-1]), shape[-1]
    )
