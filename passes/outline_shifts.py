"""Products by weights that are powers of two as kernels, for ``lowc-outline-kernels``.

What it takes is what ``lowc-lower-shift-add`` makes of the form ``shift``.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir

from . import annotations, build, dispatch_matmul, dispatch_records, epilogues, shift_products
from .base import Refusal
from .contraction import defining, dims_of
from .epilogues import Chain
from .formats.shift_panels import WAYS
from .kernels import tiles
from .kernels.shift_matmul import ShiftMatmul
from .matrices import Matrices, as_matrices, to_matrices


@dataclass(frozen=True)
class Plan:
    """A product as matrices, its activation before K was filled up, and its kernel."""

    op: Any
    activation: ir.Value
    matrices: Matrices
    kernel: ShiftMatmul
    chain: Chain | Refusal


def takes(op: Any) -> bool:
    """Whether `op` is a product by powers of two."""
    return annotations.product_facts(op).get("kind") == shift_products.KIND


def match(op: Any, unit: str) -> Plan | Refusal:
    """Describe the kernel for `op`, or say why there is none.  Changes nothing."""
    if unit not in tiles.ISAS:
        return Refusal("kernels of shifts are for CPUs")
    matrices, k = as_matrices(op, 1), annotations.product_facts(op)["k"]
    if isinstance(matrices, Refusal):
        return matrices
    # K is filled up to whole words for the portable form alone.
    (loop,) = matrices.summed
    sizes = tuple(k if i == loop else size for i, size in enumerate(matrices.sizes))
    matrices = dataclasses.replace(matrices, sizes=sizes)
    activation = op.operands[0]
    axis = dims_of(matrices.maps["rows"]).index(loop)
    if build.shape_of(activation)[axis] != k:
        activation = defining(activation).operands[0]
    if 0 in (matrices.batch, matrices.m, matrices.n):
        return Refusal("one of its sizes is 0")
    order = (*matrices.batch_loops, *matrices.columns, loop)
    if dims_of(matrices.maps["columns"]) != order:
        return Refusal("its weight is stored in another order than that of the result")
    batch, m, n = matrices.batch, matrices.m, matrices.n
    tile = tiles.choose(tiles.ISAS[unit], batch, m, n, k, WAYS)
    chain = epilogues.match(op, matrices)
    epilogue = chain.epilogue if isinstance(chain, Chain) else None
    kernel = ShiftMatmul(batch, m, n, k, matrices.batch_in_columns, tile, epilogue=epilogue)
    return Plan(op, activation, matrices, kernel, chain)


def rewrite(module: ir.Module, plan: Plan) -> None:
    """Dispatch to the kernel, with the weight in panels."""
    op, kernel, matrices = plan.op, plan.kernel, plan.matrices

    def operands() -> list[ir.Value]:
        return [to_matrices(plan.activation, matrices, "rows"), *_weight(module, plan)]

    ranges = 64 / (kernel.tile.columns * (kernel.k or 1))
    op.attributes[annotations.BITS] = ir.FloatAttr.get(ir.F64Type.get(), 8 + ranges)
    chain = dispatch_records.as_chain(plan.chain)
    dispatch_matmul.replace(module, op, matrices, kernel, operands, chain)


def _weight(module: ir.Module, plan: Plan) -> list[ir.Value]:
    kernel, tile = plan.kernel, plan.kernel.tile
    n, k = kernel.n or 0, kernel.k or 0
    batch = (kernel.batch or 1) if kernel.b_batch else 1
    head, i32 = [batch, -(-n // tile.columns)], ir.IntegerType.get_signless(32)
    parts = [("terms", [*head, k, kernel.words], i32), ("ranges", [*head, 1, 2], i32)]
    derivation = {"kind": "shift-panels", "columns": tile.columns, "lanes": tile.lanes}
    terms = plan.op.operands[1]
    return dispatch_records.load_weight(module, terms, [batch, n, k], derivation, parts)
