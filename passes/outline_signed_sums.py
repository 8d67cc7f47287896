"""Products of binary-coded weights by signed sums as kernels, for ``lowc-outline-kernels``.

What it takes is what ``lowc-lower-shift-add`` makes of planes of signs without tables.
"""

from typing import Any

from iree.compiler import ir

from . import annotations, dispatch_matmul, dispatch_records, epilogues, outline_planes, signed_sums
from .base import Refusal
from .epilogues import Chain
from .kernels import tiles
from .kernels.signed_matmul import SignedMatmul, refusal
from .matrices import to_matrices
from .signed_sums import SignedSums

Plan = outline_planes.Plan[SignedSums, SignedMatmul]


def takes(op: Any) -> bool:
    """Whether `op` is the last operation of a product by signed sums."""
    return annotations.product_facts(op).get("kind") == signed_sums.KIND


def match(op: Any, unit: str) -> Plan | Refusal:
    """Describe the kernel for `op`, or say why there is none.  Changes nothing."""
    if unit not in tiles.ISAS:
        return Refusal("kernels of signed sums are for CPUs")
    product = signed_sums.match(op)
    matrices = product.matrices
    sizes = outline_planes.sizes_of(matrices)
    if isinstance(sizes, Refusal):
        return sizes
    batch, m, n, k = sizes
    why = refusal(product.group, k)
    if why:
        return Refusal(why)
    tile = tiles.choose_signs(tiles.ISAS[unit], batch, m, n, k, product.planes)
    chain = epilogues.match(op, matrices)
    kernel = SignedMatmul(
        batch, m, n, k, matrices.batch_in_columns, tile,
        planes=product.planes, group=product.group, terms=product.terms,
        epilogue=chain.epilogue if isinstance(chain, Chain) else None,
    )  # fmt: skip
    return Plan(product, kernel, chain)


def rewrite(module: ir.Module, plan: Plan) -> None:
    """Dispatch to the kernel, with the weight in panels."""
    product, kernel = plan.product, plan.kernel

    def operands() -> list[ir.Value]:
        rows = to_matrices(product.activation, product.matrices, "rows")
        return [rows, *_weight(module, plan)]

    bits = ir.FloatAttr.get(ir.F64Type.get(), kernel.bits_per_weight)
    product.op.attributes[annotations.BITS] = bits
    chain = dispatch_records.as_chain(plan.chain)
    dispatch_matmul.replace(module, product.op, product.matrices, kernel, operands, chain)


def _weight(module: ir.Module, plan: Plan) -> list[ir.Value]:
    """Load the weight's signs and terms as the kernel reads them."""
    product, kernel = plan.product, plan.kernel
    columns, planes = kernel.tile.columns, kernel.planes
    panels = {"kind": "signed-panels", "columns": columns}
    n, k, i32 = kernel.n or 0, kernel.k or 0, ir.IntegerType.get_signless(32)
    batch = (kernel.batch or 1) if kernel.b_batch else 1
    head = [batch, -(-n // columns)]
    parts = [
        ("signs", [*head, kernel.words * planes, columns], i32),
        ("terms", [*head, kernel.groups * planes, columns], i32),
    ]
    return outline_planes.load_weight(module, product.signs, [batch, n, k], panels, parts)
