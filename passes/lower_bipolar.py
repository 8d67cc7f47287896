"""``lowc-lower-bipolar``: multiply two operands as bipolar integers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from iree.compiler import ir

from . import annotations, bipolar_products
from .assign_forms import form_of
from .base import Pass, Refusal, RemarkKind


@dataclass(frozen=True)
class LowerBipolar(Pass):
    """Turn products of form ``bipolar`` into XOR and counts of bits.

    Rows of both operands become planes of signs with a scale, those of a weight when the model is
    compiled and others at run time; the bits of 32 inputs are a word
    (``passes/formats/bipolar_products.py``).  With one plane, of the queries and keys of
    attention, this is *MatAdd*.

    Source: ShiftAddViT (arXiv 2306.06446); APT-LLM (arXiv 2409.17870) for several planes.

    Before::

        %y = linalg.batch_matmul {lowc.form = {form = "bipolar", planes = 1, scales = "f32"}}
               ins(%q, %k : tensor<12x8x32xf32>, tensor<12x32x8xf32>) outs(%zero)

    After::

        %s = linalg.generic (b, m; k) ins(%q) … { absf, addf }                // and of %k
        %c = linalg.generic (b, m, k) ins(%q) … { cmpf, select }
        %a = linalg.generic (b, m, plane, word; bit) ins(%c) … { shrui, andi, shli, ori }
        %d = linalg.generic (b, m, n; planes, word) ins(%a, %b) … { xori, ctpop, shli, addi }
        %y = linalg.generic (b, m, n) ins(%d, %s, %t) … { subi, sitofp, mulf, mulf }
    """

    name: ClassVar[str] = "lowc-lower-bipolar"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Rewrite every product of form ``bipolar`` whose K is known."""
        for op in annotations.matmuls(module):
            form = form_of(op)
            if form.form != "bipolar" or annotations.PRODUCT in op.attributes:
                continue
            name, plan = (
                annotations.text(op, annotations.MATMUL),
                bipolar_products.match(module, op, form),
            )
            if isinstance(plan, Refusal):
                annotations.set_text(op, annotations.LOWERING, f"exact ({plan.reason})")
                remark(RemarkKind.REFUSED, op, name, f"not rewritten: {plan.reason}")
                continue
            made = bipolar_products.rewrite(module, plan)
            annotations.set_text(made, annotations.LOWERING, plan.describe())
            remark(RemarkKind.APPLIED, made, name, plan.describe())
