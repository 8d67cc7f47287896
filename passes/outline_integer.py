"""Products of few-bit weights and 8-bit activations as kernels, for ``lowc-outline-kernels``.

What it takes is what ``lowc-quantize-activations`` makes.  It becomes two dispatches, one that
rounds the activation and one that multiplies; products that share an activation and its groups
share the first (``cse``).
"""

import json
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import add_operands, annotations, build, epilogues, integer_products, parameters
from .base import Refusal
from .contraction import defining, simplify_layout
from .epilogues import Chain
from .formats import panels
from .integer_products import IntegerProduct
from .kernels import executable, tiles
from .kernels.integer_dot import IntegerDot
from .kernels.integer_matmul import IntegerMatmul
from .kernels.integer_rows import IntegerRows
from .matrices import from_matrices, to_matrices


@dataclass(frozen=True)
class Plan:
    """A product of integers and the kernel that makes it (its rows have the one that rounds)."""

    product: IntegerProduct
    kernel: IntegerMatmul
    chain: Chain | Refusal


def takes(op: Any) -> bool:
    """Whether `op` is the last operation of a product of integers."""
    text = annotations.text(op, annotations.PRODUCT)
    return bool(text) and json.loads(text).get("kind") == integer_products.KIND


def match(op: Any, unit: str) -> Plan | Refusal:
    """Describe the kernels for `op`, or say why there are none.  Changes nothing."""
    if unit in ("spirv", "ptx"):
        return Refusal("there is no kernel of 8-bit activations for GPUs")
    product = integer_products.match(op)
    if isinstance(product, Refusal):
        return product
    matrices, group = product.matrices, product.group
    batch, m, n, k = matrices.batch, matrices.m, matrices.n, matrices.k
    if batch is None or n is None or k is None:
        return Refusal("the shape of its weight is not known")
    if 0 in (batch, m, n, k):
        return Refusal("one of its sizes is 0")
    try:
        panels.vectors_per_chunk(product.bits, group)
    except ValueError as error:
        return Refusal(str(error))
    dot = IntegerDot(tiles.ISAS[unit], product.bits, panels.chunk_of(group))
    count = None if m is None else batch * m
    rows = IntegerRows(count, k, group, not product.per_row, dot)
    words = rows.chunks * dot.vectors
    tile = tiles.choose_integer(dot.isa, batch, m, n, words, dot.strategy)
    chain = epilogues.match(op, matrices)
    epilogue = chain.epilogue if isinstance(chain, Chain) else None
    kernel = IntegerMatmul(batch, m, n, rows, product.symmetric, tile, epilogue)
    return Plan(product, kernel, chain)


def rewrite(module: ir.Module, plan: Plan) -> None:
    """Declare the kernels, store the weight in panels, dispatch, and bring the result back."""
    product, kernel = plan.product, plan.kernel
    op, matrices = product.op, product.matrices
    chain = plan.chain if isinstance(plan.chain, Chain) else None
    with ir.InsertionPoint(op if chain is None else chain.ops[-1]), op.location:
        rows = build.collapse(to_matrices(product.activation, matrices, "rows"), [[0, 1], [2]])
        records = _rounded(module, rows, kernel.rows)
        m = build.index(kernel.m) if kernel.m is not None else _rows_of_each(rows, kernel)
        opened = [m] if kernel.m is None else []
        extra = []
        if chain is not None:
            known = {"batch": kernel.batch, "m": kernel.m, "n": kernel.n, "one": 1}
            extra = epilogues.tensors(chain, {"m": m}, known)
        executable.declare(
            module, kernel.name, [True] * kernel.inputs + [False], len(opened),
            kernel.translation, kernel.emit,
        )  # fmt: skip
        shape = [kernel.batch, build.DYNAMIC if kernel.m is None else kernel.m, kernel.n]
        call = executable.dispatch(
            kernel.name, kernel.grid(m), opened, [records, *_weight(module, plan), *extra],
            build.tensor_type(shape, ir.F32Type.get()), opened,
        )  # fmt: skip
        annotations.copy_annotations(op, call)
        call.attributes[annotations.BITS] = ir.FloatAttr.get(
            ir.F64Type.get(), product.bits_per_weight
        )
        if chain is None:
            result = from_matrices(call.results[0], matrices, op)
            op.operation.results[0].replace_all_uses_with(result)
        else:
            epilogues.replace(chain, call.results[0])
    op.operation.erase()


def _rounded(module: ir.Module, rows: ir.Value, kernel: IntegerRows) -> ir.Value:
    """Dispatch to the kernel that rounds f32 ``[m, K]``; return its records."""
    count = build.dim(rows, 0)
    opened = [count] if kernel.m is None else []
    executable.declare(
        module, kernel.name, [True, False], len(opened), kernel.translation, kernel.emit
    )
    shape = [build.DYNAMIC if kernel.m is None else kernel.m, kernel.words]
    type_ = build.tensor_type(shape, ir.IntegerType.get_signless(32))
    call = executable.dispatch(kernel.name, kernel.grid(count), opened, [rows], type_, opened)
    records: ir.Value = call.results[0]
    return records


def _rows_of_each(rows: ir.Value, kernel: IntegerMatmul) -> ir.Value:
    return arith.divui(build.dim(rows, 0), build.index(kernel.batch))


def _weight(module: ir.Module, plan: Plan) -> list[ir.Value]:
    """Load the weight's codes, scales and zeros as the kernel reads them."""
    product, kernel, columns = plan.product, plan.kernel, plan.kernel.tile.columns
    stored = add_operands.derivation_of(product.codes)
    # Only the model's weight has the K that it had before it was cut into groups.
    shape = [kernel.batch, kernel.n, -1]
    layout = simplify_layout([*json.loads(stored["layout"]), ["reshape", shape]])
    derivation = {
        "kind": "integer-panels",
        "source": stored["source"],
        "layout": json.dumps(layout, separators=(",", ":")),
        "bits": product.bits,
        "group": product.group,
        "symmetric": product.symmetric,
        "columns": columns,
        **({"moments": stored["moments"]} if "moments" in stored else {}),
    }
    i32, i8 = (ir.IntegerType.get_signless(width) for width in (32, 8))
    head = [kernel.batch, kernel.panels]
    values = [*head, kernel.rows.groups, columns]
    parts = [
        ("codes", [*head, kernel.rows.chunks * kernel.dot.vectors, columns], i32),
        ("scales", values, ir.F32Type.get()),
        *([] if kernel.symmetric else [("zeros", values, i8)]),
    ]
    symbol = ir.FlatSymbolRefAttr(defining(product.codes).attributes["global"]).value
    holder = parameters.find_global(module, symbol)
    stem = f"{symbol.removesuffix('.codes')}.p{columns}"
    found = []
    for part, dims, element in parts:
        type_ = build.tensor_type(dims, element)
        name = parameters.derived_global(
            module, holder, f"{stem}.{part}", type_, {**derivation, "part": part}
        )
        found.append(build.load_global(name, type_))
    return found
