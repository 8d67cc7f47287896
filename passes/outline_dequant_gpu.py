"""Products of f32 activations and weights in few bits as kernels for NVIDIA's GPUs.

There is one for few rows and weights of 4 or 8 bits, which reads each weight once and makes it f32
in registers.  The others get the kernel for threads that Vulkan has too (:mod:`.outline_threads`).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir

from . import (
    annotations,
    build,
    dispatch_matmul,
    dispatch_records,
    epilogues,
    fuse_dequant,
    outline_dequant,
    outline_threads,
)
from .assign_forms import form_of
from .base import Refusal
from .contraction import defining, dims_of, is_zero_fill
from .epilogues import Chain
from .formats import gpu_rows
from .forms import Form
from .fuse_dequant import Dequantised
from .kernels import dequant_few_gpu, few_rows_gpu
from .kernels.dequant_few_gpu import DequantFewGpu
from .kernels.gpu import MAX_WORKGROUPS
from .matrices import Matrices, as_matrices, to_matrices
from .outline_integer_gpu import TOO_MANY, parts_of


@dataclass(frozen=True)
class PlanGpu:
    """A product over a dequantised weight as matrices, and its kernel."""

    op: Any
    found: Dequantised
    matrices: Matrices
    kernel: DequantFewGpu
    chain: Chain | Refusal


def takes(op: Any) -> bool:
    """Whether `op` is a product with a weight that ``lowc-quantize-weights`` stored in few bits."""
    return outline_dequant.takes(op)


def match(op: Any, unit: str) -> PlanGpu | outline_threads.Plan | Refusal:
    """Describe the kernel for `op`, or say why there is none.  Changes nothing."""
    few = _match_few(op)
    if not isinstance(few, Refusal):
        return few
    found = outline_threads.match(op, unit)
    if isinstance(found, Refusal):
        return found
    return dataclasses.replace(found, note=f"not by the kernel for few rows: {few.reason}")


def _match_few(op: Any) -> PlanGpu | Refusal:
    """Describe the kernel of few rows for `op`, or say why it is none for it."""
    found, form = fuse_dequant.match(op), form_of(op)
    if isinstance(found, Refusal):
        return found
    why = _outside(found, form)
    if why:
        return Refusal(why)
    matrices = as_matrices(op, 1 - found.activation)
    if isinstance(matrices, Refusal):
        return matrices
    order = (*matrices.batch_loops, *matrices.columns, *matrices.summed)
    if dims_of(matrices.maps["columns"]) != order:
        return Refusal("its weight is stored in another order than that of the result")
    group = build.shape_of(found.inputs[0])[-1]
    kernel = _kernel(matrices, group, form)
    if isinstance(kernel, Refusal):
        return kernel
    return PlanGpu(op, found, matrices, *epilogues.on_gpu(op, matrices, kernel))


def _kernel(matrices: Matrices, group: int, form: Form) -> DequantFewGpu | Refusal:
    """Return the kernel for a product of such sizes, or say why there is none."""
    batch, m, n, k = matrices.batch, matrices.m, matrices.n, matrices.k
    if 0 in (batch, m, n, k):
        return Refusal("one of its sizes is 0")
    if n is None or k is None or batch is None:
        return Refusal("its weight has a dynamic size")
    if m is None:
        return Refusal("it knows the number of rows, which is dynamic")
    most = dequant_few_gpu.MOST_ROWS
    if m > most:
        return Refusal(f"{m} rows are more than {most}, the most that it takes")
    why = TOO_MANY if batch > MAX_WORKGROUPS else gpu_rows.misfit(k, group)
    if not why and not gpu_rows.span_of(k, group, form.bits):
        why = f"groups of {group} do not fit rows of {k}"
    tile = None if why else few_rows_gpu.choose(m, n, k, form.bits, group, whole=True, floats=True)
    if tile is None:
        return Refusal(why or f"groups of {group} do not fit rows of {k}")
    return DequantFewGpu(batch, m, n, k, form.bits, group, form.symmetric, tile)


def _outside(found: Dequantised, form: Form) -> str:
    """Say why no kernel does what the product does, or nothing."""
    for value in (*found.contraction.operands, found.contraction.init):
        element = build.element_of(value)
        if element != ir.F32Type.get():
            return f"kernels multiply f32, not {element}"
    if not form.has_integer_weights:
        return f"kernels for GPUs read integers, not {form.weights}"
    if form.bits not in gpu_rows.WIDTHS:
        return f"it reads weights of 4 or 8 bits, not {form.bits}"
    if not is_zero_fill(found.contraction.init):
        return "the sums do not start at zero"
    return ""


def rewrite(module: ir.Module, plan: PlanGpu | outline_threads.Plan) -> None:
    """Dispatch to the kernel, with the operands laid out for it."""
    if isinstance(plan, outline_threads.Plan):
        outline_threads.rewrite(module, plan)
        return
    op, kernel = plan.op, plan.kernel
    reshape = defining(op.operands[1 - plan.found.activation])

    def operands() -> list[ir.Value]:
        x = to_matrices(op.operands[plan.found.activation], plan.matrices, "rows")
        whole = gpu_rows.padded(kernel.k, kernel.group)
        return [build.pad_to_multiple(x, 2, whole), *_load(module, plan)]

    values = (32 if kernel.symmetric else 40) / kernel.group
    before: float = op.attributes[annotations.BITS].value
    width = build.element_of(plan.found.inputs[0]).width
    bits = before * (kernel.bits + values) / (width + values)
    op.attributes[annotations.BITS] = ir.FloatAttr.get(ir.F64Type.get(), bits)
    chain = dispatch_records.as_chain(plan.chain)
    dispatch_matmul.replace(module, op, plan.matrices, kernel, operands, chain)
    outline_dequant.erase_unread(reshape)


def _load(module: ir.Module, plan: PlanGpu) -> list[ir.Value]:
    """Load codes, scales and zeros as the kernel reads them."""
    kernel, codes = plan.kernel, plan.found.inputs[0]
    barrier = defining(codes)
    if barrier.name == "util.optimization_barrier":
        codes = barrier.operands[0]
    derivation = {
        "kind": "gpu-rows",
        "order": f"float{kernel.span}",
        "span": kernel.span,
        "bits": kernel.bits,
        "group": kernel.group,
        "symmetric": kernel.symmetric,
    }
    return dispatch_records.load_weight(
        module, codes, [kernel.batch, kernel.n, -1], derivation, parts_of(kernel)
    )
