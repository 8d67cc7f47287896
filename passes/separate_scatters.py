"""``lowc-separate-scatters``: every scatter writes into a tensor of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import annotations, build
from .base import Pass, RemarkKind
from .contraction import defining, module_path

# What is written in its place, and which operand that is.
_WRITTEN = {"tm_tensor.scatter": 2, "tm_tensor.sort": 0, "tensor.insert_slice": 1}


@dataclass(frozen=True)
class SeparateScatters(Pass):
    """Copy what a scatter begins with by a condition that nobody sees through.

    A scatter writes where its operand is, and so do sorts and insertions of slices.  Where that
    depends on nothing but sizes known at run time, as ``torch.zeros_like(x)`` does, IREE 3.13 lets
    two of them write to one tensor, or one write to what others read; with a known size, or from
    numbers of a caller, it does not.

    Before::

        %zeros = linalg.fill ins(%0 : f32) outs(%e : tensor<?x5xf32>)
        %y = tm_tensor.scatter … outs(%zeros : tensor<?x5xf32>)

    After::

        %zeros = linalg.fill ins(%0 : f32) outs(%e : tensor<?x5xf32>)
        %zero = util.optimization_barrier %c0 : i32
        %own = linalg.generic ins(%zeros) outs(…) { yield (%zero == 0 ? %in : bits of %zero) }
        %y = tm_tensor.scatter … outs(%own : tensor<?x5xf32>)
    """

    name: ClassVar[str] = "lowc-separate-scatters"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Give each scatter into a tensor that depends on nothing one of its own."""
        for op in annotations.operations(module.operation):
            if op.name not in _WRITTEN:
                continue
            into = op.operands[_WRITTEN[op.name]]
            if build.DYNAMIC not in build.shape_of(into) or not _depends_on_nothing(into):
                continue
            if not isinstance(build.element_of(into), (ir.IntegerType, ir.FloatType)):
                continue
            if defining(into).name == "tensor.empty":  # what it holds is read by nobody
                continue
            with ir.InsertionPoint(op), op.location:
                op.operands[_WRITTEN[op.name]] = _own(into)
            remark(
                RemarkKind.NOTE,
                op,
                module_path(op.location) or op.name,
                "writes into its own tensor",
            )


def _depends_on_nothing(value: ir.Value) -> bool:
    """Whether no tensor of a caller, and none that is kept, has a say in what `value` holds."""
    left, seen = [value], set[Any]()
    while left:
        op = defining(left.pop())
        if op is None or not op.name.startswith(("linalg.", "tensor.", "arith.", "tm_tensor.")):
            return False
        if op in seen or op.name == "tensor.dim":
            continue
        seen.add(op)
        bodies = [inner.operation for region in op.regions for block in region for inner in block]
        used = [operand for inner in (op, *bodies) for operand in inner.operands]
        left += [one for one in used if isinstance(one.type, ir.RankedTensorType)]
    return True


def _own(into: ir.Value) -> Any:
    word = ir.IntegerType.get_signless(32)
    zero = build.barrier(arith.constant(word, 0))
    element = build.element_of(into)

    def body(given: ir.Value, _: ir.Value) -> ir.Value:
        is_zero = arith.cmpi(arith.CmpIPredicate.eq, zero, arith.constant(word, 0))
        return arith.select(is_zero, given, _of_bits(zero, element))

    return build.elementwise([into], element, body).result


def _of_bits(word: ir.Value, element: ir.Type) -> ir.Value:
    """Return the element whose bits are the low ones of a word of 32."""
    is_float = isinstance(element, ir.FloatType)
    width = element.width
    bits = ir.IntegerType.get_signless(width) if is_float else element
    if width != 32:
        word = arith.trunci(bits, word) if width < 32 else arith.extui(bits, word)
    return arith.bitcast(element, word) if is_float else word
