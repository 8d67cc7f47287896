"""Products of few-bit weights and 8-bit activations as kernels, for ``lowc-outline-kernels``.

What it takes is the pair that ``lowc-quantize-activations`` makes: exact sums of each group, and
their sum with the scales.  Both, and what rounds the activation, become two dispatches.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir

from . import add_operands, annotations, build, parameters
from .base import Refusal
from .contraction import defining, dims_of, indexing_maps, simplify_layout
from .formats import panels
from .kernels import executable, tiles
from .kernels.integer_dot import IntegerDot
from .kernels.integer_matmul import MAX_K, IntegerMatmul
from .kernels.integer_rows import IntegerRows
from .matrices import Matrices, as_matrices, from_matrices, to_matrices

KIND = "integer"


@dataclass(frozen=True)
class Plan:
    """A product of integers, its operands as matrices, and the kernels that make it.

    Attributes
    ----------
    op : operation
        The sum over groups, which carries the matmul's annotations.
    products : operation
        The sums of each group.
    activation : Value
        The f32 activation in groups, before it is rounded.
    matrices : Matrices
        The loops of `products`; K is groups and what is in them.
    weight : dict
        The derivation of the weight's codes.
    symbol : str
        Their global.
    kernel : IntegerMatmul
    """

    op: Any
    products: Any
    activation: ir.Value
    matrices: Matrices
    weight: dict[str, Any]
    symbol: str
    kernel: IntegerMatmul


def takes(op: Any) -> bool:
    """Whether `op` sums integer products of groups."""
    text = annotations.text(op, annotations.PRODUCT)
    return bool(text) and json.loads(text).get("kind") == KIND


def match(op: Any, unit: str) -> Plan | Refusal:
    """Describe the kernels for `op`, or say why there are none.  Changes nothing."""
    if unit in ("spirv", "ptx"):
        return Refusal("there is no kernel of 8-bit activations for GPUs")
    products = defining(op.operands[0])
    codes = next((i for i in (1, 0) if add_operands.is_stored(products.operands[i])), None)
    if codes is None:
        return Refusal("its weight is not stored in integers")
    rounded = defining(products.operands[1 - codes])
    activation = rounded.operands[0]
    if build.element_of(activation) != ir.F32Type.get():
        return Refusal(f"its activation is {build.element_of(activation)}, not f32")
    matrices = _matrices(op, products, codes)
    if isinstance(matrices, Refusal):
        return matrices
    batch, n, k = matrices.batch, matrices.n, matrices.k
    if batch is None or n is None or k is None:
        return Refusal("the shape of its weight is not known")
    if 0 in (batch, matrices.m, n, k):
        return Refusal("one of its sizes is 0")
    if k > MAX_K:
        return Refusal(f"a sum of {k} integer products may not fit 32 bits")
    weight = add_operands.derivation_of(products.operands[codes])
    bits, group = weight["bits"], weight["group"]
    try:
        panels.vectors_per_chunk(bits, group)
    except ValueError as error:
        return Refusal(str(error))
    dot = IntegerDot(tiles.ISAS[unit], bits, panels.chunk_of(group))
    facts = json.loads(annotations.text(op, annotations.PRODUCT))
    m = matrices.m
    rows = IntegerRows(
        None if m is None else batch * m, k, group, facts["activation-scale"] == "group", dot
    )
    words = rows.chunks * dot.vectors
    tile = tiles.choose_integer(dot.isa, batch, m, n, words, dot.strategy)
    kernel = IntegerMatmul(batch, m, n, rows, weight["symmetric"], tile)
    symbol = ir.FlatSymbolRefAttr(_load_of(products.operands[codes]).attributes["global"]).value
    return Plan(op, products, activation, matrices, weight, symbol, kernel)


def _matrices(op: Any, products: Any, codes: int) -> Matrices | Refusal:
    """Return the loops of `products` with groups as a part of K, and the result of `op`."""
    found = as_matrices(products, codes)
    if isinstance(found, Refusal):
        return found
    out = dims_of(indexing_maps(products)[2])
    groups = out[-1]
    # What `op` sums over must be the groups alone, and what it keeps in the order of its operand.
    kept = dims_of(indexing_maps(op)[len(op.operands) - 1])
    read = dims_of(indexing_maps(op)[0])
    if read[-1] in kept or sorted(read[:-1]) != sorted(kept):
        return Refusal("its groups are not the last dimension of its sums")
    result = [out[read.index(loop)] for loop in kept]
    loops = indexing_maps(products)[0].n_dims
    return dataclasses.replace(
        found,
        batch_loops=tuple(loop for loop in found.batch_loops if loop != groups),
        summed=(groups, *found.summed),
        maps={**found.maps, "result": build.dims_map(loops, result)},
    )


def rewrite(module: ir.Module, plan: Plan) -> None:
    """Declare the kernels, store the weight in panels, dispatch, and bring the result back."""
    op, kernel, rows, matrices = plan.op, plan.kernel, plan.kernel.rows, plan.matrices
    with ir.InsertionPoint(op), op.location:
        left = to_matrices(plan.activation, matrices, "rows")
        flat = build.collapse(left, [[0, 1], [2]])
        total = build.dim(flat, 0)
        opened = [total] if kernel.m is None else []
        executable.declare(
            module, rows.name, [True, False], len(opened), rows.translation, rows.emit
        )
        shape = [build.DYNAMIC if rows.m is None else rows.m, rows.words]
        i32 = ir.IntegerType.get_signless(32)
        records = executable.dispatch(
            rows.name, rows.grid(total), opened, [flat], build.tensor_type(shape, i32), opened
        ).results[0]
        m = matrices.values(plan.products)["m"]
        opened = [m] if kernel.m is None else []
        executable.declare(
            module, kernel.name, [True] * kernel.inputs + [False], len(opened),
            kernel.translation, kernel.emit,
        )  # fmt: skip
        shape = [kernel.batch, build.DYNAMIC if kernel.m is None else kernel.m, kernel.n]
        call = executable.dispatch(
            kernel.name, kernel.grid(m), opened, [records, *_weight(module, plan)],
            build.tensor_type(shape, ir.F32Type.get()), opened,
        )  # fmt: skip
        annotations.copy_annotations(op, call)
        result = from_matrices(call.results[0], matrices, plan.products)
    op.operation.results[0].replace_all_uses_with(result)
    op.operation.erase()


def _weight(module: ir.Module, plan: Plan) -> list[ir.Value]:
    """Load the weight's codes, scales and zeros as the kernel reads them."""
    kernel, columns = plan.kernel, plan.kernel.tile.columns
    layout = json.loads(plan.weight["layout"])
    shape = [kernel.batch, kernel.n, plan.weight["k"]]
    layout = json.dumps(simplify_layout([*layout, ["reshape", shape]]), separators=(",", ":"))
    kept = ("source", "bits", "group", "symmetric")
    derivation = {
        **{key: plan.weight[key] for key in kept},
        "kind": "integer-panels", "layout": layout, "columns": columns,
    }  # fmt: skip
    i32, f32 = ir.IntegerType.get_signless(32), ir.F32Type.get()
    head = [kernel.batch, kernel.panels]
    words = [*head, kernel.rows.chunks * kernel.dot.vectors, columns]
    values = [*head, kernel.rows.groups, columns]
    parts = [("codes", words, i32), ("scales", values, f32)]
    if not kernel.symmetric:
        parts.append(("zeros", values, i32))
    stem = plan.symbol.removesuffix(".codes")
    holder = parameters.find_global(module, plan.symbol)
    found = []
    for part, dims, element in parts:
        type_ = build.tensor_type(dims, element)
        symbol = f"{stem}.p{columns}.{part}"
        name = parameters.derived_global(
            module, holder, symbol, type_, {**derivation, "part": part}
        )
        found.append(build.load_global(name, type_))
    return found


def _load_of(value: ir.Value) -> Any:
    op = defining(value)
    if op.name == "util.optimization_barrier":
        op = defining(op.operands[0])
    return op
