"""Products with weights that are powers of two: every activation is shifted, and added.

With result dimensions r0 …, a product is one operation::

    Y = sum over K of x shifted by a term     [r0 …]     f32, from the first to the last

A term is a byte (``formats/powers.py``); K is filled up to whole words with terms of zero.
"""

import json
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import build, parameters, shift_add
from .base import Refusal
from .contraction import dims_of, simplify_layout
from .integer_products import as_f32
from .signed_sums import put
from .weight_rows import WeightRows, find_rows, too_wide

KIND = "shifts"  # in the facts of ``lowc.product``
_PER_WORD = 4


@dataclass(frozen=True)
class Plan:
    """What the rewrite needs: the weight in rows."""

    found: WeightRows

    @property
    def k(self) -> int:
        """K, filled up to whole words of terms."""
        return -(-self.found.k // _PER_WORD) * _PER_WORD

    @property
    def bits_per_weight(self) -> float:
        """Stored bits of a weight, filling counted."""
        return 8 * self.k / self.found.k


def match(module: ir.Module, op: Any) -> Plan | Refusal:
    """Describe how the weight of `op` would be stored, or say why not.  Changes nothing."""
    found = find_rows(module, op)
    if isinstance(found, Refusal):
        return found
    wide = too_wide(found)
    if wide:
        return Refusal(f"it is calculated in {wide}, and shifts are of f32")
    plan = Plan(found)
    bits, stored = plan.bits_per_weight, parameters.stored_bits(module, found.weight)
    if bits >= stored:
        return Refusal(f"K = {found.k}: {bits:.3g} bits a weight where {stored} are stored")
    return plan


def rewrite(module: ir.Module, plan: Plan) -> Any:
    """Build the product before the old operation, and replace it; return the new one."""
    found, contraction = plan.found, plan.found.contraction
    op, position = contraction.op, found.weight.position
    order = (*dims_of(contraction.maps[2]), contraction.k[0])
    place = {loop: i for i, loop in enumerate(order)}
    k = len(order) - 1
    with ir.InsertionPoint(op), op.location:
        axes = [place[d] for d in dims_of(contraction.maps[1 - position])]
        axis = axes.index(k)
        x = build.with_static_size(as_f32(contraction.operands[1 - position]), axis, found.k)
        if plan.k > found.k:
            x = build.pad_end(x, axis, plan.k - found.k)
        init = contraction.init
        zero = build.zeros(build.shape_of(init), ir.F32Type.get(), build.dynamic_sizes(init))
        rows = [place[d] for d in found.row_dims]
        maps = [build.dims_map(k + 1, dims) for dims in (axes, [*rows, k], range(k))]
        kinds = ["parallel"] * k + ["reduction"]
        made = build.generic([x, _load_terms(module, plan)], zero, maps, kinds, _body).operation
    facts = json.dumps({"kind": KIND, "k": found.k})
    return put(found, made, made.results[0], facts, plan.bits_per_weight)


def _body(x: ir.Value, term: ir.Value, total: ir.Value) -> ir.Value:
    wide = arith.extui(ir.IntegerType.get_signless(32), term)
    return arith.addf(total, shift_add.shift(x, wide))


def _load_terms(module: ir.Module, plan: Plan) -> ir.Value:
    found = plan.found
    type_ = build.tensor_type([*found.rows, plan.k], ir.IntegerType.get_signless(8))
    layout = json.dumps(simplify_layout(found.layout), separators=(",", ":"))
    derivation = {"kind": "shift", "part": "terms", "source": found.source, "layout": layout}
    view = f".{parameters.layout_name(layout)}" if found.layout else ""
    holder = parameters.find_global(module, found.weight.symbol)
    symbol = f"{found.source}.shift{view}.terms"
    name = parameters.derived_global(module, holder, symbol, type_, derivation)
    return build.load_global(name, type_)
