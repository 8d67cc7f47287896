"""Products with ternary weights by look-up in tables of five inputs: built and recognised again.

The numbers are those of ``formats/trits.py``; fields e and entries t are made as those of
``table_products.py``.  With result dimensions r0 …, spans S of K and fives Q of a span::

    T = tables                        [x dims, fives of K, 243]  f32
    p, e, t                           as there
    P = sums of looked up entries     [r0 …, S]                  i32
    F = P shifted by e                [r0 …, S]                  f32
    Y = sum over S of these           [r0 …]                     f32
"""

from typing import Any

import numpy as np
from iree.compiler import ir
from iree.compiler.dialects import arith, linalg, tensor

from . import annotations, binary_weights, build, signed_sums, table_products
from .base import Refusal
from .binary_weights import Cut, Plan
from .contraction import defining
from .formats.trits import FIVE, KEYS, digits
from .integer_products import as_f32
from .table_products import TableProduct

KIND = "trit-tables"  # in the facts of ``lowc.product``


def match(op: Any) -> TableProduct | Refusal:
    """Describe what :func:`rewrite` built, by its last operation.  Changes nothing."""
    facts = annotations.product_facts(op)
    if facts.pop("kind", None) != KIND:
        return Refusal("it is no product by look-up of five")
    scaled = defining(op.operands[0])
    return table_products.describe(op, facts, scaled, defining(scaled.operands[0]), inside=1)


def rewrite(module: ir.Module, plan: Plan, *, entry_width: int = 8) -> Any:
    """Build the product before the old operation, and replace it; return the last operation."""
    op = plan.found.contraction.op
    with ir.InsertionPoint(op), op.location:
        cut = Cut(plan)
        floats = _float_tables(cut)
        fields = table_products.fields_of(cut, floats)
        entries = table_products.entries_of(cut, floats, fields, entry_width)
        made = _sum(cut, _scaled(cut, _looked_up(module, cut, entries), fields))
    return signed_sums.replace(module, plan, made, KIND)


def _float_tables(cut: Cut) -> ir.Value:
    """Return T, with a dimension for spans: ``[x dims, S, Q, 243]``."""
    plan, axis, rank = cut.plan, cut.axis, len(cut.x_dims) + 1
    found, f32 = plan.found, ir.F32Type.get()
    operand = found.contraction.operands[1 - found.weight.position]
    value = build.with_static_size(as_f32(operand), axis, found.k)
    missing = plan.group - found.k
    value = build.pad_end(value, axis, missing) if missing else value
    value = build.expand_last(value, plan.group // FIVE, FIVE, axis)
    key, inner = axis + 1, rank
    shape, sizes = build.shape_of(value), build.dynamic_sizes(value)
    shape[key] = KEYS
    type_ = build.tensor_type([KEYS, FIVE], ir.IntegerType.get_signless(32))
    chosen = np.ascontiguousarray(digits().astype(np.int32))
    signs = arith.constant(type_, ir.DenseElementsAttr.get(chosen, type=type_.element_type))
    maps = [
        build.dims_map(rank + 1, [inner if d == key else d for d in range(rank)]),
        build.dims_map(rank + 1, [key, inner]),
        build.dims_map(rank + 1, range(rank)),
    ]
    kinds = ["parallel"] * rank + ["reduction"]

    def body(x: ir.Value, sign: ir.Value, total: ir.Value) -> ir.Value:
        zero = arith.constant(sign.type, 0)
        is_minus = arith.cmpi(arith.CmpIPredicate.slt, sign, zero)
        is_none = arith.cmpi(arith.CmpIPredicate.eq, sign, zero)
        turned = arith.select(is_minus, arith.negf(x), x)
        return arith.addf(total, arith.select(is_none, arith.constant(f32, 0.0), turned))

    made = build.generic([value, signs], build.zeros(shape, f32, sizes), maps, kinds, body)
    found_tables = table_products.prepared(made)
    return build.expand_last(found_tables, plan.spans, plan.span // FIVE, axis)


def _looked_up(module: ir.Module, cut: Cut, entries: ir.Value) -> ir.Value:
    """Return P ``[r0 …, S]``."""
    plan, k, init = cut.plan, cut.k, cut.plan.found.contraction.init
    rows, fives = plan.found.rows, plan.group // FIVE
    i8, i32 = ir.IntegerType.get_signless(8), ir.IntegerType.get_signless(32)
    keys = binary_weights.load_part(module, plan, "trits", [*rows, fives], i8)
    keys = build.expand_last(keys, plan.spans, plan.span // FIVE, len(rows))
    shape = [*build.shape_of(init), plan.spans]
    empty = build.empty(shape, i32, build.dynamic_sizes(init))
    zero = linalg.fill(arith.constant(i32, 0), outs=[empty])
    maps = [build.dims_map(k + 2, [*cut.rows, k, k + 1]), build.dims_map(k + 2, range(k + 1))]

    def body(key: ir.Value, total: ir.Value) -> ir.Value:
        place = arith.index_castui(ir.IndexType.get(), arith.extui(i32, key))
        at = [
            index
            for d in cut.x_dims
            for index in (
                [build.loop_index(k), build.loop_index(k + 1), place]
                if d == k
                else [build.loop_index(d)]
            )
        ]
        return arith.addi(total, table_products.extended(tensor.extract(entries, at)))

    kinds = ["parallel"] * (k + 1) + ["reduction"]
    found: ir.Value = cut.is_part(build.generic([keys], zero, maps, kinds, body)).result
    return found


def _scaled(cut: Cut, sums: ir.Value, fields: ir.Value) -> ir.Value:
    """Return F ``[r0 …, S]``."""
    maps = [build.identity_map(cut.k + 1), build.dims_map(cut.k + 1, cut.x_dims)]

    def body(total: ir.Value, field: ir.Value, _out: ir.Value) -> ir.Value:
        return table_products.shifted_sum(total, field)

    made = build.elementwise([sums, fields], ir.F32Type.get(), body, maps)
    found: ir.Value = cut.is_part(made).result
    return found


def _sum(cut: Cut, spans: ir.Value) -> Any:
    """Return Y: the last operation."""
    k, init = cut.k, cut.plan.found.contraction.init
    zero = build.zeros(build.shape_of(init), ir.F32Type.get(), build.dynamic_sizes(init))
    maps = [build.identity_map(k + 1), build.dims_map(k + 1, range(k))]
    kinds = ["parallel"] * k + ["reduction"]

    def body(value: ir.Value, total: ir.Value) -> ir.Value:
        return arith.addf(total, value)

    return build.generic([spans], zero, maps, kinds, body).operation
