"""``lowc-lower-lut``: look up partial sums of activations by the signs of binary-coded weights."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from iree.compiler import ir

from . import integer_tables, lower_shift_add, table_products, trit_tables
from .base import Pass, Refusal
from .binary_weights import Plan


@dataclass(frozen=True)
class LowerLut(Pass):
    """Turn products of form ``lut``, and of ``binary`` with tables, into look-ups and additions.

    Four activations have a table of 16 sums, one for each choice of signs; the signs of four
    weights of a plane are the key.  Entries are integers of a few bits with a power of two for each
    span of inputs (``passes/formats/tables.py``), so that the sum over a span is exact; it is
    shifted by that power and by the terms of the weight's scale.  Products of the same activation
    share its tables.

    Integer weights (``lut``, ``passes/formats/bit_planes.py``) are looked up bit by bit, with
    shifts by the place of the bit; their scales are floats, and multiply once per group.  Ternary
    weights stored five in a byte have tables of five activations (``passes/formats/trits.py``).

    Source: LUT Tensor Core (arXiv 2408.06003) and T-MAC (arXiv 2407.00088) for the tables,
    ShiftAddLLM (arXiv 2406.05981) for the weights.

    Before::

        %w = util.global.load @"fc.weight" : tensor<8x64xf32>
        %t = linalg.transpose ins(%w) … permutation = [1, 0]
        %g = linalg.generic (m, n, G, plane; S) ins(%s) … { addf }   // where a group has several
        %y = linalg.matmul {lowc.form = {form = "binary", planes = 2, group = 64, tables = "i8", …}}
               ins(%x, %t : tensor<2x64xf32>, tensor<64x8xf32>) outs(%zero)

    After::

        %q = tensor.expand_shape %x [[0], [1, 2]]                // tensor<2x16x4xf32>
        %f = linalg.generic (m, quad, key; i) ins(%q) … { xori, addf }       // tensor<2x16x16xf32>
        %p = linalg.generic (m, S; Q, key) ins(%f) … { bitcast, andi, maxui }  // tensor<2x1xi32>
        %e = linalg.generic (m, S) ins(%p) … { addi, shrui, select }           // tensor<2x1xi32>
        %t = linalg.generic (m, S, Q, key) ins(%f, %e) … { subi, addf, trunci }  // i8
        %i = linalg.generic (m, n, S, plane; word) ins(%b) … { shrui, tensor.extract %t, addi }
        %s = linalg.generic (m, n, S, plane) ins(%i, %e) … { sitofp, addi, select }
        %g = linalg.generic (m, n, G, plane; S) ins(%s) … { addf }   // where a group has several
        %y = linalg.generic (m, n; G plane) ins(%g, %terms) … { addi, select, addf }

    Parameters
    ----------
    packing : str
        ``bits`` stores an entry in a byte; ``words`` in 32 bits, for targets whose code generator
        looks up wrong bytes (Vulkan, seen in IREE 3.13).
    """

    packing: Literal["bits", "words"] = "bits"
    name: ClassVar[str] = "lowc-lower-lut"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Rewrite every matmul of a form with tables whose weight can be found."""
        width = 32 if self.packing == "words" else 8
        rewrite = functools.partial(_rewrite, entry_width=width)
        forms = ("binary", "ternary", "lut")
        lower_shift_add.run(module, forms, rewrite, remark, tables=True)


def _rewrite(module: ir.Module, plan: Plan, *, entry_width: int) -> Any:
    if plan.has_trits and entry_width > 8:
        return Refusal("this target looks up wrong bytes, and five weights are one byte")
    made_by: Any = table_products
    if plan.is_integer or plan.has_trits:
        made_by = integer_tables if plan.is_integer else trit_tables
    return made_by.rewrite(module, plan, entry_width=entry_width)
