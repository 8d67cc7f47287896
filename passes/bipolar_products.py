"""Products of bipolar integers, of two activations or with a weight: built as linalg.

With batch b, rows m, columns n, planes p and words w of 32 signs, a product is these operations, of
which the last but the scaling is the matmul for reports (``formats/bipolar_products.py``)::

    S = scales of the rows of both operands              [b, m], [b, n]                  f32 or i32
    C = codes                                            [b, m, K], [b, K, n]            i32
    B = their bits, 32 to a word                         [b, m, p, w], [b, n, p, w]      i32
    D = sum over w, i, j of popcount(B xor B) << (i + j) [b, m, n]                       i32
    Y = (C - 2 D) scaled                                 [b, m, n]                       f32

Of a weight, which is the side of the columns, bits and scales are stored.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith, linalg, math

from . import annotations, build, parameters, shift_add
from .additive import bits_of
from .base import Refusal
from .contraction import (
    NO_WEIGHT,
    Contraction,
    find_weight,
    is_zero_fill,
    match_contraction,
    match_product,
    multiplies_and_adds,
    simplify_layout,
)
from .formats import bipolar, powers
from .formats.bipolar_products import HALFWAY, LARGEST, SMALLEST, SPECIAL, WORD
from .forms import Form
from .integer_products import as_before, as_f32
from .matrices import Matrices, Side, as_matrices, from_matrices, to_matrices
from .weight_rows import WeightRows, find_rows

KIND = "bipolar-products"  # in the facts of ``lowc.product``
_F = arith.CmpFPredicate


@dataclass(frozen=True)
class Plan:
    """What the rewrite needs: the contraction as matrices, and its form."""

    contraction: Contraction
    matrices: Matrices
    form: Form
    weight: WeightRows | None = None

    @property
    def k(self) -> int:
        """How many products are summed."""
        return self.matrices.k or 0

    @property
    def words(self) -> int:
        """Words of the bits of a row."""
        return -(-self.k // WORD)

    def describe(self) -> str:
        """Say in words what became of the product."""
        bits = self.form.planes
        operands = "signs" if bits == 1 else f"{bits} planes of signs"
        scales = "powers of two" if self.form.scales == "power" else "f32"
        if self.weight is not None:
            return (
                f"weight and activation as {operands}, XOR and counts of bits, scales as {scales}"
            )
        return f"both operands as {operands}, XOR and counts of bits, scales of rows as {scales}"


def match(module: ir.Module, op: Any, form: Form) -> Plan | Refusal:
    """Describe how `op` would be rewritten, or say why not.  Changes nothing."""
    found = match_product(op)
    if isinstance(found, Refusal):
        found = match_contraction(op)
    if isinstance(found, Refusal):
        return found
    rows = _weight_of(module, op, found)
    if isinstance(rows, Refusal):
        return rows
    elements = [build.element_of(value) for value in (*found.operands, found.init)]
    if not all(isinstance(e, ir.FloatType) and e.width <= 32 for e in elements):
        return Refusal(f"it is on {elements[0]}, and signs are taken of floats up to 32 bits")
    if not multiplies_and_adds(op) or not is_zero_fill(found.init):
        return Refusal("it does more than to multiply and to add")
    matrices = as_matrices(op, 1 if rows is None else rows.weight.position)
    if isinstance(matrices, Refusal):
        return matrices
    if not matrices.k:
        return Refusal("K is dynamic" if matrices.k is None else "K is 0")
    if rows is not None and rows.row_dims != (*matrices.batch_loops, *matrices.columns):
        return Refusal("its weight is stored in another order than that of the result")
    return Plan(found, matrices, form, rows)


def _weight_of(module: ir.Module, op: Any, found: Contraction) -> WeightRows | Refusal | None:
    """Return the weight of a product in rows, None if it has none, or why it cannot be stored."""
    weight = find_weight(found)
    if not isinstance(weight, Refusal):
        return find_rows(module, op)
    return None if weight.reason == NO_WEIGHT else weight


def rewrite(module: ir.Module, plan: Plan) -> Any:
    """Build the product before the old operation, and replace it; return the one that counts."""
    found, matrices = plan.contraction, plan.matrices
    op = found.op
    with ir.InsertionPoint(op), op.location:
        first = 0 if plan.weight is None else 1 - plan.weight.weight.position
        left = _side(plan, to_matrices(as_f32(found.operands[first]), matrices, "rows"), "rows")
        if plan.weight is None:
            y = to_matrices(as_f32(found.operands[1]), matrices, "columns")
            right = _side(plan, y, "columns")
        else:
            right = _stored(module, plan, plan.weight)
        made = _differing(left, right)
        scaled = _scaled(plan, made.results[0], left.scales, right.scales)
        result = as_before(from_matrices(scaled, matrices, op), found.init)
    annotations.copy_annotations(op, made)
    facts = {"kind": KIND, "planes": plan.form.planes, "scales": plan.form.scales, "k": plan.k}
    annotations.set_text(made, annotations.PRODUCT, json.dumps(facts))
    if plan.weight is not None:
        bits = 32 * (plan.form.planes * plan.words + 1) / plan.k
        made.attributes[annotations.BITS] = ir.FloatAttr.get(ir.F64Type.get(), bits)
    op.operation.results[0].replace_all_uses_with(result)
    op.operation.erase()
    return made


@dataclass(frozen=True)
class _Coded:
    """An operand: scales ``[batch, rows]`` (fields where they are powers), and bits."""

    scales: ir.Value
    bits: ir.Value  # [batch, rows, planes, words]


def _stored(module: ir.Module, plan: Plan, rows: WeightRows) -> _Coded:
    """Load the bits and scales of a weight, declared where needed."""
    form, i32 = plan.form, ir.IntegerType.get_signless(32)
    layout = simplify_layout([*rows.layout, ["reshape", [rows.batch, rows.n, rows.k]]])
    text = json.dumps(layout, separators=(",", ":"))
    derivation: dict[str, Any] = {"kind": "bipolar", "source": rows.source, "layout": text}
    derivation |= {"planes": form.planes, "scales": form.scales}
    view = parameters.layout_name(text)
    holder = parameters.find_global(module, rows.weight.symbol)
    head = [rows.batch, rows.n]
    scale = i32 if form.scales == "power" else ir.F32Type.get()
    found = []
    parts = {"scales": (head, scale), "bits": ([*head, form.planes, plan.words], i32)}
    for part, (shape, element) in parts.items():
        type_ = build.tensor_type(shape, element)
        symbol = f"{rows.source}.s{form.planes}{form.scales}.{view}.{part}"
        name = parameters.derived_global(
            module, holder, symbol, type_, {**derivation, "part": part}
        )
        found.append(build.load_global(name, type_))
    return _Coded(*found)


def _side(plan: Plan, value: ir.Value, side: Side) -> _Coded:
    """Code an operand ``[batch, rows, K]`` or ``[batch, K, columns]``."""
    along, kept = ([0, 1, 2], [0, 1]) if side == "rows" else ([0, 2, 1], [0, 1])
    # Loops are batch, row, k: `along` says where the operand is read.
    value = build.with_static_size(value, along.index(2), plan.k)
    f32, i32 = ir.F32Type.get(), ir.IntegerType.get_signless(32)
    largest = float(bipolar.largest(plan.form.planes))
    # NaN is more than infinity here.
    highest = _reduced(value, along, kept, lambda x, top: arith.maximumf(top, x))

    def add(x: ir.Value, total: ir.Value) -> ir.Value:
        # Of several planes the sum only tells NaN and infinity: it must not pass f32.  IREE has no
        # code for the maximum alone on Vulkan where the number of rows is dynamic (seen in 3.13).
        small = arith.mulf(x, arith.constant(f32, 2.0**-64)) if plan.form.planes > 1 else x
        return arith.addf(total, small)

    def scale(top: ir.Value, total: ir.Value, _: ir.Value) -> ir.Value:
        infinity = arith.constant(f32, float("inf"))
        if plan.form.planes == 1:
            most = arith.minnumf(total, arith.constant(f32, float(LARGEST)))
            found = arith.mulf(most, arith.constant(f32, 1 / plan.k))
            is_finite = arith.cmpf(_F.OLT, top, infinity)
        else:
            found = arith.mulf(top, arith.constant(f32, 1 / largest))
            is_finite = arith.cmpf(_F.OLT, total, infinity)
        found = arith.select(is_finite, found, arith.constant(f32, float("nan")))
        return _field(found, is_finite) if plan.form.scales == "power" else found

    element = i32 if plan.form.scales == "power" else f32
    sources = [highest, _reduced(value, along, kept, add)]
    scales = build.elementwise(sources, element, scale).result
    if plan.form.planes == 1:
        return _Coded(scales, _packed(plan, _signs(value), along))

    def reach(top: ir.Value, _: ir.Value) -> ir.Value:
        zero = arith.constant(f32, 0.0)
        found = arith.divf(arith.constant(f32, largest / 2), top)
        found = arith.maxnumf(found, arith.constant(f32, float(SMALLEST)))
        return arith.select(arith.cmpf(_F.OGT, top, zero), found, zero)

    codes = _codes(plan, value, build.elementwise([highest], f32, reach).result, along)
    return _Coded(scales, _packed(plan, codes, along))


def _reduced(
    value: ir.Value,
    along: list[int],
    kept: list[int],
    step: Callable[..., ir.Value],
) -> ir.Value:
    """Return magnitudes of rows taken together, from the first to the last: ``[batch, rows]``."""
    shape = build.shape_of(value)
    rows = [along.index(loop) for loop in kept]
    dynamic = [build.dim(value, axis) for axis in rows if shape[axis] == build.DYNAMIC]
    zero = build.zeros([shape[axis] for axis in rows], ir.F32Type.get(), dynamic)
    maps = [build.dims_map(3, along), build.dims_map(3, kept)]
    kinds = ["parallel", "parallel", "reduction"]
    return build.generic([value], zero, maps, kinds, lambda x, acc: step(math.absf(x), acc)).result


def _field(scale: ir.Value, is_finite: ir.Value) -> ir.Value:
    """Return the exponent of a scale as a power of two, plus 96."""
    moved = arith.addi(bits_of(scale), shift_add.i32((1 << 23) - HALFWAY))
    exponent = arith.shrsi(moved, shift_add.i32(23))
    found = arith.subi(exponent, shift_add.i32(127 - powers.EXPONENT_BIAS))
    found = arith.maxsi(found, shift_add.i32(0))
    return arith.select(is_finite, found, shift_add.i32(SPECIAL))


def _codes(plan: Plan, value: ir.Value, reach: ir.Value, along: list[int]) -> ir.Value:
    """Return codes in the order of the operand, i32."""
    i32, f32 = ir.IntegerType.get_signless(32), ir.F32Type.get()
    half = float(1 << (plan.form.planes - 1))
    place = [along.index(loop) for loop in range(3)]  # the operand's axis of each loop

    def code(x: ir.Value, r: ir.Value, _: ir.Value) -> ir.Value:
        step = math.floor(arith.mulf(x, r))
        step = arith.maxnumf(step, arith.constant(f32, -half))
        step = arith.minnumf(step, arith.constant(f32, half - 1))
        return arith.addi(arith.fptosi(i32, step), shift_add.i32(int(half)))

    # Loops are those of the operand here.
    maps = [build.identity_map(3), build.dims_map(3, [place[0], place[1]])]
    return build.elementwise([value, reach], i32, code, maps).result


def _signs(value: ir.Value) -> ir.Value:
    """Return 0 below zero and else 1, in the order of the operand, i32."""
    zero = arith.constant(ir.F32Type.get(), 0.0)

    def sign(x: ir.Value, _: ir.Value) -> ir.Value:
        is_less = arith.cmpf(_F.OLT, x, zero)
        return arith.select(is_less, shift_add.i32(0), shift_add.i32(1))

    return build.elementwise([value], ir.IntegerType.get_signless(32), sign).result


def _packed(plan: Plan, codes: ir.Value, along: list[int]) -> ir.Value:
    """Return bits ``[batch, rows, planes, words]``; K is filled up with 0."""
    axis, i32 = along.index(2), ir.IntegerType.get_signless(32)
    missing = plan.words * WORD - plan.k
    codes = build.pad_end(codes, axis, missing) if missing else codes
    codes = build.expand_last(codes, plan.words, WORD, axis)
    # Loops: batch 0, row 1, plane 2, word 3, bit 4.
    read = [0, 1, 3, 4] if axis == 2 else [0, 3, 4, 1]
    shape = build.shape_of(codes)
    rows = [read.index(0), read.index(1)]
    dynamic = [build.dim(codes, a) for a in rows if shape[a] == build.DYNAMIC]
    init = _integer_zeros([*(shape[a] for a in rows), plan.form.planes, plan.words], dynamic)
    maps = [build.dims_map(5, read), build.dims_map(5, range(4))]
    kinds = ["parallel"] * 4 + ["reduction"]

    def body(code: ir.Value, word: ir.Value) -> ir.Value:
        plane, place = (arith.index_castui(i32, build.loop_index(loop)) for loop in (2, 4))
        bit = arith.andi(arith.shrui(code, plane), shift_add.i32(1))
        return arith.ori(word, arith.shli(bit, place))

    return build.generic([codes], init, maps, kinds, body).result


def _differing(left: _Coded, right: _Coded) -> Any:
    """Return D: the operation that stands for the product."""
    i32 = ir.IntegerType.get_signless(32)
    shapes = [build.shape_of(side.bits) for side in (left, right)]
    sizes = [shapes[0][0], shapes[0][1], shapes[1][1]]
    places = [(left.bits, 0), (left.bits, 1), (right.bits, 1)]
    dynamic = [
        build.dim(value, axis)
        for size, (value, axis) in zip(sizes, places, strict=True)
        if size == build.DYNAMIC
    ]
    # Loops: batch 0, row 1, column 2, planes 3 and 4, word 5.
    maps = [build.dims_map(6, dims) for dims in ([0, 1, 3, 5], [0, 2, 4, 5], [0, 1, 2])]
    kinds = ["parallel"] * 3 + ["reduction"] * 3

    def body(a: ir.Value, b: ir.Value, total: ir.Value) -> ir.Value:
        places = [arith.index_castui(i32, build.loop_index(loop)) for loop in (3, 4)]
        counted = math.ctpop(arith.xori(a, b))
        return arith.addi(total, arith.shli(counted, arith.addi(*places)))

    init = _integer_zeros(sizes, dynamic)
    return build.generic([left.bits, right.bits], init, maps, kinds, body).operation


def _scaled(plan: Plan, differing: ir.Value, left: ir.Value, right: ir.Value) -> ir.Value:
    """Return Y from D and the scales."""
    f32 = ir.F32Type.get()
    most = plan.k * bipolar.largest(plan.form.planes) ** 2

    def body(count: ir.Value, s: ir.Value, t: ir.Value, _: ir.Value) -> ir.Value:
        total = arith.subi(shift_add.i32(most), arith.shli(count, shift_add.i32(1)))
        value = arith.sitofp(f32, total)
        if plan.form.scales == "f32":
            return arith.mulf(arith.mulf(value, s), t)
        moved = value
        for field in (s, t):
            kept = arith.andi(field, shift_add.i32(SPECIAL))
            moved = shift_add.scale(moved, kept)
        special = shift_add.i32(SPECIAL)
        is_nan = arith.ori(*(arith.cmpi(arith.CmpIPredicate.eq, x, special) for x in (s, t)))
        return arith.select(is_nan, arith.constant(f32, float("nan")), moved)

    maps = [build.identity_map(3), build.dims_map(3, [0, 1]), build.dims_map(3, [0, 2])]
    made = build.elementwise([differing, left, right], f32, body, maps)
    # Shifts are a part of what must not multiply.
    kind = annotations.AFTER if plan.form.scales == "f32" else annotations.PART
    name = annotations.text(plan.contraction.op, annotations.MATMUL)
    annotations.set_text(made.operation, kind, name)
    return made.result


def _integer_zeros(shape: list[int], dynamic: list[ir.Value]) -> ir.Value:
    i32 = ir.IntegerType.get_signless(32)
    zero = arith.constant(i32, 0)
    return linalg.fill(zero, outs=[build.empty(shape, i32, dynamic)])
