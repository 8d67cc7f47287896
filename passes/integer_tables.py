"""Products with integer weights by look-up: built as linalg, and recognised again.

The numbers are those of ``formats/bit_planes.py``.  Tables t, exponents e and looked up sums P are
those of ``table_products.py``; with them, a product goes on::

    O = sum of the entries 15 of a span      [x dims, S]      i32
    D = sum over planes of P << plane        [r0 …, S]        i32
    F = D - z' * O, shifted by e             [r0 …, S]        f32
    G = sum over the spans of a group        [r0 …, G]        f32, where there are several
    Y = sum over G of these * scales         [r0 …]           f32
"""

import json
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith, linalg, tensor

from . import annotations, binary_weights, build, signed_sums, table_products
from .base import Refusal
from .binary_weights import Cut, Plan
from .contraction import defining, unshaped
from .formats.tables import ENTRIES, QUAD
from .table_products import TableProduct

KIND = "integer-tables"  # in the facts of ``lowc.product``


def rewrite(module: ir.Module, plan: Plan, *, entry_width: int = 8) -> Any:
    """Build the product before the old operation, and replace it; return the last operation.

    Entries are stored in `entry_width` bits.
    """
    op = plan.found.contraction.op
    with ir.InsertionPoint(op), op.location:
        cut = Cut(plan)
        entries, fields = table_products.tables_of(cut, entry_width)
        sums = _joined(cut, table_products.looked_up(module, cut, entries))
        ones = _ones(cut, entries)
        spans = _scaled(module, cut, sums, fields, ones)
        made = _by_scales(module, cut, signed_sums.of_groups(cut, spans))
    facts = json.dumps({**plan.facts(KIND), "symmetric": plan.form.symmetric})
    return signed_sums.put(plan.found, made, made.results[0], facts, plan.bits_per_weight)


def match(op: Any) -> TableProduct | Refusal:
    """Describe what :func:`rewrite` built, by its last operation.  Changes nothing."""
    facts = annotations.product_facts(op)
    if facts.pop("kind", None) != KIND:
        return Refusal("it is no product by look-up")
    scaled = table_products.scaled_sums(op, facts)
    joined = defining(unshaped(scaled.operands[0]))
    looked_up = defining(unshaped(joined.operands[0]))
    return table_products.describe(op, facts, scaled, looked_up)


def _ones(cut: Cut, entries: ir.Value) -> ir.Value:
    """Return O: the sums of all activations of a span, as the tables have them."""
    shape = build.shape_of(entries)
    inside = (cut.axis + 1, cut.axis + 2)
    kept = [d for d in range(len(shape)) if d not in inside]
    type_ = ir.IntegerType.get_signless(32)
    init = build.empty([shape[d] for d in kept], type_, build.dynamic_sizes(entries))

    def body(_out: ir.Value) -> ir.Value:
        total = arith.constant(type_, 0)
        for quad in range(cut.plan.span // QUAD):
            at = [build.loop_index(d) for d in range(len(kept))]
            at[cut.axis + 1 : cut.axis + 1] = [build.index(quad), build.index(ENTRIES - 1)]
            total = arith.addi(total, table_products.extended(tensor.extract(entries, at)))
        return total

    rank = len(kept)
    made = build.generic([], init, [build.identity_map(rank)], ["parallel"] * rank, body)
    return table_products.prepared(made)


def _joined(cut: Cut, sums: ir.Value) -> ir.Value:
    """Return the sum over planes of P << plane: ``[r0 …, S, 1]``."""
    rank, type_ = cut.k + 2, ir.IntegerType.get_signless(32)
    shape = [*build.shape_of(sums)[:-1], 1]
    empty = build.empty(shape, type_, build.dynamic_sizes(sums))
    zero = linalg.fill(arith.constant(type_, 0), outs=[empty])
    maps = [
        build.dims_map(rank + 1, [*range(rank - 1), rank]),
        build.dims_map(rank + 1, range(rank)),
    ]

    def body(value: ir.Value, total: ir.Value) -> ir.Value:
        plane = arith.index_castui(type_, build.loop_index(rank))
        return arith.addi(total, arith.shli(value, plane))

    kinds = ["parallel"] * rank + ["reduction"]
    return cut.is_part(build.generic([sums], zero, maps, kinds, body)).result


def _scaled(
    module: ir.Module, cut: Cut, sums: ir.Value, fields: ir.Value, ones: ir.Value
) -> ir.Value:
    """Return F ``[r0 …, S, 1]``."""
    plan, k = cut.plan, cut.k
    per_group = plan.group // plan.span
    inputs = [
        build.expand_last(sums, plan.units // per_group, per_group, k),
        *(
            build.expand_last(v, plan.units // per_group, per_group, cut.axis)
            for v in (fields, ones)
        ),
    ]
    per_row = [part for d in cut.x_dims for part in ((k, k + 1) if d == k else (d,))]
    rank = k + 3
    maps = [build.identity_map(rank), *[build.dims_map(rank, per_row)] * 2]
    if not plan.form.symmetric:
        inputs.append(_of_groups(module, plan, "zeros", ir.IntegerType.get_signless(32)))
        maps.append(build.dims_map(rank, [*cut.rows, k]))

    def body(value: ir.Value, field: ir.Value, one: ir.Value, *rest: ir.Value) -> ir.Value:
        if len(rest) > 1:
            one = arith.muli(one, rest[0])
        return table_products.shifted_sum(arith.subi(value, one), field)

    made = cut.is_part(build.elementwise(inputs, ir.F32Type.get(), body, maps)).result
    return build.collapse(made, [*([d] for d in range(k)), [k, k + 1], [k + 2]])


def _by_scales(module: ir.Module, cut: Cut, sums: ir.Value) -> Any:
    """Return Y: the last operation."""
    k, init = cut.k, cut.plan.found.contraction.init
    sums = build.collapse(sums, [*([d] for d in range(k)), [k, k + 1]])
    scales = _of_groups(module, cut.plan, "scales", ir.F32Type.get())
    zero = build.zeros(build.shape_of(init), ir.F32Type.get(), build.dynamic_sizes(init))
    maps = [
        build.identity_map(k + 1),
        build.dims_map(k + 1, [*cut.rows, k]),
        build.dims_map(k + 1, range(k)),
    ]

    def body(value: ir.Value, scale: ir.Value, total: ir.Value) -> ir.Value:
        return arith.addf(total, arith.mulf(value, scale))

    kinds = ["parallel"] * k + ["reduction"]
    return build.generic([sums, scales], zero, maps, kinds, body).operation


def _of_groups(module: ir.Module, plan: Plan, part: str, element: ir.Type) -> ir.Value:
    """Load one number for each group of a row; K is filled up to whole words with zeros."""
    rows = [*plan.found.rows]
    value = binary_weights.load_part(module, plan, part, [*rows, plan.groups], element)
    missing = plan.units * plan.span // plan.group - plan.groups
    return build.pad_end(value, len(rows), missing) if missing else value
