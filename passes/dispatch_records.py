"""Two dispatches in the place of a product: one prepares the rows, one multiplies the records.

Products that share an activation and how it is prepared share the first dispatch (``cse``).
"""

import json
from collections.abc import Sequence
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import add_operands, annotations, build, epilogues, parameters
from .base import Refusal
from .contraction import defining, simplify_layout
from .epilogues import Chain
from .integer_products import IntegerProduct
from .kernels import executable
from .kernels.integer_few_gpu import IntegerFewGpu
from .kernels.integer_rows import IntegerRows
from .kernels.integer_rows_gpu import IntegerRowsGpu
from .kernels.integer_tiles_gpu import IntegerTilesGpu
from .kernels.record_matmul import RecordMatmul
from .kernels.table_rows import TableRows
from .matrices import from_matrices, to_matrices
from .table_products import TableProduct

Rows = IntegerRows | IntegerRowsGpu | TableRows
Kernel = RecordMatmul | IntegerFewGpu | IntegerTilesGpu


def replace(
    module: ir.Module,
    product: IntegerProduct | TableProduct,
    rows: Rows | None,
    kernel: Kernel,
    weight: Sequence[ir.Value],
    bits: float,
    chain: Chain | None,
) -> None:
    """Declare both kernels, dispatch, bring the result back, and erase the product.

    Parameters
    ----------
    rows : IntegerRows or TableRows or IntegerRowsGpu or None
        What prepares the rows; None if `kernel` does.
    weight : sequence of Value
        The weight's tensors, as the kernel binds them.
    bits : float
        Stored bits of a weight, for reports.
    chain : Chain or None
        What the kernel's epilogue does in the place of the operations that follow.
    """
    op, matrices = product.op, product.matrices
    with ir.InsertionPoint(op if chain is None else chain.ops[-1]), op.location:
        x = build.collapse(to_matrices(product.activation, matrices, "rows"), [[0, 1], [2]])
        records = x if rows is None else _prepared(module, x, rows)
        m = build.index(kernel.m) if kernel.m is not None else _rows_of_each(x, kernel)
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
            kernel.name, kernel.grid(m), opened, [records, *weight, *extra],
            build.tensor_type(shape, ir.F32Type.get()), opened,
        )  # fmt: skip
        annotations.copy_annotations(op, call)
        call.attributes[annotations.BITS] = ir.FloatAttr.get(ir.F64Type.get(), bits)
        if chain is None:
            result = from_matrices(call.results[0], matrices, op)
            op.operation.results[0].replace_all_uses_with(result)
        else:
            epilogues.replace(chain, call.results[0])
    op.operation.erase()


def load_weight(
    module: ir.Module,
    given: ir.Value,
    shape: Sequence[int],
    derivation: dict[str, Any],
    parts: Sequence[tuple[str, Sequence[int], ir.Type]],
) -> list[ir.Value]:
    """Load what a kernel reads of a weight, derived from the parameter that `given` came from.

    Parameters
    ----------
    given : Value
        A part of the weight as the portable form loads it.
    shape : sequence of int
        ``[batch, N, K]`` of the model's weight; K may be -1.
    derivation : dict
        The new derivation, but for source, layout, moments, type of scales, and part.
    parts : sequence of (str, sequence of int, Type)
        Name, shape behind ``[batch, panels]``'s own, and element type of each part.
    """
    stored = add_operands.derivation_of(given)
    layout = simplify_layout([*json.loads(stored["layout"]), ["reshape", list(shape)]])
    derivation = {
        **derivation,
        **{key: stored[key] for key in ("source", "moments", "scales") if key in stored},
        "layout": json.dumps(layout, separators=(",", ":")),
    }
    symbol = ir.FlatSymbolRefAttr(defining(given).attributes["global"]).value
    holder = parameters.find_global(module, symbol)
    filled = "".join(
        f".{key[0]}{derivation[key]}" for key in ("quads", "words", "fives") if key in derivation
    )
    order = f"p{derivation['columns']}" if "columns" in derivation else derivation["order"]
    stem = f"{symbol.rpartition('.')[0]}{filled}.{order}"
    found = []
    for part, dims, element in parts:
        type_ = build.tensor_type(list(dims), element)
        name = parameters.derived_global(
            module, holder, f"{stem}.{part}", type_, {**derivation, "part": part}
        )
        found.append(build.load_global(name, type_))
    return found


def as_chain(found: Chain | Refusal) -> Chain | None:
    """Return a chain, or None where there is none."""
    return found if isinstance(found, Chain) else None


def _prepared(module: ir.Module, x: ir.Value, kernel: Rows) -> ir.Value:
    """Dispatch to the kernel that prepares f32 ``[m, K]``; return its records."""
    count = build.dim(x, 0)
    opened = [count] if kernel.m is None else []
    executable.declare(
        module, kernel.name, [True, False], len(opened), kernel.translation, kernel.emit
    )
    shape = [build.DYNAMIC if kernel.m is None else kernel.m, kernel.words]
    type_ = build.tensor_type(shape, ir.IntegerType.get_signless(32))
    call = executable.dispatch(kernel.name, kernel.grid(count), opened, [x], type_, opened)
    records: ir.Value = call.results[0]
    return records


def _rows_of_each(x: ir.Value, kernel: Kernel) -> ir.Value:
    return arith.divui(build.dim(x, 0), build.index(kernel.batch))
