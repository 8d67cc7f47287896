"""``lowc-stabilize-sorts``: equal elements stay in their order, and NaN is the largest number."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import annotations
from .base import Pass, RemarkKind
from .contraction import module_path
from .separate_sorts import counts_places

# Which of cmpf's and cmpi's predicates let larger elements come first, and which smaller ones.
_DESCENDING = {"arith.cmpf": (2, 3), "arith.cmpi": (4, 5, 8, 9)}
_ASCENDING = {"arith.cmpf": (4, 5), "arith.cmpi": (2, 3, 6, 7)}
_LESS, _UNORDERED = 2, 14  # slt of cmpi, uno of cmpf


@dataclass(frozen=True)
class StabilizeSorts(Pass):
    """Compare the places of elements that are equal, as PyTorch's sorts on CPUs leave them.

    IREE 3.13 exchanges equal elements too, so that the places that a sort gives were others than
    PyTorch's wherever there are ties: of numbers from 0 to 3 nearly all.  PyTorch sorts NaN as the
    largest number; a comparison with it is false here, whoever comes first.

    Before::

        %s:2 = tm_tensor.sort dimension(1) outs(%x, %places : …) {
        ^bb0(%a: f32, %b: f32, %i: i64, %j: i64):
          %p = arith.cmpf ole, %a, %b : f32
          tm_tensor.yield %p : i1

    After::

          %p = %a <= %b or %b is NaN
          %q = %b <= %a or %a is NaN
          tm_tensor.yield %p and (not %q or %i < %j)
    """

    name: ClassVar[str] = "lowc-stabilize-sorts"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Rewrite every sort of elements with their places."""
        for op in annotations.operations(module.operation):
            if op.name != "tm_tensor.sort" or len(op.operands) != 2:
                continue
            comparison = _comparison(op)
            if comparison is None or not counts_places(op.operands[1], op):
                continue
            with op.location:
                _rewrite(op.regions[0].blocks[0], comparison)
            where = module_path(op.location) or op.name
            remark(RemarkKind.NOTE, op, where, "equal elements stay in their order")


def _comparison(sort: Any) -> Any:
    """Return the one operation that compares the elements; None if there is more."""
    block = sort.regions[0].blocks[0]
    operations = [inner.operation for inner in block.operations]
    if len(operations) != 2 or operations[0].name not in _ASCENDING:
        return None
    compared = operations[0]
    known = (*_ASCENDING[compared.name], *_DESCENDING[compared.name])
    of_elements = list(compared.operands) == list(block.arguments)[:2]
    return compared if of_elements and _predicate(compared) in known else None


def _predicate(comparison: Any) -> int:
    return int(ir.IntegerAttr(comparison.attributes["predicate"]).value)


def _rewrite(block: ir.Block, comparison: Any) -> None:
    first, second, place, other = block.arguments
    end = block.operations[len(block.operations) - 1]
    with ir.InsertionPoint(end):
        before = _or_nan(comparison, comparison.results[0], first, second)
        swapped = comparison.clone()
        swapped.operands[0], swapped.operands[1] = second, first
        behind = _or_nan(comparison, swapped.results[0], second, first)
        true = arith.constant(before.type, ir.IntegerAttr.get(before.type, 1))
        is_less = arith.cmpi(_LESS, place, other)
        decided = arith.ori(arith.xori(behind, true), is_less)
        end.operation.operands[0] = arith.andi(before, decided)


def _or_nan(comparison: Any, found: ir.Value, first: ir.Value, second: ir.Value) -> ir.Value:
    """Return whether `first` may come before `second`, NaN being the largest."""
    if comparison.name == "arith.cmpi":
        return found
    is_ascending = _predicate(comparison) in _ASCENDING["arith.cmpf"]
    largest = second if is_ascending else first
    return arith.ori(found, arith.cmpf(_UNORDERED, largest, largest))
