"""``lowc-verify-no-multiplication``: shift-add products multiply nothing, or lowc is wrong."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from iree.compiler import ir

from ..errors import InternalError
from . import (
    annotations,
    bipolar_products,
    shift_products,
    signed_sums,
    table_products,
    trit_tables,
)
from .base import Pass
from .count_operations import operations_of_body

_KINDS = (
    signed_sums.KIND, table_products.KIND, trit_tables.KIND, shift_products.KIND,
    bipolar_products.KIND,
)  # fmt: skip
_MULTIPLIES = ("mul", "div", "rem", "math.fma", "math.pow", "math.exp", "math.sqrt")


@dataclass(frozen=True)
class VerifyNoMultiplication(Pass):
    """Fail where the body of a shift-add product multiplies or divides data.

    Looked at are the operations that ``lowc-lower-shift-add``, ``lowc-lower-lut`` and
    ``lowc-lower-bipolar`` make: those that are counted for such a product, and those that prepare
    its tables.  What indices are multiplied by is no data; scales of ternary weights and of bipolar
    rows come after their product, and the codes of bipolar rows before it.  It changes nothing.

    Before::

        %p = linalg.generic {lowc.part = "fc"} … { shli, andi, xori, addf }
        %y = linalg.generic {lowc.matmul = "fc", lowc.product = "{…}"} … { addi, select, addf }

    After, or an error if one of the bodies had an ``arith.mulf``::

        %p = linalg.generic {lowc.part = "fc"} … { shli, andi, xori, addf }
        %y = linalg.generic {lowc.matmul = "fc", lowc.product = "{…}"} … { addi, select, addf }
    """

    name: ClassVar[str] = "lowc-verify-no-multiplication"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Raise an InternalError that names the first operation that multiplies."""
        verify_no_multiplication(module)


def verify_no_multiplication(module: ir.Module) -> int:
    """Look at every operation of shift-add products; return how many there were.

    Raises
    ------
    InternalError
        When one of them multiplies or divides; names the matmul and the operation.
    """
    names = {
        annotations.text(op, annotations.MATMUL)
        for op in annotations.matmuls(module)
        if _kind(op) in _KINDS
    }
    seen = 0
    for op in annotations.operations(module):
        name = _belongs_to(op, names)
        if not name:
            continue
        seen += 1
        found = [kind for kind in operations_of_body(op) if kind.startswith(_MULTIPLIES)]
        if found:
            raise InternalError(
                f"the {op.name} of a shift-add product multiplies: {found[0]}", where=name
            )
    return seen


def _kind(op: Any) -> str:
    return str(annotations.product_facts(op).get("kind", ""))


def _belongs_to(op: Any, names: set[str]) -> str:
    """Return the name of the product that `op` is a part of, or nothing."""
    if _kind(op) in _KINDS:
        return annotations.text(op, annotations.MATMUL)
    part = annotations.text(op, annotations.PART)
    if part in names:
        return part
    is_tables = annotations.text(op, annotations.PREPARED) == table_products.KIND
    return "the tables of an activation" if is_tables else ""
