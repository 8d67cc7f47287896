"""``lowc-quantize-weights``: store weights in few bits, make them floats where they are used."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import annotations, build, parameters
from .assign_forms import form_of
from .base import Pass, Refusal, RemarkKind
from .code_values import code_of_word, code_value
from .contraction import defining, dims_of
from .formats.integer import element_bits
from .forms import Form, round_up_group
from .weight_rows import WeightRows, find_rows


@dataclass(frozen=True)
class Plan(WeightRows):
    """What the rewrite needs: the contraction, its weight in rows, and how K is cut into groups."""

    group: int
    groups: int


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Give each matmul of form ``dequant`` a weight of codes and scales, dequantised before it.

    Those of form ``signed-digits`` too, whose codes ``lowc-lower-shift-add`` takes apart.

    The codes are stored ``[batch…, N…, G, g]``: K cut into G groups of g, the last one padded with
    codes that mean 0, and the activation padded with zeros to match.  How the bytes follow from
    the model's weight is a derivation on the new globals; no byte is read here.  Codes of 2, 3, 5,
    6 and 7 bits take a byte each here; kernels read them from panels that have the exact bits.

    Before::

        %w = util.global.load @"fc.weight" : tensor<8x64xf32>
        %t = linalg.transpose ins(%w) … permutation = [1, 0]
        %y = linalg.matmul {lowc.form = {form = "dequant", weights = "i4", group = 32, …}}
               ins(%x, %t : tensor<2x64xf32>, tensor<64x8xf32>) outs(%zero)

    After::

        %q = util.global.load @"fc.weight.i4g32.codes" : tensor<8x2x32xi4>
        %s = util.global.load @"fc.weight.i4g32.scales" : tensor<8x2xf32>
        %d = linalg.generic ins(%q, %s) … { sitofp, mulf }          // tensor<8x2x32xf32>
        %w = tensor.collapse_shape %d [[0], [1, 2]]                 // tensor<8x64xf32>
        %y = linalg.generic {lowc.matmul = …} (m, n, k) ins(%x, %w) … { mulf, addf }

    Parameters
    ----------
    packing : str
        ``bits`` stores codes as ``iN``; ``words`` stores the same bytes as i32 and takes them apart
        by shifts, for targets whose code generator has no 4-bit elements (Vulkan).
    """

    packing: Literal["bits", "words"] = "bits"
    name: ClassVar[str] = "lowc-quantize-weights"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Rewrite every matmul whose form stores codes and whose weight can be found."""
        for op in annotations.matmuls(module):
            form = form_of(op)
            if not form.stores_codes:
                continue
            name = annotations.text(op, annotations.MATMUL)
            plan = match(module, op, form, words=self.packing == "words")
            if isinstance(plan, Refusal):
                annotations.set_text(op, annotations.LOWERING, f"exact ({plan.reason})")
                remark(RemarkKind.REFUSED, op, name, f"not quantised: {plan.reason}")
                continue
            bits = _rewrite(module, plan, form, words=self.packing == "words")
            remark(
                RemarkKind.APPLIED, op, name,
                f"{form.weights}, {plan.groups} groups of {plan.group}, {bits:.3g} bits a weight",
            )  # fmt: skip
            op.operation.erase()


def match(module: ir.Module, op: Any, form: Form, *, words: bool = False) -> Plan | Refusal:
    """Describe how the weight of `op` would be quantised, or say why not.  Changes nothing."""
    found = find_rows(module, op)
    if isinstance(found, Refusal):
        return found
    # One group for all of K is padded like the last of several: whole vectors of codes.
    whole = round_up_group(found.k)
    group = min(form.group or whole, whole)
    parts = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    plan = Plan(**parts, group=group, groups=-(-found.k // group))
    k, weight = found.k, found.weight
    bits, stored = _bits_per_weight(plan, form, words=words), parameters.stored_bits(module, weight)
    if bits >= stored:
        return Refusal(f"K = {k} is too short: {bits:.3g} bits a weight where {stored} are stored")
    return plan


def _rewrite(module: ir.Module, plan: Plan, form: Form, *, words: bool) -> float:
    """Build the new matmul before the old one and replace it; return its bits per weight."""
    op = plan.contraction.op
    with ir.InsertionPoint(op), op.location:
        weight = _dequantised(module, plan, form, words=words)
        rank = len(build.shape_of(weight))
        rows = len(plan.rows)
        weight = build.collapse(weight, [[d] for d in range(rows)] + [list(range(rows, rank))])
        new = _contraction(plan, weight)
    bits = _bits_per_weight(plan, form, words=words)
    annotations.copy_annotations(op, new.operation)
    annotations.set_text(
        new.operation, annotations.LOWERING, f"dequantised {form.weights}, then exact"
    )
    new.operation.attributes[annotations.BITS] = ir.FloatAttr.get(
        ir.F64Type.get(module.context), bits
    )
    op.operation.results[0].replace_all_uses_with(new.operation.results[0])
    return bits


def _dequantised(module: ir.Module, plan: Plan, form: Form, *, words: bool) -> ir.Value:
    """Return the weight ``[rows…, G, g]`` (``[rows…, G, words, codes a word]``) as floats."""
    rows, f32 = [*plan.rows], ir.F32Type.get()
    width = element_bits(form.bits)
    per_word = 32 // width
    inner = [plan.group // per_word, per_word] if words else [plan.group]
    if words:
        shape, code = [*rows, plan.groups, inner[0]], ir.IntegerType.get_signless(32)
    else:
        shape, code = [*rows, plan.groups, *inner], ir.IntegerType.get_signless(width)
    # The barrier keeps IREE from dequantising once at load time, which would store floats.
    codes = build.barrier(_load_part(module, plan, form, "codes", shape, code, words=words))
    inputs = [
        codes,
        _load_part(module, plan, form, "scales", [*rows, plan.groups], f32, words=words),
    ]
    if not form.symmetric:
        # A zero point has as many bits as a code, but is a byte, so that rows start on bytes, or
        # a word, where the last bytes of a buffer cannot be read (Vulkan).
        zero = ir.IntegerType.get_signless(32 if words else 8)
        inputs.append(
            _load_part(module, plan, form, "zeros", [*rows, plan.groups], zero, words=words)
        )
    rank = len(rows) + 1 + len(inner)
    element = value_type(plan.weight.element, build.element_of(plan.contraction.init))
    init = build.empty([*rows, plan.groups, *inner], element)
    per_group = build.dims_map(rank, range(len(rows) + 1))
    per_code = build.dims_map(rank, range(len(shape)))
    maps = [per_code, *[per_group] * (len(inputs) - 1), build.dims_map(rank, range(rank))]

    def body(q: ir.Value, s: ir.Value, *rest: ir.Value) -> ir.Value:
        zero = rest[0] if len(rest) > 1 else None
        if words:
            signed = form.has_integer_weights and form.symmetric
            q = code_of_word(q, width, build.loop_index(rank - 1), signed=signed)
        return build.convert(arith.mulf(code_value(q, zero, form), s), element)

    return build.generic(inputs, init, maps, ["parallel"] * rank, body).result


def value_type(weight: ir.Type, accumulator: ir.Type) -> ir.Type:
    """Return the type that a weight is dequantised to.

    Where products are summed in f32 or wider, it keeps all of its bits: rounding it to the 16 bits
    of the model's weights would only lose accuracy.
    """
    return accumulator if accumulator.width >= 32 else weight


def _load_part(
    module: ir.Module, plan: Plan, form: Form, part: str, shape: list[int], element: ir.Type,
    *, words: bool,
) -> ir.Value:  # fmt: skip
    rows = Stored(plan.source, plan.weight.symbol, plan.layout, plan.group)
    inputs_of = annotations.text(plan.contraction.op, annotations.MATMUL)
    return load_part(module, rows, form, part, shape, element, words=words, inputs_of=inputs_of)


@dataclass(frozen=True)
class Stored:
    """What codes follow from: a parameter, its global, the layout of its rows, and their groups."""

    source: str
    symbol: str
    layout: tuple[Any, ...]
    group: int


def load_part(
    module: ir.Module, rows: Stored, form: Form, part: str, shape: list[int], element: ir.Type,
    *, words: bool, inputs_of: str,
) -> ir.Value:  # fmt: skip
    """Load the codes, scales or zeros of `rows`; declare their global unless it is there.

    `words` are codes in i32.  `inputs_of` names the matmul that methods with inputs look at.
    """
    type_ = build.tensor_type(shape, element)
    kind = f"{form.weights}g{rows.group}" + ("" if form.symmetric else "z")
    kind += "" if form.scales == "f32" else "h"
    kind += "" if form.method == "rtn" else f".{form.method}"
    layout = json.dumps(rows.layout, separators=(",", ":"))
    # Two uses of one weight in different layouts are two derived parameters.
    view = "" if not rows.layout else f".{parameters.layout_name(layout)}"
    derivation = {"part": part, "source": rows.source, "layout": layout, "group": rows.group}
    if form.has_integer_weights:
        derivation |= {
            "kind": form.method,
            "bits": form.bits,
            "symmetric": form.symmetric,
            "zero_bytes": 4 if words else 1,
        }
    else:
        derivation |= {"kind": f"{form.method}-floats", "format": form.weights}
    if form.scales != "f32":
        derivation["scales"] = form.scales
    if form.takes_inputs:
        derivation["moments"] = inputs_of
    if words:
        kind += "w"
    holder = parameters.find_global(module, rows.symbol)
    symbol = f"{rows.source}.{kind}{view}.{part}"
    return build.load_global(
        parameters.derived_global(module, holder, symbol, type_, derivation), type_
    )


def _contraction(plan: Plan, weight: ir.Value) -> Any:
    """Return the same contraction over the laid out weight, K padded to whole groups."""
    found, position = plan.contraction, plan.weight.position
    other, other_map = found.operands[1 - position], found.maps[1 - position]
    loops = found.maps[0].n_dims
    k_axis = dims_of(other_map).index(found.k[0])
    other = build.with_static_size(other, k_axis, plan.k)
    missing = plan.groups * plan.group - plan.k
    if missing:
        other = build.pad_end(other, k_axis, missing)
        defining(other).attributes[annotations.FILLED] = ir.UnitAttr.get()
    weight_map = build.dims_map(loops, [*plan.row_dims, found.k[0]])
    inputs, maps = [other, weight], [other_map, weight_map]
    if position == 0:
        inputs.reverse()
        maps.reverse()
    iterators = ["reduction" if d in found.k else "parallel" for d in range(loops)]
    return build.generic(inputs, found.init, [*maps, found.maps[2]], iterators, multiply_add)


def multiply_add(a: ir.Value, b: ir.Value, acc: ir.Value) -> ir.Value:
    """Return ``acc + a * b`` in the accumulator's type."""
    a, b = widen(a, acc.type), widen(b, acc.type)
    return arith.addf(acc, arith.mulf(a, b))


def widen(value: ir.Value, type_: ir.Type) -> ir.Value:
    """Extend a float to a wider type, or return it as it is."""
    return value if value.type == type_ else arith.extf(type_, value)


def _bits_per_weight(plan: Plan, form: Form, *, words: bool) -> float:
    return bits_per_weight(form, plan.group, plan.groups, plan.k, words=words)


def bits_per_weight(form: Form, group: int, groups: int, k: int, *, words: bool) -> float:
    """Return the stored bits of a weight of K = `k`, scales and zero points counted.

    Scales are f32 here, whatever they were rounded to; kernels that read halves store those.
    """
    zero = 0 if form.symmetric else 32 if words else 8
    return (element_bits(form.bits) * group + 32 + zero) * groups / k
