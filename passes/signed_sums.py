"""Products with binary-coded weights by additions of activations, and the sums that scale them.

With result dimensions r0 …, words of signs w (or groups where they are shorter), groups G of K and
planes, a product is these operations, of which the last is the matmul for reports::

    W = sum over a word of ±x             [r0 …, w, planes]     f32
    P = sum over the words of a group     [r0 …, G, planes]     f32, where there are several
    Y = sum over G, planes of P shifted by the terms of a scale f32

The order of all sums is that of ``formats/binary_codes.py``.
"""

import functools
import json
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import annotations, binary_weights, build, shift_add
from .binary_weights import Cut, Plan
from .contraction import defining, dims_of, indexing_maps, unshaped
from .formats.binary_codes import WORD
from .integer_products import as_before
from .matrices import Matrices
from .weight_rows import WeightRows

KIND = "signed-sums"  # in the facts of ``lowc.product``


@dataclass(frozen=True)
class SignedSums:
    """A product of this kind as a kernel needs to know it.

    Attributes
    ----------
    op : operation
        The last of its operations, whose result is f32 and the product's.
    activation : Value
        The f32 activation, K not filled up; loop K is its ``summed`` one.
    signs : Value
        The sign words ``[rows…, planes, words]`` as they are loaded.
    matrices : Matrices
        Which loops are batch, rows, columns and K: result dimensions first, K last.
    planes, group, outputs, terms : int
        The format of the weight; `outputs` is N where all outputs share scales.
    """

    op: Any
    activation: ir.Value
    signs: ir.Value
    matrices: Matrices
    planes: int
    group: int
    outputs: int
    terms: int


def of_words(op: Any) -> Any:
    """Return the first operation of the product whose last one is `op`: the sums of words."""
    partial = defining(unshaped(op.operands[0]))
    if len(partial.operands) == 2:  # it adds up the units of a group
        partial = defining(unshaped(partial.operands[0]))
    return partial


def match(op: Any) -> SignedSums:
    """Describe what :func:`rewrite` built, by its last operation.  Changes nothing."""
    facts = annotations.product_facts(op)
    size = facts.pop("k")
    del facts["kind"]
    k = len(build.shape_of(op.results[0]))
    partial = of_words(op)
    has_parts = facts["group"] < WORD
    # Words, the units of one, and their inputs are loops of the activation instead of K.
    read = dims_of(indexing_maps(partial)[0])
    inside = [d for d in read if d >= k]
    axis = read.index(inside[0])
    rows = [*read[:axis], k, *read[axis + len(inside) :]]
    activation = partial.operands[0]
    for _ in range(1 + has_parts):
        activation = defining(activation).operands[0]
    if build.shape_of(activation)[axis] != size:
        activation = defining(activation).operands[0]
    signs = unshaped(partial.operands[1])
    columns = dims_of(indexing_maps(partial)[1])[: len(build.shape_of(signs)) - 2]
    sizes = [*build.shape_of(op.results[0]), size]
    matrices = Matrices.of_weight(rows, columns, sizes)
    return SignedSums(op, activation, signs, matrices, **facts)


def rewrite(module: ir.Module, plan: Plan) -> Any:
    """Build the product before the old operation, and replace it; return the last operation."""
    op = plan.found.contraction.op
    with ir.InsertionPoint(op), op.location:
        cut = Cut(plan)
        made = shifted(module, cut, _partial_sums(module, cut))
    return replace(module, plan, made, KIND)


def replace(module: ir.Module, plan: Plan, made: Any, kind: str) -> Any:
    """Put the product `made` into the place of the old operation; return it.

    The scale of a ternary weight comes after it: one multiplication for each element.
    """
    op, value = plan.found.contraction.op, made.results[0]
    name = annotations.text(op, annotations.MATMUL)
    if plan.is_ternary:
        with ir.InsertionPoint(op), op.location:
            scaled = _times(value, binary_weights.load_scale(module, plan))
            annotations.set_text(scaled, annotations.AFTER, name)
            value = scaled.results[0]
    return put(plan.found, made, value, json.dumps(plan.facts(kind)), plan.bits_per_weight)


def put(found: WeightRows, made: Any, value: ir.Value, facts: str, bits: float) -> Any:
    """Put `value`, which follows from the product `made`, into the place of the old operation.

    `facts` are what a kernel must know of the product.  Return `made`.
    """
    contraction = found.contraction
    op = contraction.op
    annotations.copy_annotations(op, made)
    with ir.InsertionPoint(op), op.location:
        annotations.set_text(made, annotations.PRODUCT, facts)
        made.attributes[annotations.BITS] = ir.FloatAttr.get(ir.F64Type.get(), bits)
        result = as_before(value, contraction.init)
    op.operation.results[0].replace_all_uses_with(result)
    op.operation.erase()
    return made


def _times(value: ir.Value, scale: ir.Value) -> Any:
    """Return the operation that makes a tensor times a number."""
    rank = len(build.shape_of(value))
    maps = [build.identity_map(rank), build.dims_map(rank, [])]
    inputs = [value, scale]
    made = build.elementwise(inputs, ir.F32Type.get(), lambda y, s, _: arith.mulf(y, s), maps)
    return made.operation


def _partial_sums(module: ir.Module, cut: Cut) -> ir.Value:
    """Return W ``[r0 …, units, planes]``."""
    plan, axis = cut.plan, cut.axis
    # K is cut into [words, 32], or [words, groups of one, inputs of a group].
    value = build.expand_last(cut.activation(), plan.words, WORD, axis)
    if cut.has_parts:
        value = build.expand_last(value, WORD // plan.unit, plan.unit, axis + 1)
    loops = cut.inner + 1
    parts = [*cut.unit_loops, cut.inner]
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


def shifted(module: ir.Module, cut: Cut, sums: ir.Value) -> Any:
    """Return Y from the sums of units ``[r0 …, units, planes]``: the last operation.

    Each of its sums has one loop: IREE may add over several in another order than theirs.
    """
    plan, k = cut.plan, cut.k
    sums = of_groups(cut, sums)
    terms, rows = binary_weights.load_terms(module, plan)
    # Groups and planes are one dimension.
    sums = build.collapse(sums, [*([d] for d in range(k)), [k, k + 1]])
    terms = build.collapse(terms, [*([d] for d in range(rows)), [rows, rows + 1]])
    leading = cut.rows[: plan.found.batches] if rows == plan.found.batches else cut.rows
    init = plan.found.contraction.init
    zero = build.zeros(build.shape_of(init), ir.F32Type.get(), build.dynamic_sizes(init))
    maps = [
        build.dims_map(k + 1, range(k + 1)),
        build.dims_map(k + 1, [*leading, k]),
        build.dims_map(k + 1, range(k)),
    ]
    kinds = ["parallel"] * k + ["reduction"]

    def body(value: ir.Value, scale: ir.Value, total: ir.Value) -> ir.Value:
        each = [shift_add.shift(value, shift_add.term(scale, t)) for t in range(plan.fmt.terms)]
        return arith.addf(total, functools.reduce(arith.addf, each))

    return build.generic([sums, terms], zero, maps, kinds, body).operation


def of_groups(cut: Cut, sums: ir.Value) -> ir.Value:
    """Return the sums of groups ``[r0 …, groups, planes]`` from those of their units."""
    plan, k = cut.plan, cut.k
    per_group = plan.group // plan.unit
    if per_group == 1:
        return sums
    sums = build.expand_last(sums, plan.units // per_group, per_group, k)
    shape = build.shape_of(sums)
    kept = [d for d in range(k + 3) if d != k + 1]
    zero = build.zeros([shape[d] for d in kept], ir.F32Type.get(), build.dynamic_sizes(sums))
    maps = [build.identity_map(k + 3), build.dims_map(k + 3, kept)]
    kinds = ["parallel" if d in kept else "reduction" for d in range(k + 3)]

    def body(value: ir.Value, total: ir.Value) -> ir.Value:
        return arith.addf(total, value)

    return cut.is_part(build.generic([sums], zero, maps, kinds, body)).result
