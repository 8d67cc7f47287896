"""``lowc-share-embeddings``: look rows up in the panels that a product reads its weight from."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import annotations, build, look_ups, parameters
from .assign_forms import form_of
from .base import Pass, Refusal, RemarkKind
from .code_values import integer_value
from .contraction import defining, simplify_layout
from .formats import panels
from .forms import Form
from .quantize_embeddings import annotate


@dataclass(frozen=True)
class Plan:
    """A look-up in codes, and the panels ``[1, panels, …, columns]`` that hold the same codes.

    ``symbols`` has the global of each part: codes, scales, and zeros and factors if there are any.
    """

    op: Any
    form: Form
    group: int
    groups: int
    columns: int
    symbols: dict[str, str]


@dataclass(frozen=True)
class ShareEmbeddings(Pass):
    """Let tables in few bits that are weights of products too be stored once.

    A kernel reads codes in panels of columns (``formats/panels.py``), which are rows of the table.
    Where a product has the same codes of the same parameter, in 2, 4 or 8 bits, rows are looked up
    there, and the table's own codes go.

    Before::

        %q = util.global.load @"embed.weight.i4g32.codes" : tensor<100x2x32xi4>
        %x = linalg.generic {lowc.lookup = "embed", …} (t, g, j) ins(%tokens) … { … %q[%i, %g, %j] }

    After::

        %q = util.global.load @"embed.weight.i4g32.p64.codes" : tensor<1x2x8x64xi32>
        %x = linalg.generic {lowc.lookup = "embed", …} (t, g, j) ins(%tokens) …
               { … %q[0, %i / 64, %word, %i % 64], shrui, andi, subi 8, sitofp, mulf }
    """

    name: ClassVar[str] = "lowc-share-embeddings"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Rewrite every look-up whose codes are there in panels."""
        for op in annotations.look_ups(module):
            if annotations.BITS not in op.attributes:
                continue
            plan = match(module, op)
            if isinstance(plan, Refusal):
                remark(
                    RemarkKind.NOTE, op, annotations.text(op, annotations.LOOKUP),
                    f"it has rows of its own: {plan.reason}",
                )  # fmt: skip
                continue
            _rewrite(module, plan)
            remark(
                RemarkKind.APPLIED, op, annotations.text(op, annotations.LOOKUP),
                f"looked up in panels of {plan.columns} columns, which a product reads too",
            )  # fmt: skip
            op.operation.erase()


def match(module: ir.Module, op: Any) -> Plan | Refusal:
    """Describe the panels that hold the codes of `op`, or say why there are none."""
    form, codes = form_of(op), _codes(op)
    if codes is None or not form.has_integer_weights or 8 % form.bits:
        return Refusal("panels are read of integers of 2, 4 or 8 bits")
    own = _derivation(module, codes)
    rows, groups = build.shape_of(codes)[:2]
    kept = ("source", "bits", "group", "symmetric", "scales")
    for holder in module.body.operations:
        if annotations.DERIVATION not in holder.attributes:
            continue
        found = annotations.from_attribute(holder.attributes[annotations.DERIVATION])
        if found["kind"] != "integer-panels" or found["part"] != "codes" or "moments" in found:
            continue
        if [found.get(key) for key in kept] != [own.get(key) for key in kept]:
            continue
        if simplify_layout(json.loads(found["layout"])) != (["reshape", [1, rows, -1]],):
            continue
        stem = annotations.text(holder, "sym_name").removesuffix("codes")
        parts = ["codes", "scales", *([] if form.symmetric else ["zeros"])]
        parts += ["factors"] if "halves" in found else []
        symbols = {part: f"{stem}{part}" for part in parts}
        return Plan(op, form, own["group"], groups, found["columns"], symbols)
    return Refusal("no product reads its codes in panels")


def _codes(op: Any) -> Any:
    """Return the table of codes ``[rows, G, g]`` that `op` reads; None if they are in words."""
    for inner in op.regions[0].blocks[0].operations:
        if inner.operation.name == "tensor.extract":
            table: ir.Value = inner.operation.operands[0]
            is_word = build.element_of(table).width == 32
            return None if is_word else table
    return None


def _derivation(module: ir.Module, table: ir.Value) -> dict[str, Any]:
    symbol = ir.FlatSymbolRefAttr(defining(table).attributes["global"]).value
    holder = parameters.find_global(module, symbol)
    return annotations.from_attribute(holder.attributes[annotations.DERIVATION])


def _rewrite(module: ir.Module, plan: Plan) -> None:
    op = plan.op
    bits = ir.FloatAttr(op.attributes[annotations.BITS]).value
    with ir.InsertionPoint(op), op.location:
        new = _from_panels(module, plan)
        told = f"{plan.form.weights} codes in the panels of a product, made floats where looked up"
        annotate(op, new, bits, told)
    op.results[0].replace_all_uses_with(new.result)


def _from_panels(module: ir.Module, plan: Plan) -> Any:
    form, columns = plan.form, plan.columns
    tables = {}
    for part, symbol in plan.symbols.items():
        holder = parameters.find_global(module, symbol)
        type_ = ir.TypeAttr(holder.attributes["type"]).value
        tables[part] = build.load_global(symbol, type_)
    chunk = panels.chunk_of(plan.group)
    whole, vectors = 8 // form.bits, panels.vectors_per_chunk(form.bits, plan.group)
    i32 = ir.IntegerType.get_signless(32)

    def number(value: int) -> ir.Value:
        return arith.constant(i32, value)

    def scale_of(at: Sequence[ir.Value]) -> ir.Value:
        scale = build.extract(tables["scales"], at)
        if "factors" not in tables:
            return scale
        factor = build.extract(tables["factors"], [at[0], at[1], at[3]])
        return arith.mulf(arith.extf(ir.F32Type.get(), scale), factor)

    def read(row: ir.Value, places: Sequence[ir.Value]) -> ir.Value:
        group, place = places
        size = build.index
        panel, column = arith.divui(row, size(columns)), arith.remui(row, size(columns))
        k = arith.addi(arith.muli(group, size(plan.group)), place)
        inside = arith.remui(k, size(chunk))
        quad, byte = arith.divui(inside, size(4)), arith.remui(inside, size(4))
        first = arith.muli(arith.divui(k, size(chunk)), size(vectors))
        vector = arith.addi(first, arith.divui(quad, size(whole)))
        bit = arith.addi(
            arith.muli(byte, size(8)), arith.muli(arith.remui(quad, size(whole)), size(form.bits))
        )
        zero = build.index(0)
        word = build.extract(tables["codes"], [zero, panel, vector, column])
        code = arith.shrui(word, arith.index_cast(i32, bit))
        code = arith.andi(code, number((1 << form.bits) - 1))
        at = [zero, panel, group, column]
        if form.symmetric:
            code = arith.subi(code, number(1 << (form.bits - 1)))
            value = integer_value(code, None)
        else:
            value = integer_value(code, build.extract(tables["zeros"], at))
        return arith.mulf(value, scale_of(at))

    return look_ups.rebuild(plan.op, [plan.groups, plan.group], read, replaced=2)
