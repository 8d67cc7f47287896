"""``lowc-lower-lmul``: multiply by adding bit patterns, with L-Mul's offset."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from iree.compiler import ir

from . import add_elementwise, add_products
from .base import Pass
from .forms import Form


@dataclass(frozen=True)
class LowerLmul(Pass):
    """Make every multiplication of form ``lmul`` one integer addition of bit patterns.

    Matmuls, batch matmuls and convolutions (contracted directly, window by window) of any float
    type up to 32 bits, with static and dynamic shapes.  Sums are in f32.  With ``finite`` specials
    the operands are clamped ahead of the product, a weight when it is stored; the constant
    ``(bias << m) - (1 << (m - l))`` is subtracted from one of them, so that the sum of two patterns
    is the product.  Element-wise multiplications are rewritten where a rule asks for them
    (``of = "elementwise"``).  The definition is ``passes/formats/lmul.py``.

    A matmul that no recipe gave a form takes that of the options.

    Source: "Addition is All You Need" (arXiv 2410.00907), in its integer form.

    Before::

        %w = util.global.load @"fc.weight" : tensor<8x64xf32>
        %t = linalg.transpose ins(%w) … permutation = [1, 0]
        %y = linalg.matmul {lowc.form = {form = "lmul", …}} ins(%x, %t) outs(%zero)

    After::

        %p = linalg.generic ins(%x) … { bitcast, andi, maxui, minui, andi, ori, subi }
        %b = util.global.load @"fc.weight.f32m23….bits" : tensor<64x8xi32>
        %y = linalg.generic (m, n, k) ins(%p, %b) … { addi, bitcast, addf }

    Parameters
    ----------
    mantissa_bits : int
        Leading mantissa bits of each operand that are kept; 0 keeps all.
    specials : str
        ``finite`` clamps operands; ``full`` has every rule for zero, NaN, infinity and overflow.
    gain : bool
        Divide the sums by the slope of the approximate product.
    """

    mantissa_bits: int = 0
    specials: Literal["finite", "full"] = "finite"
    gain: bool = False
    name: ClassVar[str] = "lowc-lower-lmul"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Rewrite what has the form ``lmul``."""
        default = Form(
            "lmul", mantissa_bits=self.mantissa_bits, specials=self.specials, gain=self.gain
        )
        default.check(self.name)
        add_products.run(module, "lmul", default, remark)
        add_elementwise.run(module, "lmul", remark)
