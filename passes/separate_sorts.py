"""``lowc-separate-sorts``: every sort has values and places of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import annotations, build
from .base import Pass, RemarkKind
from .contraction import defining, module_path


@dataclass(frozen=True)
class SeparateSorts(Pass):
    """Add a zero that nobody sees through: no two sorts share what they begin with.

    A sort writes its results where its operands are.  Two sorts of one shape, as of the routers of
    two layers, begin with the same places, 0, 1, 2 …; once these are one value, IREE 3.13 may let
    both write to it, and the second gets what the first left: where a size is known at run time
    only, and of whole numbers that are sorted up and down in sizes that are known too.  So it is
    with values that several sorts read.

    Before::

        %places = linalg.generic outs(%e : tensor<?x4xi64>) { yield index 1 }
        %sorted:2 = tm_tensor.sort dimension(1) outs(%x, %places : …)

    After::

        %zero = util.optimization_barrier %c0 : i64
        %places = linalg.generic outs(%e : tensor<?x4xi64>) { yield index 1 + %zero }
        %own = linalg.generic ins(%x) { yield bits of %x + %zero }
        %sorted:2 = tm_tensor.sort dimension(1) outs(%own, %places : …)
    """

    name: ClassVar[str] = "lowc-separate-sorts"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Give each sort its own places."""
        for op in annotations.operations(module.operation):
            if op.name != "tm_tensor.sort" or len(op.operands) != 2:
                continue
            values, places = op.operands
            if not counts_places(places, op):
                continue
            with ir.InsertionPoint(op), op.location:
                op.operands[0] = _copy(values)
                op.operands[1] = _count(values, build.element_of(places), _axis(op))
            remark(
                RemarkKind.NOTE,
                op,
                module_path(op.location) or op.name,
                "has values and places of its own",
            )


def _axis(op: Any) -> int:
    return int(ir.IntegerAttr(op.attributes["dimension"]).value)


def counts_places(places: ir.Value, sort: Any) -> bool:
    """Whether `places` holds each element's index along the sorted axis, from nothing else."""
    op = defining(places)
    if op is None or op.name != "linalg.generic" or len(op.operands) != 1:
        return False
    body = [inner.operation for inner in op.regions[0].blocks[0]]
    names = [inner.name for inner in body]
    if names != ["linalg.index", "arith.index_cast", "linalg.yield"]:
        return False
    return bool(ir.IntegerAttr(body[0].attributes["dim"]).value == _axis(sort))


def _copy(values: ir.Value) -> ir.Value:
    """Return the same bits, as another value."""
    element, shape = build.element_of(values), build.shape_of(values)
    word = ir.IntegerType.get_signless(element.width)
    zero = build.barrier(arith.constant(word, ir.IntegerAttr.get(word, 0)))

    def body(x: ir.Value, _: ir.Value) -> ir.Value:
        if element == word:
            return arith.addi(x, zero)
        return arith.bitcast(element, arith.addi(arith.bitcast(word, x), zero))

    init = build.empty(shape, element, build.dynamic_sizes(values))
    maps = [build.identity_map(len(shape))] * 2
    return build.generic([values], init, maps, ["parallel"] * len(shape), body).result


def _count(values: ir.Value, element: ir.Type, axis: int) -> ir.Value:
    zero = build.barrier(arith.constant(element, ir.IntegerAttr.get(element, 0)))
    shape = build.shape_of(values)
    init = build.empty(shape, element, build.dynamic_sizes(values))

    def body(_: ir.Value) -> ir.Value:
        return arith.addi(arith.index_cast(element, build.loop_index(axis)), zero)

    maps = [build.identity_map(len(shape))]
    return build.generic([], init, maps, ["parallel"] * len(shape), body).result
