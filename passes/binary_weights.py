"""Binary-coded weights of matmuls: which can be coded, and how their signs and terms are loaded.

K is cut into *units* that are summed at once: words of signs, shorter groups, or spans of tables.
A unit is a part of a word, or whole words; so K is filled up to whole words.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith, tensor

from . import annotations, build, parameters
from .base import Refusal
from .contraction import dims_of, simplify_layout
from .formats import trits
from .formats.binary_codes import ROUNDS, WORD, BinaryCodes
from .formats.trits import FIVE
from .forms import TABLE_BITS, Form, cut_binary
from .integer_products import as_f32
from .weight_rows import WeightRows, find_rows, too_wide

SCALE_BYTES = 4  # a word that holds the terms of a scale, the first in the lowest byte


@dataclass(frozen=True)
class Plan:
    """What the rewrite needs: the weight in rows, its form, and how K is cut."""

    found: WeightRows
    form: Form
    group: int
    span: int

    @property
    def unit(self) -> int:
        """Inputs that are summed at once: a span of tables, else at most a word."""
        return self.span if self.entry_bits else min(self.group, WORD)

    @property
    def is_ternary(self) -> bool:
        """Whether both planes have half of one scale, which is no power of two (``ternary.py``)."""
        return self.form.form == "ternary"

    @property
    def has_trits(self) -> bool:
        """Whether a byte holds five ternary weights (``trits.py``)."""
        return self.is_ternary and self.form.packing == "trits"

    @property
    def is_integer(self) -> bool:
        """Whether planes are the bits of integers (``bit_planes.py``)."""
        return self.form.form == "lut"

    @property
    def entry_bits(self) -> int:
        """Bits of the entries of tables; 0 without tables."""
        return TABLE_BITS.get(self.form.tables, 0)

    @property
    def words(self) -> int:
        """Words of signs in a row of a plane."""
        return -(-self.groups * self.group // WORD)

    @property
    def groups(self) -> int:
        """Groups of a row."""
        return -(-self.found.k // self.group)

    @property
    def units(self) -> int:
        """Units of a row, K filled up to whole words."""
        return self.words * WORD // self.unit

    @property
    def spans(self) -> int:
        """Whole spans of tables in a row."""
        return -(-self.found.k // self.span)

    @property
    def fmt(self) -> BinaryCodes:
        """The format of each matrix of the weight."""
        outputs = min(self.form.outputs or self.found.n, self.found.n)
        return BinaryCodes(self.form.planes, self.group, outputs, self.form.terms)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits of a weight, terms and filling counted."""
        if self.has_trits:
            return 8 * self.group / (FIVE * self.found.k)
        along_n, along_k = self.fmt.blocks(self.found.n, self.found.k)
        signs = self.found.n * self.words * WORD
        scales = 8 * SCALE_BYTES * along_n * along_k
        if self.is_integer:  # a scale and a zero point are those of all planes
            per_group = 32 if self.form.symmetric else 64
            return (self.fmt.planes * signs + per_group * along_n * along_k) / (
                self.found.n * self.found.k
            )
        return self.fmt.planes * (signs + scales) / (self.found.n * self.found.k)

    def describe(self) -> str:
        """Say in words what the weight is stored as."""
        if self.is_integer:
            zero = "" if self.form.symmetric else " with zero points"
            return f"{self.form.weights}{zero} in groups of {self.group}"
        if self.has_trits:
            return "-1, 0 and 1, five in a byte, one scale"
        if self.is_ternary:
            return "-1, 0 and 1 in 2 planes of signs, one scale"
        fmt = self.fmt
        plural = "s" if fmt.planes > 1 else ""
        shared = "" if fmt.outputs == 1 else f" x {fmt.outputs} outputs"
        return (
            f"{fmt.planes} plane{plural} of signs, groups of {fmt.group}{shared}, "
            f"scales of {fmt.terms} power{'s' if fmt.terms > 1 else ''} of two"
        )

    def facts(self, kind: str) -> dict[str, Any]:
        """Return what a kernel must know of the product."""
        fmt = self.fmt
        facts = {"kind": kind, "planes": fmt.planes, "group": fmt.group}
        facts |= {"outputs": fmt.outputs, "terms": fmt.terms, "k": self.found.k}
        if self.entry_bits:
            facts |= {"entry_bits": self.entry_bits, "span": self.span}
        return facts


def match(module: ir.Module, op: Any, form: Form) -> Plan | Refusal:
    """Describe how the weight of `op` would be coded, or say why not.  Changes nothing."""
    found = find_rows(module, op)
    if isinstance(found, Refusal):
        return found
    if form.form == "ternary":
        form = dataclasses.replace(form, planes=2, group=0, outputs=0, terms=1)
    if form.form == "lut":
        form = dataclasses.replace(form, planes=form.bits, outputs=1, terms=1)
    wide = too_wide(found)
    if wide:
        return Refusal(f"it is calculated in {wide}, and shifts are of f32")
    span = None if form.tables == "none" else form.span
    group, span = cut_binary(found.k, form.group, span)
    if form.packing == "trits":
        span = trits.span_of(form.span, found.k)
        group = -(-found.k // span) * span
    plan = Plan(found, form, group, span)
    bits, stored = plan.bits_per_weight, parameters.stored_bits(module, found.weight)
    if bits >= stored:
        return Refusal(
            f"N x K = {found.n} x {found.k} is too small: "
            f"{bits:.3g} bits a weight where {stored} are stored"
        )
    return plan


class Cut:
    """Loops of a product over a cut weight: dimensions of the result, units, planes, inputs.

    Units that are parts of words have two loops, over words and the units of a word; units of
    several words have a loop over these inside.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        found = plan.found
        contraction, position = found.contraction, found.weight.position
        order = (*dims_of(contraction.maps[2]), contraction.k[0])
        place = {loop: i for i, loop in enumerate(order)}
        self.k = len(order) - 1
        self.x_dims = [place[d] for d in dims_of(contraction.maps[1 - position])]
        self.rows = [place[d] for d in found.row_dims]
        self.has_parts = plan.unit < WORD
        self.unit_loops = [self.k, self.k + 1] if self.has_parts else [self.k]
        self.plane = self.unit_loops[-1] + 1
        self.word_loops = [self.plane + 1] if plan.unit > WORD else []
        self.inner = self.plane + 1 + len(self.word_loops)

    @property
    def axis(self) -> int:
        """Where K is in the activation."""
        return self.x_dims.index(self.k)

    @property
    def unit_sizes(self) -> list[int]:
        """The sizes of `unit_loops`."""
        plan = self.plan
        return [plan.words, WORD // plan.unit] if self.has_parts else [plan.units]

    def activation(self) -> ir.Value:
        """Return the activation in f32, K filled up with zeros to whole words."""
        found, axis = self.plan.found, self.axis
        operand = found.contraction.operands[1 - found.weight.position]
        value = build.with_static_size(as_f32(operand), axis, found.k)
        missing = self.plan.words * WORD - found.k
        return build.pad_end(value, axis, missing) if missing else value

    def signs(self, module: ir.Module) -> tuple[ir.Value, list[int]]:
        """Load the sign words; return them with a dimension per loop, and the loops."""
        plan = self.plan
        shape = [*plan.found.rows, plan.form.planes, plan.words]
        words = load_part(module, plan, "signs", shape, ir.IntegerType.get_signless(32))
        if not self.word_loops:
            return words, [*self.rows, self.plane, self.unit_loops[0]]
        words = build.expand_last(words, plan.units, plan.unit // WORD, len(shape) - 1)
        return words, [*self.rows, self.plane, *self.unit_loops, *self.word_loops]

    def bit(self, within: ir.Value) -> ir.Value:
        """Return the place in its word of the input `within` a unit (or word of one), an index."""
        if not self.has_parts:
            return within
        unit = arith.muli(build.loop_index(self.unit_loops[1]), build.index(self.plan.unit))
        return arith.addi(unit, within)

    def is_part(self, made: Any) -> Any:
        """Have the operations of `made` counted for the matmul; return it."""
        name = annotations.text(self.plan.found.contraction.op, annotations.MATMUL)
        if name:
            annotations.set_text(made.operation, annotations.PART, name)
        return made

    def joined(self, value: ir.Value) -> ir.Value:
        """Return ``[result…, units…, planes]`` with one dimension of units."""
        groups = [[d] for d in range(self.k)] + [self.unit_loops] + [[self.plane]]
        return build.collapse(value, groups) if self.has_parts else value


def load_terms(module: ir.Module, plan: Plan) -> tuple[ir.Value, int]:
    """Load the terms ``[rows…, G, planes]``, and say how many dimensions of rows there are.

    Terms that all outputs of a matrix share have the batches alone.  G is filled up with terms of
    zero to whole words.
    """
    found, fmt = plan.found, plan.fmt
    batch, blocks = found.rows[: found.batches], -(-found.n // fmt.outputs)
    inside = [plan.groups, fmt.planes]
    element = ir.IntegerType.get_signless(8 * SCALE_BYTES)
    shared = blocks == 1
    head = [*batch] if shared else [*found.rows] if fmt.outputs == 1 else [*batch, blocks]
    value = load_part(module, plan, "terms", [*head, *inside], element)
    if not shared and fmt.outputs > 1:
        # The barrier keeps IREE from storing them once for each output.
        value = _spread(plan, build.barrier(value), [*found.rows, *inside])
        head = [*found.rows]
    groups = plan.words * WORD // plan.group if plan.group < WORD else plan.groups
    if groups > plan.groups:
        value = build.pad_end(value, len(head), groups - plan.groups)
    return value, len(head)


def _spread(plan: Plan, terms: ir.Value, shape: list[int]) -> ir.Value:
    """Repeat the terms of a block of outputs for each of them."""
    found, element = plan.found, build.element_of(terms)

    def body(_out: ir.Value) -> ir.Value:
        output = build.index(0)
        for loop in range(found.batches, len(found.rows)):
            wider = arith.muli(output, build.index(found.rows[loop]))
            output = arith.addi(wider, build.loop_index(loop))
        block = arith.divui(output, build.index(plan.fmt.outputs))
        batch = [build.loop_index(loop) for loop in range(found.batches)]
        inside = [build.loop_index(loop) for loop in range(len(found.rows), len(shape))]
        return tensor.extract(terms, [*batch, block, *inside])

    rank = len(shape)
    init = build.empty(shape, element)
    return build.generic([], init, [build.identity_map(rank)], ["parallel"] * rank, body).result


def load_scale(module: ir.Module, plan: Plan) -> ir.Value:
    """Load the scale of a ternary weight: f32, one number."""
    return load_part(module, plan, "scale", [], ir.F32Type.get())


def load_part(
    module: ir.Module, plan: Plan, part: str, shape: list[int], element: ir.Type
) -> ir.Value:
    """Load a part of the coded weight (``signs``, ``terms``, ``scale``), declared where needed."""
    found = plan.found
    type_ = build.tensor_type(shape, element)
    steps = [*found.layout, ["reshape", [found.batch, found.n, found.k]]]
    if len(found.rows) == 1 + found.batches == 2:
        steps = [*found.layout]  # it is [batch, N, K] already
    layout = json.dumps(simplify_layout(steps), separators=(",", ":"))
    derivation = {"part": part, "source": found.source, "layout": layout, **_coding(plan)}
    if plan.form.takes_inputs:
        derivation["moments"] = annotations.text(found.contraction.op, annotations.MATMUL)
    # Two uses of one weight in different layouts are two derived parameters.
    view = f".{parameters.layout_name(layout)}" if found.layout else ""
    symbol = f"{found.source}.{_name(plan)}{view}.{part}"
    holder = parameters.find_global(module, found.weight.symbol)
    return build.load_global(
        parameters.derived_global(module, holder, symbol, type_, derivation), type_
    )


def _coding(plan: Plan) -> dict[str, Any]:
    """Return what codes depend on, as their derivation has it."""
    form, fmt = plan.form, plan.fmt
    if plan.is_integer:
        return {
            "kind": "bit-planes",
            "bits": form.bits,
            "group": plan.group,
            "symmetric": form.symmetric,
        }
    if plan.has_trits:
        return {"kind": "trits", "fives": plan.group // FIVE}
    return {
        "kind": "binary",
        "planes": fmt.planes,
        "group": fmt.group,
        "outputs": fmt.outputs,
        "terms": fmt.terms,
        "coding": "ternary" if plan.is_ternary else form.method,
        "rounds": ROUNDS,
        "scale_bytes": SCALE_BYTES,
    }


def _name(plan: Plan) -> str:
    form, fmt = plan.form, plan.fmt
    if plan.is_ternary:
        return f"ternary{fmt.group}" + (".trits" if plan.has_trits else "")
    if plan.is_integer:
        name = f"p{form.weights}g{plan.group}" + ("" if form.symmetric else "z")
        return name if form.method == "rtn" else f"{name}.{form.method}"
    name = f"b{fmt.planes}g{fmt.group}o{fmt.outputs}t{fmt.terms}"
    return name if form.method == "bcq" else f"{name}.{form.method}"
