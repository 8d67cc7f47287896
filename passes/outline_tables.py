"""Products of binary-coded weights by look-up as kernels, for ``lowc-outline-kernels``.

What it takes is what ``lowc-lower-lut`` makes.  It becomes two dispatches, one that makes the
tables of the activation and one that looks up and adds.
"""

import json
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir

from . import add_operands, annotations, dispatch_records, epilogues, table_products
from .base import Refusal
from .contraction import dims_of
from .epilogues import Chain
from .formats.tables import TableFormat
from .kernels import tiles
from .kernels.table_matmul import TableMatmul, refusal
from .kernels.table_rows import TableRows
from .table_products import TableProduct

# Of the derivation of a weight: all that its codes depend on.
_CODING = ("planes", "group", "outputs", "terms", "coding", "rounds")


@dataclass(frozen=True)
class Plan:
    """A product by look-up and the kernel that makes it (its rows have the one for tables)."""

    product: TableProduct
    kernel: TableMatmul
    chain: Chain | Refusal


def takes(op: Any) -> bool:
    """Whether `op` is the last operation of a product by look-up."""
    text = annotations.text(op, annotations.PRODUCT)
    return bool(text) and json.loads(text).get("kind") == table_products.KIND


def match(op: Any, unit: str) -> Plan | Refusal:
    """Describe the kernels for `op`, or say why there are none.  Changes nothing."""
    if unit not in tiles.ISAS or unit == "portable":
        return Refusal("kernels of look-ups are for CPUs with AVX2")
    product = table_products.match(op)
    if isinstance(product, Refusal):
        return product
    matrices = product.matrices
    batch, m, n, k = matrices.batch, matrices.m, matrices.n, matrices.k
    if batch is None or n is None or k is None:
        return Refusal("the shape of its weight is not known")
    if 0 in (batch, m, n, k):
        return Refusal("one of its sizes is 0")
    stored = dims_of(matrices.maps["columns"])
    if stored != tuple(sorted(stored)):
        return Refusal("its weight is stored in another order than that of the result")
    fmt = TableFormat(product.entry_bits, product.span)
    why = refusal(fmt, product.group, k)
    if why:
        return Refusal(why)
    isa = tiles.ISAS[unit]
    rows = TableRows(None if m is None else batch * m, k, fmt, isa)
    words = product.planes * rows.spans * fmt.span // 32
    tile = tiles.choose_tables(isa, batch, m, n, product.planes, rows.folded, words)
    chain = epilogues.match(op, matrices)
    epilogue = chain.epilogue if isinstance(chain, Chain) else None
    kernel = TableMatmul(batch, m, n, rows, product.planes, product.group, tile, epilogue)
    return Plan(product, kernel, chain)


def rewrite(module: ir.Module, plan: Plan) -> None:
    """Dispatch to the kernels, with the weight in panels."""
    product, kernel = plan.product, plan.kernel
    chain = dispatch_records.as_chain(plan.chain)
    with ir.InsertionPoint(product.op), product.op.location:
        weight = _weight(module, plan)
    bits = kernel.bits_per_weight
    dispatch_records.replace(module, product, kernel.rows, kernel, weight, bits, chain)


def _weight(module: ir.Module, plan: Plan) -> list[ir.Value]:
    """Load the weight's keys and scales as the kernel reads them."""
    product, kernel = plan.product, plan.kernel
    stored = add_operands.derivation_of(product.signs)
    derivation = {
        **{key: stored[key] for key in _CODING if key in stored},
        "kind": "binary-panels",
        "columns": kernel.tile.columns,
        "quads": 2 * kernel.pairs,
    }
    i32, head = ir.IntegerType.get_signless(32), [kernel.batch, kernel.panels]
    parts = [
        (name, [*head, *shape], i32)
        for name, (shape, _) in zip(("keys", "scales"), kernel.weights, strict=True)
    ]
    shape = [kernel.batch, kernel.n, kernel.rows.k]
    return dispatch_records.load_weight(module, product.signs, shape, derivation, parts)
