"""Products of 8-bit activations and integer weights: built as linalg, and recognised again.

The numbers are those of ``formats/activations.py``.  With result dimensions r0 … and groups G of g,
a product is these operations, of which the last is the matmul as far as reports and kernels go::

    p = max of magnitude patterns     [x dims] or [x dims, G]      i32
    s, r = scale and reciprocal       the same                     f32
    q = codes                         [x dims, G, g]               i8
    R = sum of codes over g           [x dims, G]                  i32, with zero points
    D = sum over g of q * c           [r0 …, G]                    i32
    Y = sum over G of f32(D - z * R) * scales                      f32
    Y * s                                                          f32, with a scale per row

p to R depend on the activation alone: products that share it share them (``cse``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith, linalg, math

from . import annotations as notes
from . import build
from .base import Refusal
from .code_values import code_of_word
from .contraction import defining, dims_of, indexing_maps, is_zero_fill
from .formats import activations, integer, panels
from .formats.floats import F32, bits_of
from .forms import Form
from .fuse_dequant import Dequantised
from .matrices import Matrices

_DYNAMIC = build.DYNAMIC
KIND = "integer"  # in the facts of ``lowc.product``


@dataclass(frozen=True)
class Plan:
    """What the rewrite needs: the product over a dequantised weight, its form and its groups."""

    found: Dequantised
    form: Form
    groups: int
    group: int


@dataclass(frozen=True)
class IntegerProduct:
    """A product of this kind as a kernel needs to know it.

    Attributes
    ----------
    op : operation
        The last of its operations, whose result is f32 and the product's.
    activation : Value
        The f32 activation, not padded to whole groups; loop K is its ``summed`` one.
    codes : Value
        The weight's codes ``[rows…, G, g]``, or as many in words, as ``lowc-quantize-weights``
        loaded them.
    x_codes, x_scales : Value
        The activation's codes, its K cut into ``G, g``, and scales: without K if `per_row`, else
        with G in its place.  That place is `axis`.
    matrices : Matrices
        Which loops are batch, rows, columns and K, numbered as in `op`: result dimensions first,
        K last.  Sizes are the activation's: K is not padded.
    bits, group, groups, symmetric, per_row, has_halves
        The weight's format, its groups, whether an activation row has one scale, and whether the
        weight's scales are f16 (``formats/half_scales.py``).
    """

    op: Any
    activation: ir.Value
    codes: ir.Value
    matrices: Matrices
    bits: int
    group: int
    groups: int
    symmetric: bool
    per_row: bool
    x_codes: ir.Value
    x_scales: ir.Value
    axis: int
    has_halves: bool = False

    @property
    def bits_per_weight(self) -> float:
        """Bits that a weight takes in panels (``formats/panels.py``), with scales of f32."""
        return panels.bits_per_weight(
            self.bits, self.group, self.groups, self.matrices.k or 1, symmetric=self.symmetric
        )


def match(op: Any) -> IntegerProduct | Refusal:
    """Describe what :func:`rewrite` built, by its last operation.  Changes nothing."""
    facts = notes.product_facts(op)
    if facts.get("kind") != KIND:
        return Refusal("it is no product of integers")
    per_row = facts["activation-scale"] == "row"
    sums = defining(op.operands[0]) if per_row else op
    dots = defining(sums.operands[0])
    x_codes = dots.operands[0]
    if build.element_of(dots.operands[1]).width > 8:
        x_codes = defining(x_codes).operands[0]  # cut into words too
    activation = defining(defining(x_codes).operands[0]).operands[0]
    pad = defining(activation)
    if pad is not None and notes.FILLED in pad.attributes:
        activation = pad.operands[0]
    codes = defining(dots.operands[1]).operands[0]  # behind its barrier
    k = len(build.shape_of(op.results[0]))
    # Loops inside of a group come behind K.
    rows, columns = ([d for d in dims_of(map_) if d <= k] for map_ in indexing_maps(dots)[:2])
    sizes = [*build.shape_of(op.results[0]), build.shape_of(activation)[rows.index(k)]]
    matrices = Matrices.of_weight(rows, columns[:-1], sizes)
    return IntegerProduct(
        op, activation, codes, matrices, facts["bits"], facts["group"], facts["groups"],
        facts["symmetric"], per_row, x_codes, op.operands[1] if per_row else sums.operands[2],
        rows.index(k), facts.get("scales") == "f16",
    )  # fmt: skip


def rewrite(plan: Plan) -> Any:
    """Build the product before the old operation, and replace it; return the last operation."""
    contraction = plan.found.contraction
    op = contraction.op
    with ir.InsertionPoint(op), op.location:
        made = _Builder(plan).product()
        notes.copy_annotations(op, made)
        notes.set_text(made, notes.PRODUCT, json.dumps(_facts(plan)))
        result = as_before(made.results[0], contraction.init)
    op.operation.results[0].replace_all_uses_with(result)
    op.operation.erase()
    return made


def _facts(plan: Plan) -> dict[str, Any]:
    """Return what a kernel must know of the product."""
    form = plan.form
    return {
        "kind": KIND,
        "bits": form.bits,
        "symmetric": form.symmetric,
        "group": plan.group,
        "groups": plan.groups,
        "activation-scale": form.activation_scale,
        **({} if form.scales == "f32" else {"scales": form.scales}),
    }


def as_before(value: ir.Value, init: ir.Value) -> ir.Value:
    """Return the f32 sum in the type of `init`, and `init` added unless it is zeros."""
    element = build.element_of(init)
    if element != build.element_of(value):
        value = build.elementwise([value], element, lambda y, _: arith.truncf(element, y)).result
    if is_zero_fill(init):
        return value
    return build.elementwise([init, value], element, lambda a, y, _: arith.addf(a, y)).result


class _Builder:
    """Builds one product; loops are the dimensions of the result, then K (groups), then inside."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        found, contraction = plan.found, plan.found.contraction
        order = (*dims_of(contraction.maps[2]), contraction.k[0])
        place = {loop: position for position, loop in enumerate(order)}
        self.k = len(order) - 1
        self.x_dims = [place[d] for d in dims_of(contraction.maps[found.activation])]
        weight_map = contraction.maps[1 - found.activation]
        self.w_dims = [place[d] for d in dims_of(weight_map)]
        self.x = as_f32(contraction.operands[found.activation])
        self.codes, self.scales, *zeros = found.inputs
        self.zeros = zeros[0] if zeros else None
        self.per_row = plan.form.activation_scale == "row"

    @property
    def axis(self) -> int:
        """Where K is in the activation, and G once it is cut."""
        return self.x_dims.index(self.k)

    def product(self) -> Any:
        """Return the last operation."""
        grouped = build.expand_last(self.x, self.plan.groups, self.plan.group, self.axis)
        maximum = self._maximum(grouped)
        scales = build.elementwise([maximum], ir.F32Type.get(), scale_of).result
        reciprocals = build.elementwise([maximum], ir.F32Type.get(), reciprocal_of).result
        x_codes = self._x_codes(grouped, reciprocals)
        sums = self._scaled(self._dots(x_codes), scales, x_codes)
        if not self.per_row:
            return sums.operation
        self._is_part(sums)
        rows = [d for d in self.x_dims if d != self.k]
        maps = [build.identity_map(self.k), build.dims_map(self.k, rows)]
        value = build.elementwise(
            [sums.result, scales], ir.F32Type.get(), lambda y, s, _: arith.mulf(y, s), maps
        )
        return value.operation

    def _x_maps(self) -> tuple[int, ir.AffineMap, ir.AffineMap]:
        """Return the rank of the cut activation, and where it and its scales are in its loops."""
        rank = len(self.x_dims) + 1
        inside = (self.axis, self.axis + 1) if self.per_row else (self.axis + 1,)
        kept = [d for d in range(rank) if d not in inside]
        return rank, build.identity_map(rank), build.dims_map(rank, kept)

    def _maximum(self, grouped: ir.Value) -> ir.Value:
        """Return the largest magnitude pattern of each scale group."""
        rank, whole, kept = self._x_maps()
        i32 = ir.IntegerType.get_signless(32)
        axes = dims_of(kept)
        shape = [build.shape_of(grouped)[axis] for axis in axes]
        sizes = [build.dim(grouped, d) for d, n in zip(axes, shape, strict=True) if n == _DYNAMIC]
        init = linalg.fill(arith.constant(i32, 0), outs=[build.empty(shape, i32, sizes)])
        kinds = ["parallel" if d in axes else "reduction" for d in range(rank)]

        def body(x: ir.Value, most: ir.Value) -> ir.Value:
            return arith.maxui(magnitude(x), most)

        return build.generic([grouped], init, [whole, kept], kinds, body).result

    def _x_codes(self, grouped: ir.Value, reciprocals: ir.Value) -> ir.Value:
        _, whole, kept = self._x_maps()
        # Where codes of weights stand in words, the code generator has no short integers.
        packed = build.element_of(self.codes).width > 8
        element = ir.IntegerType.get_signless(32 if packed else 8)
        return build.elementwise([grouped, reciprocals], element, code_of, [whole, kept]).result

    def _dots(self, x_codes: ir.Value) -> ir.Value:
        """Return D: i32 sums of products over each group."""
        k, inner = self.k, [self.k + 1]
        packed = build.element_of(self.codes).width > 8
        if packed:
            per_word = 32 // integer.element_bits(self.plan.form.bits)
            words = self.plan.group // per_word
            x_codes = build.expand_last(x_codes, words, per_word, self.axis + 1)
            inner = [k + 1, k + 2]
        loops = k + 1 + len(inner)
        x_dims = [part for d in self.x_dims for part in ((k, *inner) if d == k else (d,))]
        w_dims = [*self.w_dims, *(inner[:1] if packed else inner)]
        maps = [
            build.dims_map(loops, x_dims),
            build.dims_map(loops, w_dims),
            build.dims_map(loops, range(k + 1)),
        ]
        init = self._zeros_i32(
            [*build.shape_of(self.plan.found.contraction.init), self.plan.groups],
            build.dynamic_sizes(self.plan.found.contraction.init),
        )
        kinds = ["reduction" if d in inner else "parallel" for d in range(loops)]
        made = build.generic([x_codes, self.codes], init, maps, kinds, self._multiply)
        self._is_part(made)
        return made.result

    def _is_part(self, made: Any) -> None:
        """Have the operations of `made` counted for the matmul."""
        name = notes.text(self.plan.found.contraction.op, notes.MATMUL)
        notes.set_text(made.operation, notes.PART, name)

    def _multiply(self, q: ir.Value, code: ir.Value, total: ir.Value) -> ir.Value:
        form, i32 = self.plan.form, total.type
        if code.type == i32:
            width = integer.element_bits(form.bits)
            code = code_of_word(code, width, build.loop_index(self.k + 2), signed=form.symmetric)
            return arith.addi(total, arith.muli(q, code))
        wide = arith.extsi(i32, code) if form.symmetric else arith.extui(i32, code)
        return arith.addi(total, arith.muli(arith.extsi(i32, q), wide))

    def _x_sums(self, x_codes: ir.Value) -> ir.Value:
        """Return R: the sum of an activation's codes over each group."""
        rank = len(self.x_dims) + 1
        inner = self.axis + 1
        axes = [d for d in range(rank) if d != inner]
        shape = [build.shape_of(x_codes)[axis] for axis in axes]
        sizes = [build.dim(x_codes, d) for d, n in zip(axes, shape, strict=True) if n == _DYNAMIC]
        kinds = ["reduction" if d == inner else "parallel" for d in range(rank)]
        maps = [build.identity_map(rank), build.dims_map(rank, axes)]

        def body(q: ir.Value, total: ir.Value) -> ir.Value:
            return arith.addi(total, _wide(q))

        return build.generic([x_codes], self._zeros_i32(shape, sizes), maps, kinds, body).result

    def _scaled(self, dots: ir.Value, x_scales: ir.Value, x_codes: ir.Value) -> Any:
        """Return Y: the sum over groups of what their scales make of D."""
        k, loops = self.k, self.k + 1
        per_x, per_w = build.dims_map(loops, self.x_dims), build.dims_map(loops, self.w_dims)
        inputs, maps = [dots, self.scales], [build.identity_map(loops), per_w]
        if not self.per_row:
            inputs.append(x_scales)
            maps.append(per_x)
        if self.zeros is not None:
            inputs += [self.zeros, self._x_sums(x_codes)]
            maps += [per_w, per_x]
        f32 = ir.F32Type.get()

        def body(d: ir.Value, scale: ir.Value, *rest: ir.Value) -> ir.Value:
            *others, total = rest
            if not self.per_row:
                scale = arith.mulf(scale, others.pop(0))
            if others:
                zero, x_sum = others
                zero = zero if zero.type == d.type else arith.extui(d.type, zero)
                d = arith.subi(d, arith.muli(zero, x_sum))
            return arith.addf(total, arith.mulf(arith.sitofp(f32, d), scale))

        init = self.plan.found.contraction.init
        zero = build.zeros(build.shape_of(init), f32, build.dynamic_sizes(init))
        kinds = ["parallel"] * k + ["reduction"]
        return build.generic(inputs, zero, [*maps, build.dims_map(loops, range(k))], kinds, body)

    def _zeros_i32(self, shape: Sequence[int], dynamic: Sequence[ir.Value]) -> ir.Value:
        i32 = ir.IntegerType.get_signless(32)
        return linalg.fill(arith.constant(i32, 0), outs=[build.empty(shape, i32, dynamic)])


# -- scalars of activations ------------------------------------------------------------------------


def as_f32(value: ir.Value) -> ir.Value:
    """Return a tensor of floats in f32."""
    f32 = ir.F32Type.get()
    if build.element_of(value) == f32:
        return value
    return build.elementwise([value], f32, lambda x, _: arith.extf(f32, x)).result


def magnitude(x: ir.Value) -> ir.Value:
    """Return the bits of an f32 without its sign: ordered as magnitudes are, NaN above all."""
    i32 = ir.IntegerType.get_signless(32)
    return arith.andi(arith.bitcast(i32, x), arith.constant(i32, activations.MAGNITUDE_MASK))


def scale_of(pattern: ir.Value, _out: ir.Value) -> ir.Value:
    """Return the scale of codes whose largest magnitude has this pattern."""
    largest = _f32(activations.LARGEST)
    return _unless_small(pattern, arith.divf(arith.bitcast(largest.type, pattern), largest))


def reciprocal_of(pattern: ir.Value, _out: ir.Value) -> ir.Value:
    """Return what elements are multiplied by to get their codes."""
    largest = _f32(activations.LARGEST)
    return _unless_small(pattern, arith.divf(largest, arith.bitcast(largest.type, pattern)))


def _unless_small(pattern: ir.Value, value: ir.Value) -> ir.Value:
    """Return 0 for a scale group below the smallest maximum; patterns are ordered as values are."""
    smallest = arith.constant(pattern.type, int(bits_of(activations.SMALLEST_MAXIMUM, F32)))
    is_small = arith.cmpi(arith.CmpIPredicate.ult, pattern, smallest)
    return arith.select(is_small, _f32(0), value)


def _wide(code: ir.Value) -> ir.Value:
    """Return a signed code as i32."""
    i32 = ir.IntegerType.get_signless(32)
    return code if code.type == i32 else arith.extsi(i32, code)


def code_of(x: ir.Value, reciprocal: ir.Value, out: ir.Value) -> ir.Value:
    """Return the code of an element, as an integer of the type of `out`."""
    value = arith.mulf(x, reciprocal)
    is_nan = arith.cmpf(arith.CmpFPredicate.UNO, value, value)
    rounded = math.roundeven(arith.select(is_nan, _f32(0), value))
    # By way of i32, which every target converts to.
    wide = arith.fptosi(ir.IntegerType.get_signless(32), rounded)
    return wide if out.type == wide.type else arith.trunci(out.type, wide)


def _f32(value: float) -> ir.Value:
    return arith.constant(ir.F32Type.get(), float(value))
