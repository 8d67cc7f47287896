"""Products of few-bit weights and 8-bit activations as kernels, for ``lowc-outline-kernels``.

What it takes is what ``lowc-quantize-activations`` makes.  It becomes two dispatches, one that
rounds the activation and one that multiplies; products that share an activation and its groups
share the first (``cse``).  A product of very few rows is one dispatch that does both.
"""

from dataclasses import dataclass
from typing import Any

from iree.compiler import ir

from . import (
    annotations,
    build,
    dispatch_records,
    epilogues,
    integer_products,
    outline_integer_gpu,
)
from .base import Refusal
from .epilogues import Chain
from .formats import panels
from .integer_products import IntegerProduct
from .kernels import tiles
from .kernels.integer_dot import IntegerDot
from .kernels.integer_matmul import IntegerMatmul
from .kernels.integer_rows import IntegerRows


@dataclass(frozen=True)
class Plan:
    """A product of integers and the kernel that makes it (its rows have the one that rounds)."""

    product: IntegerProduct
    kernel: IntegerMatmul | outline_integer_gpu.Kernel
    chain: Chain | Refusal


def takes(op: Any) -> bool:
    """Whether `op` is the last operation of a product of integers."""
    return annotations.product_facts(op).get("kind") == integer_products.KIND


def match(op: Any, unit: str) -> Plan | Refusal:
    """Describe the kernels for `op`, or say why there are none.  Changes nothing."""
    if unit == "spirv":
        return Refusal("there is no kernel of 8-bit activations for GPUs")
    product = integer_products.match(op)
    if isinstance(product, Refusal):
        return product
    if build.element_of(product.codes).width > 8:
        return Refusal("its codes are stored in words")
    matrices, group = product.matrices, product.group
    batch, m, n, k = matrices.batch, matrices.m, matrices.n, matrices.k
    if batch is None or n is None or k is None:
        return Refusal("the shape of its weight is not known")
    if 0 in (batch, m, n, k):
        return Refusal("one of its sizes is 0")
    if unit == "ptx":
        gpu = outline_integer_gpu.kernel_for(product)
        return (
            gpu if isinstance(gpu, Refusal) else Plan(product, *epilogues.on_gpu(op, matrices, gpu))
        )
    try:
        panels.vectors_per_chunk(product.bits, group)
    except ValueError as error:
        return Refusal(str(error))
    dot = IntegerDot(tiles.ISAS[unit], product.bits, panels.chunk_of(group))
    count = None if m is None else batch * m
    rows = IntegerRows(count, k, group, not product.per_row, dot)
    words = rows.chunks * dot.vectors
    rounds = tiles.rounds_rows(m, k, dot.strategy)
    sizes = (batch, m, n, k)
    has_halves = product.has_halves and dot.isa.halves
    tile = tiles.choose_integer(
        dot.isa, sizes, words, dot.strategy, rows.groups, dot.bits, 2 if has_halves else 4
    )
    chain = epilogues.match(op, matrices)
    epilogue = chain.epilogue if isinstance(chain, Chain) else None
    kernel = IntegerMatmul(
        batch, m, n, rows, product.symmetric, tile, epilogue, rounds, has_halves
    )  # fmt: skip
    return Plan(product, kernel, chain)


def product_of(op: Any) -> IntegerProduct | Refusal:
    """Describe the product alone.  Changes nothing."""
    return integer_products.match(op)


def bits_of(plan: Plan) -> float:
    """Return the stored bits of a weight."""
    product, kernel = plan.product, plan.kernel
    return panels.bits_per_weight(
        product.bits, product.group, product.groups, product.matrices.k or 1,
        symmetric=product.symmetric,
        has_halves=isinstance(kernel, IntegerMatmul) and kernel.has_halves,
    )  # fmt: skip


def load_weight(module: ir.Module, plan: Plan) -> list[ir.Value]:
    """Load what the kernel reads of the weight, at the current place."""
    if isinstance(plan.kernel, IntegerMatmul):
        return _weight(module, plan.product, plan.kernel)
    return outline_integer_gpu.load_weight(module, plan.product, plan.kernel)


def rewrite(module: ir.Module, plan: Plan) -> None:
    """Dispatch to the kernels, with the weight in panels."""
    product, kernel = plan.product, plan.kernel
    chain = dispatch_records.as_chain(plan.chain)
    with ir.InsertionPoint(product.op), product.op.location:
        weight = load_weight(module, plan)
    bits = bits_of(plan)
    rounds = isinstance(kernel, IntegerMatmul) and kernel.rounds
    rows = None if rounds else kernel.rows
    dispatch_records.replace(module, product, rows, kernel, weight, bits, chain)


def _weight(module: ir.Module, product: IntegerProduct, kernel: IntegerMatmul) -> list[ir.Value]:
    """Load the weight's codes, scales, zeros and factors as the kernel reads them."""
    columns = kernel.tile.columns
    derivation = {
        **({"halves": True} if kernel.has_halves else {}),
        "kind": "integer-panels",
        "bits": product.bits,
        "group": product.group,
        "symmetric": product.symmetric,
        "columns": columns,
    }
    i32, i8 = (ir.IntegerType.get_signless(width) for width in (32, 8))
    head = [kernel.batch, kernel.panels]
    values = [*head, kernel.rows.groups, columns]
    parts = [
        ("codes", [*head, kernel.rows.chunks * kernel.dot.vectors, columns], i32),
        ("scales", values, ir.F16Type.get() if kernel.has_halves else ir.F32Type.get()),
        *([] if kernel.symmetric else [("zeros", values, i8)]),
        *([("factors", [*head, columns], ir.F32Type.get())] if kernel.has_halves else []),
    ]
    # Only the model's weight has the K that it had before it was cut into groups.
    shape = [kernel.batch, kernel.n, -1]
    return dispatch_records.load_weight(module, product.codes, shape, derivation, parts)
