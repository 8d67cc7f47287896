"""``lowc-quantize-embeddings``: store tables in few bits, make floats of the rows looked up."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import annotations, build, look_ups
from .assign_forms import form_of
from .base import Pass, Refusal, RemarkKind
from .code_values import code_of_word, code_value
from .formats.integer import element_bits
from .forms import Form, round_up_group
from .look_ups import LookUp
from .quantize_weights import Stored, bits_per_weight, load_part


@dataclass(frozen=True)
class Plan:
    """A look-up, and how the rows of its table are cut into groups."""

    found: LookUp
    group: int
    groups: int
    bits: float


@dataclass(frozen=True)
class QuantizeEmbeddings(Pass):
    """Look rows up in codes, where a rule with ``of = "embedding"`` asks for it.

    Codes and scales are what ``lowc-quantize-weights`` makes of a weight ``[rows, K]`` of the same
    form, under the same names: a table that is also the weight of a product is stored once.

    Before::

        %w = util.global.load @"embed.weight" : tensor<100x64xf32>
        %x = linalg.generic {lowc.lookup = "embed", lowc.form = {form = "dequant", weights = "i4",
               group = 32, …}} (t, k) ins(%tokens) … { tensor.extract %w[%i, %k] }

    After::

        %q = util.global.load @"embed.weight.i4g32.codes" : tensor<100x2x32xi4>
        %s = util.global.load @"embed.weight.i4g32.scales" : tensor<100x2xf32>
        %d = linalg.generic {lowc.lookup = "embed", …} (t, g, j) ins(%tokens) …
               { tensor.extract %q[%i, %g, %j], tensor.extract %s[%i, %g], sitofp, mulf }
        %x = tensor.collapse_shape %d [[0], [1, 2]] : tensor<?x2x32xf32> into tensor<?x64xf32>

    Parameters
    ----------
    packing : str
        As of ``lowc-quantize-weights``.
    """

    packing: Literal["bits", "words"] = "bits"
    name: ClassVar[str] = "lowc-quantize-embeddings"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Rewrite every look-up whose form stores codes."""
        words = self.packing == "words"
        for op in annotations.look_ups(module):
            form = form_of(op)
            if not form.stores_codes:
                continue
            name = annotations.text(op, annotations.LOOKUP)
            plan = match(module, op, form, words=words)
            if isinstance(plan, Refusal):
                annotations.set_text(op, annotations.LOWERING, f"as exported ({plan.reason})")
                remark(RemarkKind.REFUSED, op, name, f"not quantised: {plan.reason}")
                continue
            _rewrite(module, plan, form, words=words)
            remark(
                RemarkKind.APPLIED, op, name,
                f"{form.weights}, {plan.groups} groups of {plan.group}, {plan.bits:.3g} bits each",
            )  # fmt: skip
            op.operation.erase()


def match(module: ir.Module, op: Any, form: Form, *, words: bool = False) -> Plan | Refusal:
    """Describe how the table of `op` would be stored, or say why not.  Changes nothing."""
    found = look_ups.match(module, op)
    if isinstance(found, Refusal):
        return found
    k = found.columns
    whole = round_up_group(k)
    group = min(form.group or whole, whole)
    groups = -(-k // group)
    bits, stored = bits_per_weight(form, group, groups, k, words=words), found.element.width
    if bits >= stored:
        return Refusal(f"a row of {k} is too short: {bits:.3g} bits each where {stored} are stored")
    return Plan(found, group, groups, bits)


def _rewrite(module: ir.Module, plan: Plan, form: Form, *, words: bool) -> None:
    op = plan.found.op
    with ir.InsertionPoint(op), op.location:
        new = _from_codes(module, plan, form, words=words)
        annotate(op, new, plan.bits, f"rows of {form.weights} codes, made floats where looked up")
        replace(op, new, plan.groups * plan.group)


def annotate(op: Any, new: Any, bits: float, lowering: str) -> None:
    """Carry what is known of the look-up `op` over to `new`, which is of so many bits."""
    for name in (annotations.LOOKUP, annotations.FORM, annotations.SHAPE):
        new.operation.attributes[name] = op.attributes[name]
    annotations.set_text(new.operation, annotations.LOWERING, lowering)
    new.operation.attributes[annotations.BITS] = ir.FloatAttr.get(ir.F64Type.get(op.context), bits)


def replace(op: Any, new: Any, k: int) -> None:
    """Put `new`, whose last dimensions make `k` columns, into the place of `op`."""
    shape = build.shape_of(op.results[0])
    outer, rank = len(shape) - 1, len(build.shape_of(new.result))
    groups = [[axis] for axis in range(outer)] + [list(range(outer, rank))]
    result = build.cut_last(build.collapse(new.result, groups), shape[-1])
    op.results[0].replace_all_uses_with(result)


def _from_codes(module: ir.Module, plan: Plan, form: Form, *, words: bool) -> Any:
    rows, width = plan.found.rows, element_bits(form.bits)
    per_word = 32 // width
    stored = Stored(plan.found.source, plan.found.symbol, (), plan.group)

    def load(part: str, shape: list[int], element: ir.Type) -> ir.Value:
        sizes = [rows, plan.groups, *shape]
        return load_part(module, stored, form, part, sizes, element, words=words, inputs_of="")

    bits = ir.IntegerType.get_signless
    inner = [plan.group // per_word, per_word] if words else [plan.group]
    codes = load("codes", inner[:1], bits(32 if words else width))
    scales = load("scales", [], ir.F32Type.get())
    zeros = None if form.symmetric else load("zeros", [], bits(32 if words else 8))

    def read(row: ir.Value, places: Any) -> ir.Value:
        group = places[0]
        code = build.extract(codes, [row, *places[:2]])
        zero = None if zeros is None else build.extract(zeros, [row, group])
        if words:
            signed = form.has_integer_weights and form.symmetric
            code = code_of_word(code, width, places[-1], signed=signed)
        return arith.mulf(code_value(code, zero, form), build.extract(scales, [row, group]))

    return look_ups.rebuild(plan.found.op, [plan.groups, *inner], read)
