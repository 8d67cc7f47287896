"""``lowc-lower-pam``: multiply by adding bit patterns, piecewise affine (PAM)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from iree.compiler import ir

from . import add_elementwise, add_products
from .base import Pass
from .forms import Form


@dataclass(frozen=True)
class LowerPam(Pass):
    """Make every multiplication of form ``pam`` one integer addition of bit patterns.

    Piecewise affine multiplication is L-Mul without the offset: exact where an operand is a power
    of two, never above the product, and 3.85 % below it on average.  Everything else is as for
    ``lowc-lower-lmul``.  The definition is ``passes/formats/pam.py``.

    Source: "Multiplication-Free Transformer Training via Piecewise Affine Operations"
    (arXiv 2305.17190).

    Before::

        %y = linalg.matmul {lowc.form = {form = "pam", …}} ins(%a, %b) outs(%zero)

    After::

        %p = linalg.generic ins(%a) … { bitcast, andi, maxui, minui, andi, ori, subi }
        %q = linalg.generic ins(%b) … { bitcast, andi, maxui, minui, andi, ori }
        %y = linalg.generic (m, n, k) ins(%p, %q) … { addi, bitcast, addf }

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
    name: ClassVar[str] = "lowc-lower-pam"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Rewrite what has the form ``pam``."""
        default = Form(
            "pam", mantissa_bits=self.mantissa_bits, specials=self.specials, gain=self.gain
        )
        default.check(self.name)
        add_products.run(module, "pam", default, remark)
        add_elementwise.run(module, "pam", remark)
