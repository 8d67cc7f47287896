"""Rewrite multiplications outside matmuls into integer additions, where a rule asks for it."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import additive, annotations
from .additive import Addition
from .assign_forms import elementwise_multiplications, form_of
from .base import RemarkKind
from .count_operations import operations_of_body
from .formats.floats import F32, FORMATS
from .forms import Form


def run(module: ir.Module, name: str, remark: Callable[..., None]) -> None:
    """Rewrite the multiplications in every element-wise operation of form `name`.

    Each is added in its own type.  ``finite`` specials need the exponent of f32; other types get
    ``full`` ones.
    """
    for op in annotations.matmuls(module):
        form = form_of(op)
        if form.form != name or form.of != "elementwise":
            continue
        products, before = elementwise_multiplications(op), operations_of_body(op)
        for product in products:
            _rewrite(product, form)
        text = f"{len(products)} multiplications by added patterns, {form.specials} specials"
        annotations.set_text(op, annotations.LOWERING, text)
        facts = {"specials": form.specials, "exact": before}
        annotations.set_text(op, annotations.PRODUCT, json.dumps(facts))
        remark(RemarkKind.APPLIED, op, annotations.text(op, annotations.MATMUL), text)


def _rewrite(op: Any, form: Form) -> None:
    type_ = op.results[0].type
    fmt = FORMATS[str(type_)]
    has_range = fmt.exponent_bits == F32.exponent_bits
    chosen = dataclasses.replace(
        form,
        carrier=fmt.name,
        mantissa_bits=min(form.mantissa_bits, fmt.mantissa_bits),
        specials=form.specials if has_range else "full",
    )
    product = Addition.of_form(chosen)
    with ir.InsertionPoint(op), op.location:
        wide = [additive.to_carrier(value, product.carrier) for value in op.operands]
        first, second = (additive.bits_of(value) for value in wide)
        combine = additive.full if chosen.specials == "full" else additive.finite
        bits = combine(first, second, product)
        result = arith.bitcast(additive.float_type(product.carrier), bits)
        result = additive.to_carrier(result, fmt)
    op.results[0].replace_all_uses_with(result)
    op.erase()
