"""Products of 8-bit activations by signed powers of two: the form ``signed-digits``.

A product of integers that ``lowc-quantize-activations`` built has one multiplication for each
activation and code.  Here it becomes shifts and additions by the canonical signed digits of the
code (``formats/signed_digits.py``), which are found where it is used: nothing more is stored.  The
sums are integers, so they are those of the multiplication, whatever is added first.

What stands around the product multiplies still: before it, activations are rounded by a division
for each scale and a multiplication for each activation; behind it, scales multiply the sums.

For a code c and an activation x, with masks of all ones or zeros::

    h = c >> 1,  t = c + h,  e = t ^ h,  plus = e & t,  minus = e & h
    x c = sum over digits i of ((x << i) & mask(bit i of plus)) - ((x << i) & mask(bit i of minus))

At most half of the digits are not zero, 2.8 of 8 on average: a machine that skips zeros adds as
often.  Code that computes all lanes of a vector together cannot, and adds zeros.
"""

import json
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import annotations, integer_products
from .base import Refusal
from .contraction import defining

KIND = "signed-digits"  # in the facts of ``lowc.product``
# Why no kernel takes it: a chip that can multiply has the same integers from a dot product.
NO_KERNEL = "form 'dequant' with activations i8 gives the same result by a kernel"
_WIDTH = 32


@dataclass(frozen=True)
class Plan:
    """The sum of products, the multiplication in it, and what scales its results afterwards."""

    op: Any
    dots: Any
    multiplication: Any
    scaling: tuple[Any, ...]
    bits: int


def match(op: Any) -> Plan | Refusal:
    """Describe a product of integers by its last operation.  Changes nothing."""
    facts = annotations.product_facts(op)
    if facts.get("kind") != integer_products.KIND:
        return Refusal("its weight or its activations stayed floats")
    scaling = [op]
    if facts["activation-scale"] == "row":
        scaling.append(defining(op.operands[0]))
    dots = defining(scaling[-1].operands[0])
    body = [inner.operation for inner in dots.regions[0].blocks[0].operations]
    # Where codes stand in words, the number of a loop is multiplied too: that is an index.
    (multiplication,) = (
        inner
        for inner in body
        if inner.name == "arith.muli" and inner.results[0].type != ir.IndexType.get()
    )
    return Plan(op, dots, multiplication, tuple(scaling), facts["bits"])


def rewrite(plan: Plan) -> Any:
    """Replace the multiplication; return the operation that stands for the product now."""
    name = annotations.text(plan.op, annotations.MATMUL)
    x, code = plan.multiplication.operands
    with ir.InsertionPoint(plan.multiplication), plan.multiplication.location:
        made = product(x, code, plan.bits)
    plan.multiplication.results[0].replace_all_uses_with(made)
    plan.multiplication.erase()
    facts = {**annotations.product_facts(plan.op), "kind": KIND}
    annotations.move_annotations(plan.op, plan.dots)
    annotations.set_text(plan.dots, annotations.PRODUCT, json.dumps(facts))
    del plan.dots.attributes[annotations.PART]
    for scales in plan.scaling:
        if annotations.PART in scales.attributes:
            del scales.attributes[annotations.PART]
        annotations.set_text(scales, annotations.AFTER, name)
    return plan.dots


def product(x: ir.Value, code: ir.Value, bits: int) -> ir.Value:
    """Return x times a code of `bits`, both i32, by shifts and additions alone."""
    half = arith.shrsi(code, _constant(1))
    triple = arith.addi(code, half)
    changed = arith.xori(triple, half)
    plus, minus = arith.andi(changed, triple), arith.andi(changed, half)
    total = _constant(0)
    for digit in range(bits):
        moved = arith.shli(x, _constant(digit)) if digit else x
        total = arith.addi(total, arith.andi(moved, _mask(plus, digit)))
        total = arith.subi(total, arith.andi(moved, _mask(minus, digit)))
    return total


def _mask(word: ir.Value, bit: int) -> ir.Value:
    """Return -1 where a bit of `word` is set, else 0."""
    up = arith.shli(word, _constant(_WIDTH - 1 - bit))
    return arith.shrsi(up, _constant(_WIDTH - 1))


def _constant(value: int) -> ir.Value:
    return arith.constant(ir.IntegerType.get_signless(_WIDTH), value)
