"""Products of f32 activations and weights in few bits as kernels, for ``lowc-outline-kernels``."""

import json
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir

from . import annotations, build, dispatch_matmul, epilogues, parameters, shared_panels
from .assign_forms import form_of
from .base import Refusal
from .contraction import defining, dims_of, is_zero_fill
from .epilogues import Chain
from .formats import panels
from .forms import Form
from .fuse_dequant import Dequantised
from .fuse_dequant import match as match_dequantised
from .kernels import float_tiles, tiles
from .kernels.dequant_matmul import DequantMatmul
from .kernels.packed_codes import PackedCodes, can_look_up
from .kernels.small_float_codes import SmallFloatCodes
from .matrices import Matrices, as_matrices, to_matrices


@dataclass(frozen=True)
class Plan:
    """A product over a dequantised weight as matrices, the kernel, and what it does with sums."""

    op: Any
    found: Dequantised
    matrices: Matrices
    kernel: DequantMatmul
    chain: Chain | Refusal


def takes(op: Any) -> bool:
    """Whether `op` is a product with a weight that ``lowc-quantize-weights`` stored in few bits."""
    return annotations.BITS in op.attributes and annotations.PRODUCT not in op.attributes


def match(op: Any, unit: str) -> Plan | Refusal:
    """Describe the kernel for `op`, or say why there is none.  Changes nothing."""
    found, form = match_dequantised(op), form_of(op)
    if isinstance(found, Refusal):
        return found
    why = _outside_kernels(found, form)
    if why:
        return Refusal(why)
    columns = 1 - found.activation
    matrices = as_matrices(op, columns)
    if isinstance(matrices, Refusal):
        return matrices
    if 0 in (matrices.batch, matrices.m, matrices.n, matrices.k):
        return Refusal("one of its sizes is 0")
    order = (*matrices.batch_loops, *matrices.columns, *matrices.summed)
    if dims_of(matrices.maps["columns"]) != order:
        return Refusal("its weight is stored in another order than that of the result")
    n, k = matrices.n, matrices.k
    if n is None or k is None or (matrices.batch_in_columns and matrices.batch is None):
        return Refusal("its weight has a dynamic size")
    group = build.shape_of(found.inputs[0])[-1]
    codes = _codes(form, group, tiles.ISAS[unit])
    tile = float_tiles.choose_dequant(
        tiles.ISAS[unit],
        matrices.batch,
        matrices.m,
        n,
        k,
        codes.chunk,
        shared_panels.columns_on(op),
    )
    chain = epilogues.match(op, matrices)
    kernel = DequantMatmul(
        matrices.batch, matrices.m, n, k, matrices.batch_in_columns, tile, packs=True,
        copies=float_tiles.copies(tiles.ISAS[unit], tile, matrices.m, k),
        codes=codes, group=group, symmetric=form.symmetric,
        has_halves=form.scales == "f16" and tiles.ISAS[unit].halves,
        epilogue=chain.epilogue if isinstance(chain, Chain) else None,
    )  # fmt: skip
    return Plan(op, found, matrices, kernel, chain)


def stored_as(plan: Plan) -> str:
    """Return what the panels of the weight are called, whatever their columns."""
    holder = _holder(parameters.module_of(plan.op), plan.found.inputs[0])
    return annotations.text(holder, "sym_name").removesuffix(".codes")


def _codes(form: Form, group: int, isa: tiles.Isa) -> PackedCodes:
    if form.has_integer_weights:
        can = can_look_up(form.bits, isa.lanes, symmetric=form.symmetric)
        return PackedCodes(form.bits, panels.chunk_of(group), looked_up=can and isa.vnni)
    return SmallFloatCodes.of(form.weights, isa.lanes)


def _outside_kernels(found: Dequantised, form: Form) -> str:
    """Say why no kernel does what the product does, or nothing."""
    for value in (*found.contraction.operands, found.contraction.init):
        element = build.element_of(value)
        if element != ir.F32Type.get():
            return f"kernels multiply f32, not {element}"
    group = build.shape_of(found.inputs[0])[-1]
    if form.bits % 2 and panels.chunk_of(group) != panels.CHUNK:
        return f"groups of {group} codes of {form.bits} bits end within a word"
    if not is_zero_fill(found.contraction.init):
        return "the sums do not start at zero"
    return ""


def rewrite(module: ir.Module, plan: Plan) -> None:
    """Dispatch to the kernel, with the operands laid out for it."""
    op, matrices = plan.op, plan.matrices

    def operands() -> list[ir.Value]:
        left = to_matrices(op.operands[plan.found.activation], matrices, "rows")
        return [left, *_load_panels(module, plan)]

    op.attributes[annotations.BITS] = ir.FloatAttr.get(ir.F64Type.get(), _bits_per_weight(plan))
    reshape = defining(op.operands[1 - plan.found.activation])
    chain = plan.chain if isinstance(plan.chain, Chain) else None
    dispatch_matmul.replace(module, op, matrices, plan.kernel, operands, chain)
    erase_unread(reshape)


def erase_unread(op: Any) -> None:
    """Erase what made the weight a float; the barrier in it would keep the codes for ever."""
    if op is None or any(list(result.uses) for result in op.results):
        return
    operands = list(op.operands)
    op.operation.erase()
    for operand in operands:
        erase_unread(defining(operand))


def _bits_per_weight(plan: Plan) -> float:
    """Return the bits of a weight in panels: codes are no longer 4 or 8 bits wide."""
    kernel, element = plan.kernel, build.element_of(plan.found.inputs[0])
    values = (32 if kernel.symmetric else 40) / kernel.group  # a scale, and a zero point in a byte
    before: float = plan.op.attributes[annotations.BITS].value
    stored = kernel.codes.bits + values
    if kernel.has_halves:
        stored += 32 / (kernel.k or 1) - 16 / kernel.group  # a factor, and half of a scale less
    return before * stored / (element.width + values)


def _load_panels(module: ir.Module, plan: Plan) -> list[ir.Value]:
    """Load codes, scales and zeros as the kernel reads them."""
    kernel, columns = plan.kernel, plan.kernel.tile.columns
    holder = _holder(module, plan.found.inputs[0])
    derivation = annotations.from_attribute(holder.attributes[annotations.DERIVATION])
    shape = build.shape_of(plan.found.inputs[0])
    n, k = kernel.n or 0, kernel.k or 0
    batch = (kernel.batch or 1) if kernel.b_batch else 1
    groups = shape[-2]
    steps = json.loads(derivation["layout"])
    if isinstance(kernel.codes, SmallFloatCodes):
        derivation.update(kind="small-float-panels", columns=columns)
    else:
        derivation.update(kind="integer-panels", columns=columns)
    derivation["layout"] = json.dumps([*steps, ["reshape", [batch, n, -1]]], separators=(",", ":"))
    head = [batch, -(-n // columns)]
    i32, i8 = (ir.IntegerType.get_signless(width) for width in (32, 8))
    words = k // kernel.codes.chunk * kernel.codes.words
    parts = {
        "codes": ([*head, words, columns], i32),
        "scales": ([*head, groups, columns], ir.F32Type.get()),
    }
    if not kernel.symmetric:
        parts["zeros"] = ([*head, groups, columns], i8)
    if kernel.has_halves:
        derivation["halves"] = True
        parts["scales"] = ([*head, groups, columns], ir.F16Type.get())
        parts["factors"] = ([*head, columns], ir.F32Type.get())
    name = stored_as(plan)
    found = []
    for part, (sizes, element) in parts.items():
        type_ = build.tensor_type(sizes, element)
        symbol = parameters.derived_global(
            module, holder, f"{name}.p{columns}.{part}", type_, {**derivation, "part": part}
        )
        found.append(build.load_global(symbol, type_))
    return found


def _holder(module: ir.Module, value: ir.Value) -> Any:
    """Return the global that the codes were loaded from, behind the barrier."""
    op = defining(value)
    if op.name == "util.optimization_barrier":
        op = defining(op.operands[0])
    return parameters.find_global(module, ir.FlatSymbolRefAttr(op.attributes["global"]).value)
