"""Rewrite matmuls, batch matmuls and convolutions into integer additions (L-Mul, PAM)."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import add_operands, additive, annotations, build, parameters
from .add_operands import StoredWeight
from .additive import Addition
from .assign_forms import form_of
from .base import Refusal, RemarkKind
from .contraction import (
    NO_WEIGHT,
    Contraction,
    Weight,
    find_weight,
    is_zero_fill,
    match_product,
    multiplies_and_adds,
)
from .formats.floats import F32, FORMATS
from .formats.lmul import slope
from .formats.stored import STORED
from .forms import Form


@dataclass(frozen=True)
class Plan:
    """What the rewrite needs: the contraction, its form, and its weight if that is stored anew."""

    contraction: Contraction
    form: Form
    product: Addition
    weight: StoredWeight | None = None
    unstored: str = ""  # why nothing is stored as the form's `weights` say


def run(module: ir.Module, name: str, default: Form | None, remark: Callable[..., None]) -> None:
    """Rewrite every matmul of form `name`; those that no recipe gave a form take `default`."""
    # Found before anything is rewritten: that erases operations together with their bodies.
    products = [
        op for op in annotations.operations(module) if isinstance(match_product(op), Contraction)
    ]
    for op in products:
        assigned = annotations.FORM in op.attributes
        form = form_of(op) if assigned else default
        if form is None or form.form != name or form.of != "matmul":
            continue
        plan = match(module, op, form)
        subject = annotations.text(op, annotations.MATMUL) or op.name
        if isinstance(plan, Plan):
            remark(RemarkKind.APPLIED, op, subject, describe(plan))
            rewrite(module, plan)
        elif assigned:
            annotations.set_text(op, annotations.LOWERING, f"exact ({plan.reason})")
            remark(RemarkKind.REFUSED, op, subject, f"not rewritten: {plan.reason}")


def match(module: ir.Module, op: Any, form: Form) -> Plan | Refusal:
    """Describe how `op` would be rewritten, or say why not.  Changes nothing."""
    found = match_product(op)
    if isinstance(found, Refusal):
        return found
    for value in (*found.operands, found.init):
        element = str(build.element_of(value))
        if element not in FORMATS:
            return Refusal(f"it is on {element}; bit patterns are added of {', '.join(FORMATS)}")
    if not multiplies_and_adds(op):
        return Refusal("its body is not one multiplication and one addition of floats")
    weight = _match_weight(module, found, form)
    if isinstance(weight, Refusal):
        unstored, traced = "", find_weight(found)
        if form.weights and isinstance(traced, Weight):
            return Refusal(f"its weight cannot be stored as {form.weights}: {weight.reason}")
        if form.weights and isinstance(traced, Refusal) and traced.reason != NO_WEIGHT:
            unstored = f"nothing stored as {form.weights}: {traced.reason}"
        form = dataclasses.replace(form, weights="")
        return Plan(found, form, Addition.of_form(form), unstored=unstored)
    return Plan(found, form, Addition.of_form(form), weight)


def _match_weight(module: ir.Module, found: Contraction, form: Form) -> StoredWeight | Refusal:
    """Describe the weight of `found` if it can be stored as it is added."""
    if form.specials == "full":
        return Refusal("products with full specials read weights as they are")
    if form.carrier != "f32":
        return Refusal(f"weights are stored as f32 patterns, not rounded to {form.carrier}")
    weight = find_weight(found)
    if isinstance(weight, Refusal):
        return weight
    holder = parameters.find_global(module, weight.symbol)
    source = parameters.parameter_key(holder) if holder is not None else None
    if source is None:
        return Refusal(f"the global '{weight.symbol}' is no parameter, or the model writes to it")
    order = _storage_order(found, weight)
    if 0 in weight.shape or order is None:
        return Refusal("it is empty, or has dimensions that the product has not")
    return StoredWeight(weight, source, order, STORED[form.weights or "f32"])


def _storage_order(found: Contraction, weight: Weight) -> tuple[tuple[int, ...], ...] | None:
    """Return the loops of the weight as (batch, K, N), or None if it has others."""
    parts = tuple(
        tuple(loop for loop in part if loop in weight.dims)
        for part in (found.batch, found.k, _free_loops(found, weight))
    )
    return parts if sum(map(len, parts)) == len(weight.dims) else None


def _free_loops(found: Contraction, weight: Weight) -> tuple[int, ...]:
    """Return the loops that only the weight has: N, or M where it is the left operand."""
    return found.m if weight.position == 0 else found.n


def rewrite(module: ir.Module, plan: Plan) -> None:
    """Build the sum of added bit patterns before the old operation, and replace it."""
    found = plan.contraction
    op = found.op
    with ir.InsertionPoint(op), op.location:
        operands, maps = _operands(module, plan)
        zero = build.zeros(
            build.shape_of(found.init), ir.F32Type.get(), build.dynamic_sizes(found.init)
        )
        loops = found.maps[0].n_dims
        kinds = ["reduction" if loop in found.k else "parallel" for loop in range(loops)]
        sums = build.generic(operands, zero, [*maps, found.maps[2]], kinds, _body(plan)).operation
        annotations.copy_annotations(op, sums)
        annotations.set_text(sums, annotations.LOWERING, describe(plan))
        annotations.set_text(sums, annotations.PRODUCT, json.dumps(_facts(plan)))
        if plan.weight is not None:
            sums.attributes[annotations.BITS] = ir.FloatAttr.get(
                ir.F64Type.get(), plan.weight.bits_per_weight
            )
        result = _finish(module, plan, sums.results[0])
    op.operation.results[0].replace_all_uses_with(result)
    op.operation.erase()


def describe(plan: Plan) -> str:
    """Say in words what became of the product."""
    form = plan.form
    parts = [f"{form.carrier} patterns added, {plan.product.mantissa_bits} mantissa bits"]
    parts.append(f"{form.specials} specials")
    if form.weights:
        kept = min(plan.product.mantissa_bits, FORMATS[form.weights].mantissa_bits)
        parts.append(f"weight as {form.weights} ({kept} bits)")
    if form.accumulate != "f32":
        parts.append(f"sum rounded to {form.accumulate}")
    if form.gain:
        parts.append("gain corrected")
    if plan.unstored:
        parts.append(plan.unstored)
    return ", ".join(parts)


def _facts(plan: Plan) -> dict[str, Any]:
    """Return what a kernel must know of the product; see ``outline_additive.py``."""
    return {
        "constant": plan.product.constant,
        "mantissa-bits": plan.product.mantissa_bits,
        "specials": plan.form.specials,
        "accumulate": plan.form.accumulate,
        "carrier": plan.form.carrier,
    }


def _operands(module: ir.Module, plan: Plan) -> tuple[list[ir.Value], list[ir.AffineMap]]:
    """Return both operands as the body reads them, and their maps."""
    found, carrier = plan.contraction, FORMATS[plan.form.carrier]
    maps = list(found.maps[:2])
    if plan.form.specials == "full":
        return [add_operands.rounded(value, carrier) for value in found.operands], maps
    values = []
    for position, value in enumerate(found.operands):
        if plan.weight is not None and position == plan.weight.weight.position:
            values.append(add_operands.load_bits(module, plan.weight, plan.product))
            maps[position] = build.dims_map(found.maps[0].n_dims, plan.weight.loops)
            continue
        less = plan.product.constant if position == _shifted(plan) else 0
        values.append(add_operands.prepared(value, carrier, plan.product, less))
    return values, maps


def _shifted(plan: Plan) -> int:
    """Return the operand that the constant is subtracted from: an activation, the left of two."""
    return 1 if plan.weight is not None and plan.weight.weight.position == 0 else 0


def _body(plan: Plan) -> Callable[..., ir.Value]:
    f32 = ir.F32Type.get()

    def finite(a: ir.Value, b: ir.Value, acc: ir.Value) -> ir.Value:
        if plan.weight is None:
            return _accumulate(plan, acc, arith.bitcast(f32, arith.addi(a, b)))
        pattern, weight = (a, b) if _shifted(plan) == 0 else (b, a)
        total = additive.add_stored(pattern, weight, plan.weight.stored)
        return _accumulate(plan, acc, arith.bitcast(f32, total))

    def full(a: ir.Value, b: ir.Value, acc: ir.Value) -> ir.Value:
        bits = additive.full(additive.bits_of(a), additive.bits_of(b), plan.product)
        value = arith.bitcast(additive.float_type(plan.product.carrier), bits)
        return _accumulate(plan, acc, additive.to_carrier(value, F32))

    return full if plan.form.specials == "full" else finite


def _accumulate(plan: Plan, acc: ir.Value, value: ir.Value) -> ir.Value:
    total = arith.addf(acc, value)
    if plan.form.accumulate == "f32":
        return total
    return additive.round_to(total, FORMATS[plan.form.accumulate])


def _finish(module: ir.Module, plan: Plan, sums: ir.Value) -> ir.Value:
    """Scale the sums, add what the product was added to, and round to the model's type."""
    found, f32 = plan.contraction, ir.F32Type.get()
    type_ = build.element_of(found.init)
    identity = build.identity_map(len(build.shape_of(sums)))
    inputs, maps = [sums], [identity]
    scaled = plan.weight is not None and plan.weight.stored.is_scaled
    if plan.weight is not None and scaled:
        inputs.append(add_operands.load_scales(module, plan.weight, plan.product))
        maps.append(add_operands.scales_map(plan.weight, found.maps[2]))
    starts = not is_zero_fill(found.init)
    if starts:
        inputs.append(found.init)
        maps.append(identity)
    factor = 1.0
    if plan.form.gain:
        kept, offset = plan.form.mantissa_bits, plan.form.form == "lmul"
        weight_bits = FORMATS[plan.form.weights].mantissa_bits if plan.form.weights else 0
        factor = 1 / slope(kept, offset=offset, carrier=plan.form.carrier, weight_bits=weight_bits)
    if len(inputs) == 1 and factor == 1.0 and type_ == f32:
        return sums

    def body(value: ir.Value, *rest: ir.Value) -> ir.Value:
        extra = list(rest)
        if scaled:
            value = arith.mulf(value, extra.pop(0))
        if factor != 1.0:
            value = arith.mulf(value, arith.constant(f32, factor))
        if starts:
            value = arith.addf(value, additive.to_carrier(extra.pop(0), F32))
        return additive.to_carrier(value, FORMATS[str(type_)])

    return build.elementwise(inputs, type_, body, maps).operation.results[0]
