"""Products with binary-coded weights by additions of activations, and the sums that scale them.

With result dimensions r0 …, units U of K (groups, or the spans of ``table_products.py``), planes
and terms, a product is these operations, of which the last is the matmul for reports::

    P = sum over a group of ±x            [r0 …, G, planes]     f32
    Y = sum over U, planes, terms of P shifted by a term        f32

The order of both sums is that of ``formats/binary_codes.py``.
"""

from __future__ import annotations

import json
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import annotations, binary_weights, build, shift_add
from .binary_weights import WORD, Cut, Plan
from .integer_products import as_before

KIND = "signed-sums"  # in the facts of ``lowc.product``


def rewrite(module: ir.Module, plan: Plan) -> Any:
    """Build the product before the old operation, and replace it; return the last operation."""
    op = plan.found.contraction.op
    with ir.InsertionPoint(op), op.location:
        cut = Cut(plan)
        made = shifted(module, cut, _partial_sums(module, cut))
    return replace(plan, made, KIND)


def replace(plan: Plan, made: Any, kind: str) -> Any:
    """Put the product `made` into the place of the old operation; return it."""
    contraction = plan.found.contraction
    op = contraction.op
    annotations.copy_annotations(op, made)
    with ir.InsertionPoint(op), op.location:
        annotations.set_text(made, annotations.PRODUCT, json.dumps(plan.facts(kind)))
        bits = ir.FloatAttr.get(ir.F64Type.get(), plan.bits_per_weight)
        made.attributes[annotations.BITS] = bits
        result = as_before(made.results[0], contraction.init)
    op.operation.results[0].replace_all_uses_with(result)
    op.operation.erase()
    return made


def _partial_sums(module: ir.Module, cut: Cut) -> ir.Value:
    """Return P: ``[r0 …, groups, planes]``."""
    plan, axis = cut.plan, cut.axis
    value = cut.activation()
    # K is cut into [groups, words of one, 32], or [words, groups of one, inputs of a group].
    if cut.has_parts:
        value = build.expand_last(value, plan.words, WORD, axis)
        value = build.expand_last(value, WORD // plan.unit, plan.unit, axis + 1)
    else:
        value = build.expand_last(value, plan.units, plan.unit, axis)
        value = build.expand_last(value, plan.unit // WORD, WORD, axis + 1)
    parts = [*cut.unit_loops, *cut.word_loops, cut.inner]
    loops = cut.inner + 1
    x_loops = [loop for d in cut.x_dims for loop in (parts if d == cut.k else [d])]
    words, word_loops = cut.signs(module)
    init = plan.found.contraction.init
    zero = build.zeros(
        [*build.shape_of(init), *cut.unit_sizes, plan.form.planes],
        ir.F32Type.get(), build.dynamic_sizes(init),
    )  # fmt: skip
    maps = [build.dims_map(loops, dims) for dims in (x_loops, word_loops, range(cut.plane + 1))]
    kinds = ["parallel" if loop <= cut.plane else "reduction" for loop in range(loops)]

    def body(x: ir.Value, word: ir.Value, total: ir.Value) -> ir.Value:
        place = cut.bit(build.loop_index(cut.inner))
        return arith.addf(total, shift_add.flipped(x, word, place))

    return cut.joined(cut.is_part(build.generic([value, words], zero, maps, kinds, body)).result)


def shifted(module: ir.Module, cut: Cut, partial: ir.Value) -> Any:
    """Return Y from partial sums ``[r0 …, units, planes]`` of f32: the last operation."""
    plan, k = cut.plan, cut.k
    terms, rows = binary_weights.load_terms(module, plan)
    per_group = plan.group // plan.unit
    # Loops: result, groups, units of a group if there are several, planes, terms.
    units = [k]
    if per_group > 1:
        partial = build.expand_last(partial, plan.units // per_group, per_group, k)
        units = [k, k + 1]
    plane, term = units[-1] + 1, units[-1] + 2
    loops = term + 1
    leading = cut.rows[: plan.found.batches] if rows == plan.found.batches else cut.rows
    init = plan.found.contraction.init
    zero = build.zeros(build.shape_of(init), ir.F32Type.get(), build.dynamic_sizes(init))
    maps = [
        build.dims_map(loops, [*range(k), *units, plane]),
        build.dims_map(loops, [*leading, k, plane, term]),
        build.dims_map(loops, range(k)),
    ]
    kinds = ["parallel" if loop < k else "reduction" for loop in range(loops)]

    def body(value: ir.Value, term: ir.Value, total: ir.Value) -> ir.Value:
        return arith.addf(total, shift_add.shift(value, term))

    return build.generic([partial, terms], zero, maps, kinds, body).operation
