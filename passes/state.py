"""State of a model: globals that it writes to, and zeros that they are put back to."""

from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import annotations, build


def is_mutable(op: Any) -> bool:
    """Whether `op` is a global that the model writes to."""
    return op.operation.name == "util.global" and "is_mutable" in op.attributes


def type_of(op: Any) -> ir.RankedTensorType:
    """Return the type of a ``util.global`` that holds a tensor."""
    return ir.RankedTensorType(ir.TypeAttr(op.attributes["type"]).value)


def store_global(symbol: str, value: ir.Value) -> None:
    """Build ``util.global.store``."""
    ir.Operation.create(
        "util.global.store",
        operands=[value],
        attributes={"global": ir.FlatSymbolRefAttr.get(symbol)},
    )


def store_zeros(symbol: str, type_: ir.Type) -> None:
    """Put zeros into a global; the operation that makes them is marked as ``lowc.zeros``."""
    store_global(symbol, _zeros(build.load_global(symbol, type_)))


def _zeros(old: ir.Value) -> ir.Value:
    """Return zeros in the memory of `old`; fills of two buffers would become one buffer."""
    type_ = ir.RankedTensorType(old.type)
    rank, element = type_.rank, type_.element_type
    is_integer = isinstance(element, ir.IntegerType)
    zero = arith.constant(element, 0 if is_integer else 0.0)
    never = arith.constant(ir.IntegerType.get_signless(1), 0)
    kept = build.barrier(never)
    maps = [build.dims_map(rank, range(rank))] * 2
    init = build.empty(build.shape_of(old), element)
    filled = build.generic(
        [old], init, maps, ["parallel"] * rank, lambda x, _: arith.select(kept, x, zero)
    )
    filled.operation.attributes[annotations.ZEROS] = ir.UnitAttr.get()
    result: ir.Value = filled.result
    return result
