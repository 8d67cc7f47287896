"""``lowc-quantize-activations``: round activations to 8 bits at run time, multiply integers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from iree.compiler import ir

from . import annotations, build, fuse_dequant, integer_products
from .assign_forms import form_of
from .base import Pass, Refusal, RemarkKind
from .formats.activations import longest_group
from .forms import Form
from .integer_products import Plan


@dataclass(frozen=True)
class QuantizeActivations(Pass):
    """Turn products over dequantised weights into integer ones, where the form has i8 activations.

    An activation is rounded to bytes with a scale per row or per group of the weight
    (``passes/formats/activations.py`` defines the numbers); each group is summed exactly in i32,
    and scales come after that.  Zero points act on the sums: the sum of ``(c - z) * q`` is that of
    ``c * q`` less z times that of q.

    Before::

        %d = linalg.generic ins(%c, %s) … { sitofp, mulf }       // tensor<8x2x32xf32>
        %w = tensor.collapse_shape %d [[0], [1, 2]]              // tensor<8x64xf32>
        %y = linalg.generic (m, n, k) ins(%x, %w) … { mulf, addf }

    After, with a scale per group::

        %g = tensor.expand_shape %x [[0], [1, 2]]                // tensor<4x2x32xf32>
        %p = linalg.generic (m, G, g) ins(%g) … { bitcast, andi, maxui }       // tensor<4x2xi32>
        %t = linalg.generic ins(%p) … { divf, cmpi, select }     // scales: tensor<4x2xf32>
        %r = linalg.generic ins(%p) … { divf, cmpi, select }     // their reciprocals
        %q = linalg.generic ins(%g, %r) … { mulf, roundeven, fptosi }          // tensor<4x2x32xi8>
        %i = linalg.generic (m, n, G, g) ins(%q, %c) … { muli, addi }          // tensor<4x8x2xi32>
        %y = linalg.generic (m, n, G) ins(%i, %s, %t) … { sitofp, mulf, mulf, addf }
    """

    name: ClassVar[str] = "lowc-quantize-activations"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Rewrite every product whose form has i8 activations and whose weight is quantised."""
        for op in annotations.matmuls(module):
            form = form_of(op)
            # A weight that was not quantised stays exact, which its own pass has said.
            if form.activations != "i8" or annotations.BITS not in op.attributes:
                continue
            name = annotations.text(op, annotations.MATMUL)
            plan = match(op, form)
            if isinstance(plan, Refusal):
                text = f"activations stay floats ({plan.reason})"
                annotations.add_text(op, annotations.LOWERING, text)
                remark(RemarkKind.REFUSED, op, name, f"activations stay floats: {plan.reason}")
                continue
            text = f"{form.weights} x i8 in integers, activation scales by {form.activation_scale}"
            made = integer_products.rewrite(plan)
            annotations.set_text(made, annotations.LOWERING, text)
            remark(RemarkKind.APPLIED, made, name, text)


def match(op: Any, form: Form) -> Plan | Refusal:
    """Describe `op` as a product over a weight in integers, or say why not.  Changes nothing."""
    found = fuse_dequant.match(op, words=True)
    if isinstance(found, Refusal):
        return found
    contraction = found.contraction
    types = [build.element_of(contraction.operands[found.activation])]
    types.append(build.element_of(contraction.init))
    wide = next((type_ for type_ in types if type_.width > 32), None)
    if wide is not None:
        return Refusal(f"it is calculated in {wide}, and scales are f32")
    weight = contraction.operands[1 - found.activation]
    groups = build.shape_of(found.inputs[1])[-1]
    k_axis = len(build.shape_of(weight)) - 1
    group = build.shape_of(weight)[k_axis] // groups
    most = longest_group(2**form.bits - 1)
    if group > most:
        return Refusal(f"a sum of {group} products may not fit 32 bits; {most} do")
    return Plan(found, form, groups, group)
