"""``lowc-lower-shift-add``: add activations by the signs of coded weights, and shift the sums."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from iree.compiler import ir

from . import annotations, binary_weights, digit_products, shift_products, signed_sums
from .assign_forms import form_of
from .base import Pass, Refusal, RemarkKind


@dataclass(frozen=True)
class LowerShiftAdd(Pass):
    """Turn products of these forms into shifts and additions: ``shift``, ``binary``, and others.

    ``binary`` and ``ternary`` here without tables, and ``signed-digits``.

    A weight is planes of signs and, for each group of inputs, scales that are sums of powers of
    two (``passes/formats/binary_codes.py``).  Activations are added with the sign that their bit
    says, and each sum over a group is shifted by the terms of its scale: an addition to its
    exponent.  Activations are in f32, or extended to it.  Nothing is multiplied.  Weights of the
    form ``ternary`` are two planes with one scale, by which the result is multiplied.  Weights of
    the form ``shift`` are a sign and a power of two each, so that every activation is shifted.
    Of the form ``signed-digits`` weights are integers, and activations were rounded to integers by
    the passes before: each multiplication of two becomes shifts and additions, by the canonical
    signed digits of the weight, and the sums are the same.

    Source: ShiftAddLLM (arXiv 2406.05981); BitNet b1.58 (arXiv 2402.17764) for ``ternary``;
    DeepShift (arXiv 1905.13298) and ShiftAddViT (arXiv 2306.06446) for ``shift``;
    Booth 1951 and Reitwiesner 1960 for ``signed-digits``.

    Before::

        %w = util.global.load @"fc.weight" : tensor<8x64xf32>
        %t = linalg.transpose ins(%w) … permutation = [1, 0]
        %y = linalg.matmul {lowc.form = {form = "binary", planes = 2, group = 32, …}}
               ins(%x, %t : tensor<2x64xf32>, tensor<64x8xf32>) outs(%zero)

    After::

        %g = tensor.expand_shape %x [[0], [1, 2]]                // tensor<2x2x32xf32>
        %b = util.global.load @"fc.weight.b2g32o1t3.signs" : tensor<8x2x2xi32>
        %t = util.global.load @"fc.weight.b2g32o1t3.terms" : tensor<8x2x2xi32>
        %p = linalg.generic (m, n, G, plane; g) ins(%g, %b) … { shli, andi, xori, addf }
        %y = linalg.generic (m, n; G plane) ins(%p, %t) … { addi, select, addf }
    """

    name: ClassVar[str] = "lowc-lower-shift-add"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Rewrite every matmul of form ``binary`` without tables whose weight can be found."""
        run(module, ("binary", "ternary"), signed_sums.rewrite, remark, tables=False)
        for op in _of_forms(module, ("shift",)):
            name, plan = annotations.text(op, annotations.MATMUL), shift_products.match(module, op)
            if isinstance(plan, Refusal):
                _refuse(op, plan, remark)
                continue
            made = shift_products.rewrite(module, plan)
            text = "every weight a power of two"
            annotations.set_text(made, annotations.LOWERING, text)
            bits = f"{plan.bits_per_weight:.3g} bits a weight"
            remark(RemarkKind.APPLIED, made, name, f"{text}, {bits}")
        for op in annotations.matmuls(module):
            if form_of(op).form != "signed-digits" or annotations.BITS not in op.attributes:
                continue
            name, found = annotations.text(op, annotations.MATMUL), digit_products.match(op)
            if isinstance(found, Refusal):
                text = f"no signed digits ({found.reason})"
                annotations.add_text(op, annotations.LOWERING, text)
                remark(RemarkKind.REFUSED, op, name, text)
                continue
            made, text = digit_products.rewrite(found), f"i{found.bits} in canonical signed digits"
            annotations.add_text(made, annotations.LOWERING, text)
            remark(RemarkKind.APPLIED, made, name, f"{text}: no multiplication by a weight")


def run(
    module: ir.Module, forms: tuple[str, ...], rewrite: Callable[..., Any],
    remark: Callable[..., None], *, tables: bool,
) -> None:  # fmt: skip
    """Rewrite every matmul of these forms of signs, with tables or without.

    ``rewrite(module, plan)`` returns the last operation of the product, or says why there is none.
    """
    for op in _of_forms(module, forms):
        form = form_of(op)
        if (form.tables != "none") != tables:
            continue
        plan = binary_weights.match(module, op, form)
        if isinstance(plan, Refusal):
            _refuse(op, plan, remark)
            continue
        name = annotations.text(op, annotations.MATMUL)
        made = rewrite(module, plan)
        if isinstance(made, Refusal):
            _refuse(op, made, remark)
            continue
        how = f"tables of i{plan.entry_bits} in spans of {plan.span}" if tables else "signed sums"
        text = f"{plan.describe()}; {how}"
        annotations.set_text(made, annotations.LOWERING, text)
        remark(RemarkKind.APPLIED, made, name, f"{text}, {plan.bits_per_weight:.3g} bits a weight")


def _of_forms(module: ir.Module, forms: tuple[str, ...]) -> list[Any]:
    """Return the matmuls of these forms, but for products that an earlier run made."""
    return [
        op
        for op in annotations.matmuls(module)
        if form_of(op).form in forms and annotations.PRODUCT not in op.attributes
    ]


def _refuse(op: Any, why: Refusal, remark: Callable[..., None]) -> None:
    annotations.set_text(op, annotations.LOWERING, f"exact ({why.reason})")
    name = annotations.text(op, annotations.MATMUL)
    remark(RemarkKind.REFUSED, op, name, f"not rewritten: {why.reason}")
