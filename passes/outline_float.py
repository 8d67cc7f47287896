"""Products in f32 as kernels: what ``lowc-outline-kernels`` does for the form ``exact``."""

import json
import math
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir

from . import (
    annotations,
    attention_heads,
    build,
    dispatch_matmul,
    epilogues,
    parameters,
    shared_panels,
)
from .base import Refusal
from .contraction import (
    Contraction,
    Weight,
    find_weight,
    is_zero_fill,
    match_contraction,
    match_convolution,
    multiplies_and_adds,
    simplify_layout,
)
from .epilogues import Chain
from .kernels import float_tiles, tiles
from .kernels.float_matmul import PLAIN, FloatMatmul
from .matrices import Matrices, as_matrices, to_matrices


@dataclass(frozen=True)
class StoredWeight:
    """A weight that can be stored in panels: where it is in the model, and its parameter's key."""

    weight: Weight
    source: str


@dataclass(frozen=True)
class Plan:
    """A product in f32 as matrices, its kernel, its weight if it has one, and what follows it.

    ``columns`` is the number of the operand that has the columns.  ``heads`` says which transposes
    around it the kernel makes needless.
    """

    op: Any
    matrices: Matrices
    columns: int
    kernel: FloatMatmul
    stored: StoredWeight | None
    chain: Chain | Refusal
    heads: attention_heads.Found | None = None


def takes(op: Any) -> bool:
    """Whether `op` is a product as the model was exported with."""
    if annotations.text(op, annotations.KIND) == "elementwise":
        return False
    return annotations.PRODUCT not in op.attributes and annotations.BITS not in op.attributes


def match(op: Any, unit: str) -> Plan | Refusal:
    """Describe the kernel for `op`, or say why there is none.  Changes nothing."""
    if unit not in tiles.ISAS:
        return Refusal("f32 kernels are for CPUs")
    if isinstance(match_convolution(op), Contraction):
        return Refusal("a convolution is contracted directly")
    found = match_contraction(op)
    if isinstance(found, Refusal):
        return found
    why = _outside_kernels(found)
    if why:
        return Refusal(why)
    weight = find_weight(found)
    stored = _stored(op, weight) if isinstance(weight, Weight) else None
    if isinstance(stored, Refusal):
        return stored
    columns = 1 if stored is None else stored.weight.position
    matrices = as_matrices(op, columns, None if stored is None else stored.weight.dims)
    if isinstance(matrices, Refusal):
        return matrices
    sizes = (matrices.batch, matrices.m, matrices.n, matrices.k)
    if 0 in sizes:
        return Refusal("one of its sizes is 0")
    if stored is not None and sorted(_order(matrices)) != sorted(stored.weight.dims):
        return Refusal("its weight has dimensions that the product has not")
    tile = float_tiles.choose(
        tiles.ISAS[unit], *sizes, packs=stored is None, stored=shared_panels.columns_on(op)
    )
    chain = epilogues.match(op, matrices)
    heads = None
    if stored is None and matrices.batch_in_columns:
        stores = isinstance(chain, Refusal)
        heads = attention_heads.match(op, columns, matrices, stores=stores)
    kernel = FloatMatmul(
        *sizes, matrices.batch_in_columns, tile, packs=stored is None,
        copies=float_tiles.copies(tiles.ISAS[unit], tile, matrices.m, matrices.k),
        epilogue=chain.epilogue if isinstance(chain, Chain) else None,
        heads=PLAIN if heads is None else heads.heads,
    )  # fmt: skip
    return Plan(op, matrices, columns, kernel, stored, chain, heads)


def _outside_kernels(found: Contraction) -> str:
    """Say why no kernel does what the contraction does, or nothing."""
    for value in (*found.operands, found.init):
        element = build.element_of(value)
        if element != ir.F32Type.get():
            return f"kernels multiply f32, not {element}"
    if not multiplies_and_adds(found.op):
        return "its body is not one multiplication and one addition"
    if not is_zero_fill(found.init):
        return "the sums do not start at zero"
    return ""


def _stored(op: Any, weight: Weight) -> StoredWeight | Refusal:
    """Say where the weight comes from, if it can be stored in panels."""
    module = parameters.module_of(op)
    holder = parameters.find_global(module, weight.symbol)
    source = parameters.parameter_key(holder) if holder is not None else None
    if source is None:
        return Refusal(f"the global '{weight.symbol}' is no parameter, or the model writes to it")
    bits = parameters.stored_bits(module, weight)
    if bits != 32:
        return Refusal(f"its weight is stored in {bits} bits, panels of f32 would be larger")
    return StoredWeight(weight, source)


def stored_as(plan: Plan) -> str:
    """Return what the panels of the weight are called, whatever their columns; "" for no weight."""
    if plan.stored is None:
        return ""
    return _name(plan.stored, _layout(plan.matrices, plan.stored)[0])


def _name(stored: StoredWeight, layout: str) -> str:
    return f"{stored.source}.{parameters.layout_name(layout)}"


def _layout(matrices: Matrices, stored: StoredWeight) -> tuple[str, list[int]]:
    """Return how a weight becomes ``[batch, K, N]``, and these sizes."""
    weight, order = stored.weight, _order(matrices)
    sizes = dict(zip(weight.dims, weight.shape, strict=True))
    shape = [
        math.prod(sizes[loop] for loop in loops)
        for loops in (matrices.batch_loops, matrices.summed, matrices.columns)
    ]
    steps = [*weight.layout, ["transpose", [weight.dims.index(loop) for loop in order]]]
    return json.dumps([*simplify_layout(steps), ["reshape", shape]], separators=(",", ":")), shape


def _order(matrices: Matrices) -> tuple[int, ...]:
    """Return the loops of a weight as panels have them: batch, K, N."""
    return (*matrices.batch_loops, *matrices.summed, *matrices.columns)


def rewrite(module: ir.Module, plan: Plan) -> None:
    """Dispatch to the kernel, with the operands laid out for it."""
    op, matrices, heads = plan.op, plan.matrices, plan.heads

    def operands() -> list[ir.Value]:
        if heads is None or heads.rows is None:
            left = to_matrices(op.operands[1 - plan.columns], matrices, "rows")
        else:
            left = heads.rows
        if plan.stored is not None:
            return [left, _load_panels(module, plan, plan.stored)]
        if heads is None or heads.columns is None:
            return [left, to_matrices(op.operands[plan.columns], matrices, "columns")]
        is_split = "b" in heads.heads.split
        return [left, attention_heads.matrix_of(heads.columns, is_split=is_split)]

    chain = plan.chain if isinstance(plan.chain, Chain) else None
    result = None if heads is None else heads.result
    dispatch_matmul.replace(module, op, matrices, plan.kernel, operands, chain, result_heads=result)


def _load_panels(module: ir.Module, plan: Plan, stored: StoredWeight) -> ir.Value:
    """Load a weight as ``[batch, N/columns, K, columns]``."""
    weight, columns = stored.weight, plan.kernel.tile.columns
    layout, (batch, k, n) = _layout(plan.matrices, stored)
    type_ = build.tensor_type([batch, -(-n // columns), k, columns], ir.F32Type.get())
    derivation = {
        "kind": "float-panels",
        "part": "panels",
        "source": stored.source,
        "layout": layout,
        "columns": columns,
    }
    symbol = f"{_name(stored, layout)}.p{columns}"
    holder = parameters.find_global(module, weight.symbol)
    return build.load_global(
        parameters.derived_global(module, holder, symbol, type_, derivation), type_
    )
