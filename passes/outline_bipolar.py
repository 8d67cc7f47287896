"""Products of bipolar integers as kernels, for ``lowc-outline-kernels``.

What it takes is what ``lowc-lower-bipolar`` makes.  It becomes two dispatches: one that codes the
right operand, and one that codes the rows of the left one, counts, and scales.  A weight is stored
coded, and takes the second alone.
"""

from dataclasses import dataclass
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import (
    add_operands,
    annotations,
    bipolar_products,
    build,
    dispatch_matmul,
    dispatch_records,
    epilogues,
)
from .base import Refusal
from .contraction import defining, unshaped
from .epilogues import Chain
from .kernels import executable, tiles
from .kernels.bipolar_codes import BipolarCodes
from .kernels.bipolar_columns import BipolarColumns
from .kernels.bipolar_matmul import BipolarMatmul
from .matrices import Matrices


@dataclass(frozen=True)
class Plan:
    """A product: its counts and what scales them, both f32 operands, and its kernel."""

    op: Any
    scaled: Any
    left: ir.Value  # [batch, m, K]
    right: ir.Value  # [batch, K, n], or the stored bits of a weight [batch, n, planes, words]
    matrices: Matrices
    kernel: BipolarMatmul
    chain: Chain | Refusal


def takes(op: Any) -> bool:
    """Whether `op` counts the bits in which bipolar integers differ."""
    return annotations.product_facts(op).get("kind") == bipolar_products.KIND


def match(op: Any, unit: str) -> Plan | Refusal:
    """Describe the kernels for `op`, or say why there are none.  Changes nothing."""
    if unit not in tiles.ISAS:
        return Refusal("kernels that count bits are for CPUs")
    facts, isa = annotations.product_facts(op), tiles.ISAS[unit]
    bits = op.operands[1]
    left, right = _coded(op.operands[0]), bits if add_operands.is_stored(bits) else _coded(bits)
    scaled = next(iter(op.results[0].uses)).owner
    columns = build.shape_of(right)[1 if right == bits else 2]
    shape = [*build.shape_of(left), columns]
    batch, m, k, n = (None if size == build.DYNAMIC else size for size in shape)
    if 0 in (batch, m, n):
        return Refusal("one of its sizes is 0")
    codes = BipolarCodes(facts["planes"], facts["k"], facts["scales"])
    if 4 * codes.words * codes.planes > tiles.STACK_BYTES:
        return Refusal(f"a row of {codes.k} coded inputs does not fit on a worker's stack")
    matrices = Matrices(
        batch_loops=(0,), rows=(1,), columns=(2,), summed=(3,), sizes=(batch, m, n, k),
        maps={
            "rows": build.dims_map(4, [0, 1, 3]),
            "columns": build.dims_map(4, [0, 3, 2]),
            "result": build.dims_map(4, range(3)),
        },
        batch_in_columns=True,
    )  # fmt: skip
    tile = tiles.choose_xor(isa, batch, m, n, codes.k, codes.planes)
    chain = epilogues.match(scaled, matrices)
    epilogue = chain.epilogue if isinstance(chain, Chain) else None
    kernel = BipolarMatmul(batch, m, n, k, True, tile, codes=codes, isa=isa, epilogue=epilogue)
    return Plan(op, scaled, left, right, matrices, kernel, chain)


def rewrite(module: ir.Module, plan: Plan) -> None:
    """Dispatch to the kernels."""
    op, scaled = plan.op, plan.scaled

    is_weight = add_operands.is_stored(plan.right)

    def operands() -> list[ir.Value]:
        right = _weight(module, plan) if is_weight else _columns(module, plan)
        return [plan.left, right]

    def sizes() -> dict[str, ir.Value]:
        # Not from what is erased: the counts.
        axes = {
            "batch": (plan.left, 0),
            "m": (plan.left, 1),
            "n": (plan.right, 1 + (not is_weight)),
        }
        found = {name: build.dim(value, axis) for name, (value, axis) in axes.items()}
        return {**found, "k": build.index(plan.kernel.codes.k)}

    # What read sizes of the counts may still do so; without names they are nobody's product.
    annotations.move_annotations(op, scaled)
    chain = dispatch_records.as_chain(plan.chain)
    dispatch_matmul.replace(
        module, scaled, plan.matrices, plan.kernel, operands, chain, sizes_of=sizes
    )


def _weight(module: ir.Module, plan: Plan) -> ir.Value:
    """Load the weight in panels."""
    kernel, codes = plan.kernel, plan.kernel.codes
    n, columns, batch = kernel.n or 0, kernel.tile.columns, kernel.batch or 1
    derivation = {
        "kind": "bipolar-panels", "planes": codes.planes, "scales": codes.scales,
        "columns": columns,
    }  # fmt: skip
    shape = [batch, -(-n // columns), codes.words * codes.planes + 1, columns]
    parts = [("panels", shape, ir.IntegerType.get_signless(32))]
    head = [batch, n, codes.k]
    (found,) = dispatch_records.load_weight(module, plan.right, head, derivation, parts)
    return found


def _columns(module: ir.Module, plan: Plan) -> ir.Value:
    """Dispatch to the kernel that codes the right operand; return its panels."""
    kernel = BipolarColumns(plan.kernel.batch, plan.kernel.n, plan.kernel.codes, plan.kernel.tile)
    batch, n = build.dim(plan.right, 0), build.dim(plan.right, 2)
    opened = [v for v, size in ((batch, kernel.batch), (n, kernel.n)) if size is None]
    executable.declare(
        module, kernel.name, [True, False], len(opened), kernel.translation, kernel.emit
    )
    columns = kernel.tile.columns
    panels = build.DYNAMIC if kernel.n is None else -(-kernel.n // columns)
    head = [build.DYNAMIC if kernel.batch is None else kernel.batch, panels]
    type_ = build.tensor_type([*head, kernel.rows, columns], ir.IntegerType.get_signless(32))
    counts = [batch] if kernel.batch is None else []
    counts += [arith.ceildivui(n, build.index(columns))] if kernel.n is None else []
    grid = kernel.grid(batch, n)
    call = executable.dispatch(kernel.name, grid, opened, [plan.right], type_, counts)
    panels_: ir.Value = call.results[0]
    return panels_


def _coded(bits: ir.Value) -> ir.Value:
    """Return the f32 operand whose bits these are."""
    codes = unshaped(defining(bits).operands[0])
    if defining(codes).name == "tensor.pad":
        codes = defining(codes).operands[0]
    value: ir.Value = defining(codes).operands[0]
    return value
