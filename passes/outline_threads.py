"""Products with weights in few bits as kernels for threads, for ``lowc-outline-kernels``.

One kernel takes f32 activations and those of 8 bits; the latter are rounded by IREE's code, once
for all products that share them.  For Vulkan both get it, for CUDA f32 activations of many rows.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import (
    annotations,
    build,
    dispatch_matmul,
    dispatch_records,
    epilogues,
    fuse_dequant,
    integer_products,
    outline_dequant,
    outline_integer,
)
from .assign_forms import form_of
from .base import Refusal
from .contraction import defining, dims_of, is_zero_fill
from .epilogues import Chain
from .formats import panels
from .formats.integer import element_bits
from .integer_products import IntegerProduct
from .kernels import dequant_threads
from .kernels.dequant_dots import DequantDots
from .kernels.dequant_threads import DequantThreads
from .kernels.gpu import MAX_WORKGROUPS
from .matrices import Matrices, as_matrices, to_matrices


@dataclass(frozen=True)
class Plan:
    """A product as matrices, its kernel, its codes as they are loaded, and what it multiplies.

    ``note`` says why it has no other kernel, where there is another one.
    """

    op: Any
    matrices: Matrices
    kernel: DequantThreads
    codes: ir.Value
    activation: ir.Value  # f32, or the product's if it is one of integers
    chain: Chain | Refusal
    product: IntegerProduct | None = None
    note: str = ""


def takes(op: Any) -> bool:
    """Whether `op` is a product with a weight of integers or small floats."""
    return outline_dequant.takes(op) or outline_integer.takes(op)


def match(op: Any, unit: str) -> Plan | Refusal:
    """Describe the kernel for `op`, or say why there is none.  Changes nothing."""
    if unit == "ptx":
        return _match_floats(op, unit)
    return _match_integers(op) if outline_integer.takes(op) else _match_floats(op, unit)


def _match_integers(op: Any) -> Plan | Refusal:
    product = integer_products.match(op)
    if isinstance(product, Refusal):
        return product
    scaled: Literal["row", "group"] = "row" if product.per_row else "group"
    k = product.groups * product.group
    kernel = _kernel(
        product.matrices, k, product.bits, product.group, scaled, symmetric=product.symmetric
    )
    if isinstance(kernel, Refusal):
        return kernel
    whole, chain = epilogues.on_gpu(op, product.matrices, kernel)
    return Plan(op, product.matrices, whole, product.codes, product.activation, chain, product)


def by_dots(plan: Plan) -> Plan:
    """Return a plan whose kernel multiplies four bytes at once, where it multiplies integers."""
    kernel = plan.kernel
    if kernel.scaled == "none":
        return plan
    facts = {field.name: getattr(kernel, field.name) for field in dataclasses.fields(kernel)}
    return dataclasses.replace(plan, kernel=DequantDots(**facts))


def _match_floats(op: Any, dialect: str) -> Plan | Refusal:
    found, form = fuse_dequant.match(op, words=True), form_of(op)
    if isinstance(found, Refusal):
        return found
    for value in (*found.contraction.operands, found.contraction.init):
        if build.element_of(value) != ir.F32Type.get():
            return Refusal(f"kernels multiply f32, not {build.element_of(value)}")
    if not form.has_integer_weights:
        return Refusal(f"kernels for GPUs read integers, not {form.weights}")
    if not is_zero_fill(found.contraction.init):
        return Refusal("the sums do not start at zero")
    matrices = as_matrices(op, 1 - found.activation)
    if isinstance(matrices, Refusal):
        return matrices
    order = (*matrices.batch_loops, *matrices.columns, *matrices.summed)
    if dims_of(matrices.maps["columns"]) != order:
        return Refusal("its weight is stored in another order than that of the result")
    codes = found.inputs[0]
    *_, groups, group = build.shape_of(codes)
    if build.element_of(codes).width > 8:
        group *= 32 // element_bits(form.bits)
    kernel = _kernel(matrices, groups * group, form.bits, group, "none", symmetric=form.symmetric)
    if isinstance(kernel, Refusal):
        return kernel
    kernel = dataclasses.replace(kernel, dialect=dialect)
    whole, chain = epilogues.on_gpu(op, matrices, kernel)
    return Plan(op, matrices, whole, codes, op.operands[found.activation], chain)


def _kernel(
    matrices: Matrices,
    k: int,
    bits: int,
    group: int,
    scaled: Literal["none", "group", "row"],
    *,
    symmetric: bool,
) -> DequantThreads | Refusal:
    batch, m, n = matrices.batch, matrices.m, matrices.n
    if n is None or matrices.k is None or (matrices.batch_in_columns and batch is None):
        return Refusal("its weight has a dynamic size")
    if 0 in (batch, m, n, matrices.k):
        return Refusal("one of its sizes is 0")
    try:
        panels.vectors_per_chunk(bits, group)
    except ValueError as error:
        return Refusal(str(error))
    tile = dequant_threads.choose_tile(m, n)
    kernel = DequantThreads(
        batch, m, n, k, matrices.batch_in_columns, bits, group, symmetric, scaled, tile
    )
    most = MAX_WORKGROUPS
    if any(count is not None and count > most for count in kernel.known_grid):
        return Refusal(f"a GPU starts at most {most} workgroups along one axis")
    return kernel


def rewrite(module: ir.Module, plan: Plan) -> None:
    """Dispatch to the kernel, with the operands laid out for it."""
    op, kernel, matrices = plan.op, plan.kernel, plan.matrices

    def operands() -> list[ir.Value]:
        weight = _weight(module, plan)
        if plan.product is not None:
            return _with_integers(plan, plan.product, weight)
        x = to_matrices(plan.activation, matrices, "rows")
        missing = kernel.k - (matrices.k or 0)
        return [build.pad_end(x, 2, missing) if missing else x, *weight]

    values = (32 if kernel.symmetric else 40) / kernel.group  # a scale, and a zero point in a byte
    bits = (kernel.bits + values) * kernel.k / (matrices.k or kernel.k)
    op.attributes[annotations.BITS] = ir.FloatAttr.get(ir.F64Type.get(), bits)
    chain = dispatch_records.as_chain(plan.chain)
    dispatch_matmul.replace(module, op, matrices, kernel, operands, chain)


def _with_integers(plan: Plan, product: IntegerProduct, weight: list[ir.Value]) -> list[ir.Value]:
    """Return codes and scales of the activation around the weight."""
    axis = product.axis
    rank = len(build.shape_of(product.x_codes))
    joined = [[d] if d < axis else [d, d + 1] if d == axis else [d + 1] for d in range(rank - 1)]
    codes = build.collapse(product.x_codes, joined)
    if isinstance(plan.kernel, DequantDots):
        i8 = ir.IntegerType.get_signless(8)
        codes = build.elementwise([codes], i8, lambda q, _: arith.trunci(i8, q)).result
    elif not plan.kernel.is_whole:
        f32 = ir.F32Type.get()
        codes = build.elementwise([codes], f32, lambda q, _: arith.sitofp(f32, q)).result
    return [to_matrices(codes, plan.matrices, "rows"), *weight, _scales(plan, product)]


def _scales(plan: Plan, product: IntegerProduct) -> ir.Value:
    scales = product.x_scales
    if product.per_row:
        scales = build.insert_units(scales, [product.axis])
    return to_matrices(scales, plan.matrices, "rows")


def _weight(module: ir.Module, plan: Plan) -> list[ir.Value]:
    """Load the weight's codes, scales and zeros in panels."""
    kernel, columns = plan.kernel, plan.kernel.tile.columns
    codes = defining(plan.codes)
    given = codes.operands[0] if codes.name == "util.optimization_barrier" else plan.codes
    derivation = {
        "kind": "integer-panels",
        "bits": kernel.bits,
        "group": kernel.group,
        "symmetric": kernel.symmetric,
        "columns": columns,
    }
    i32, i8 = (ir.IntegerType.get_signless(width) for width in (32, 8))
    batch = (kernel.batch or 1) if kernel.b_batch else 1
    head = [batch, kernel.panels]
    values = [*head, kernel.groups, columns]
    parts = [
        ("codes", [*head, kernel.words, columns], i32),
        ("scales", values, ir.F32Type.get()),
        *([] if kernel.symmetric else [("zeros", values, i8)]),
    ]
    return dispatch_records.load_weight(module, given, [batch, kernel.n, -1], derivation, parts)
