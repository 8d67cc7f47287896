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
from .kernels.epilogue import PLACE

_KINDS = (
    signed_sums.KIND, table_products.KIND, trit_tables.KIND, shift_products.KIND,
    bipolar_products.KIND, digit_products.KIND,
)  # fmt: skip
_KERNELS = (signed_sums.KIND, shift_products.KIND)
# What may stand in a body or a kernel; whatever is not here is taken for a multiplication.
_SCALARS = frozenset((
    "addf", "addi", "subf", "subi", "negf", "shli", "shrsi", "shrui", "andi", "ori", "xori",
    "cmpf", "cmpi", "select", "maximumf", "maxnumf", "maxsi", "maxui", "minimumf", "minnumf",
    "minsi", "minui", "constant", "bitcast", "extf", "extsi", "extui", "truncf", "trunci",
    "sitofp", "uitofp", "fptosi", "fptoui", "index_cast", "index_castui",
))  # fmt: skip
_BITS = ("math.absf", "math.absi", "math.copysign", "math.ctpop", "math.floor", "math.roundeven")
_MOVES = (
    "vector.bitcast", "vector.broadcast", "vector.constant_mask", "vector.create_mask",
    "vector.extract", "vector.extract_strided_slice", "vector.insert",
    "vector.insert_strided_slice", "vector.load", "vector.maskedload", "vector.maskedstore",
    "vector.shape_cast", "vector.shuffle", "vector.store",
    "memref.alloca", "memref.load", "memref.prefetch", "memref.store",
    "tensor.dim", "tensor.extract", "tensor.yield", "ub.poison",
)  # fmt: skip
_CONTROL = (
    "linalg.fill", "linalg.generic", "linalg.index", "linalg.yield", "flow.dispatch",
    "scf.for", "scf.if", "scf.yield", "cf.assert", "builtin.module", "func.func", "func.return",
    "hal.executable.export", "hal.executable.source", "hal.executable.source_end",
    "hal.interface.binding.subspan", "hal.interface.constant.load",
    "hal.interface.workgroup.count", "hal.interface.workgroup.id", "hal.return",
)  # fmt: skip
_REDUCTIONS = tuple(
    f"#vector.kind<{kind}>"
    for kind in ("add", "and", "or", "xor", "maxui", "maxsi", "minui", "minsi")
)
_ALLOWED = frozenset((*(f"arith.{name}" for name in _SCALARS), *_BITS, *_MOVES, *_CONTROL))


@dataclass(frozen=True)
class VerifyNoMultiplication(Pass):
    """Fail where the body of a shift-add product has anything that may multiply or divide data.

    That is every operation but those of a list: additions, shifts, logic, comparisons, casts,
    loads and stores, loops, and whatever gives an index.

    Looked at are the operations that ``lowc-lower-shift-add``, ``lowc-lower-lut`` and
    ``lowc-lower-bipolar`` make: those that are counted for such a product, and those that prepare
    its tables.  What indices are multiplied by is no data; scales of ternary weights, of integers
    in signed digits and of bipolar rows come after their product, and the codes of bipolar rows
    and the rounding of rows for signed digits before it.

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
        found = next((inner for inner in annotations.operations(op) if _multiplies(inner)), None)
        if found is not None:
            raise InternalError(
                f"the {op.name} of a shift-add product multiplies: {found.name}", where=name
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
    """Whether an operation may multiply data: what is computed of indices is none."""
    if op.name in _ALLOWED:
        return False
    if op.name == "vector.reduction":
        return str(op.attributes["kind"]) not in _REDUCTIONS
    is_scalar = op.name.startswith(("arith.", "affine."))
    return not (is_scalar and all(isinstance(result.type, ir.IndexType) for result in op.results))


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
