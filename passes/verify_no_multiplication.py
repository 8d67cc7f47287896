"""``lowc-verify-no-multiplication``: shift-add products multiply nothing, or lowc is wrong."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from iree.compiler import ir

from ..errors import InternalError
from . import (
    annotations,
    bipolar_products,
    digit_products,
    shift_products,
    signed_sums,
    table_products,
    trit_tables,
)
from .base import Pass
from .count_operations import operations_of_body
from .kernels.epilogue import PLACE

_KINDS = (
    signed_sums.KIND, table_products.KIND, trit_tables.KIND, shift_products.KIND,
    bipolar_products.KIND, digit_products.KIND,
)  # fmt: skip
_KERNELS = (signed_sums.KIND, shift_products.KIND)
_MULTIPLIES = (
    "mul", "div", "rem", "math.fma", "math.pow", "math.exp", "math.sqrt", "vector.fma",
    "vector.contract", "vector.outerproduct",
)  # fmt: skip
_MULTIPLYING_INTRINSICS = ("dp", "madd", "mul", "fma")


@dataclass(frozen=True)
class VerifyNoMultiplication(Pass):
    """Fail where the body of a shift-add product multiplies or divides data.

    Looked at are the operations that ``lowc-lower-shift-add``, ``lowc-lower-lut`` and
    ``lowc-lower-bipolar`` make: those that are counted for such a product, and those that prepare
    its tables.  What indices are multiplied by is no data; scales of ternary weights, of integers
    in signed digits and of bipolar rows come after their product, and the codes of bipolar rows
    before it.

    After ``lowc-outline-kernels`` the same holds for the kernels of products by powers of two and
    of signed sums: everything in them but their epilogues, which are other operations of the model.
    Kernels of look-ups and of bipolar integers are not looked at: they add up bytes by a dot
    product with ones and powers of two, and multiply finished sums by scales.  It changes nothing.

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
        verify_kernels(module)


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


def verify_kernels(module: ir.Module) -> int:
    """Look at the kernels of shifts and of signed sums; return how many there were.

    Raises
    ------
    InternalError
        When one of them multiplies data outside of its epilogue; names the matmul.
    """
    kernels = {
        annotations.text(op, "sym_name"): op.operation
        for op in module.body.operations
        if op.operation.name == "hal.executable.source"
    }
    seen = 0
    for call in annotations.matmuls(module):
        if call.name != "flow.dispatch" or _kind(call) not in _KERNELS:
            continue
        seen += 1
        entry = ir.SymbolRefAttr(ir.ArrayAttr(call.attributes["entry_points"])[0]).value[0]
        for op in annotations.operations(kernels[entry]):
            if _multiplies(op) and PLACE not in str(op.location):
                name = annotations.text(call, annotations.MATMUL)
                raise InternalError(f"the kernel of a shift-add product has {op.name}", where=name)
    return seen


def _multiplies(op: Any) -> bool:
    """Whether an operation of a kernel multiplies data: what is computed of indices is none."""
    if any(isinstance(result.type, ir.IndexType) for result in op.results):
        return False
    if op.name == "llvm.call_intrinsic":
        return any(part in annotations.text(op, "intrin") for part in _MULTIPLYING_INTRINSICS)
    return op.name.removeprefix("arith.").startswith(_MULTIPLIES)


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
