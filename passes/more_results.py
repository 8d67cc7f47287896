"""Let a function return more than the model does, for what is measured beside it."""

from collections.abc import Iterable, Sequence
from typing import Any

from iree.compiler import ir

from . import annotations
from .base import Refusal


def called_functions(module: ir.Module) -> set[str]:
    """Return the names of the functions that others of `module` call."""
    return {
        ir.FlatSymbolRefAttr(op.attributes["callee"]).value
        for op in annotations.operations(module)
        if op.name == "func.call"
    }


def function_around(op: Any, called: Iterable[str]) -> str | Refusal:
    """Return the name of the function that can return what is measured at `op`, or why not.

    Changes nothing; `called` is what :func:`called_functions` found.
    """
    function = op.operation.parent
    if function.operation.name != "func.func":
        return Refusal(f"it is inside {function.operation.name}")
    if len(function.regions[0].blocks) != 1:
        return Refusal("its function has several blocks")
    name = annotations.text(function, "sym_name")
    if "sym_visibility" in function.attributes or name in called:
        return Refusal(f"other functions call '{name}'")
    return name


def end_of(function: Any) -> ir.Operation:
    """Return the return of a function of one block."""
    block = function.regions[0].blocks[0]
    end: ir.Operation = block.operations[len(block.operations) - 1].operation
    return end


def return_too(function: Any, values: Sequence[ir.Value]) -> None:
    """Add `values` to what `function` returns."""
    end = end_of(function)
    with ir.InsertionPoint(end), end.location:
        ir.Operation.create("func.return", operands=[*end.operands, *values])
    end.erase()
    results = [*function.type.results, *(value.type for value in values)]
    function.attributes["function_type"] = ir.TypeAttr.get(
        ir.FunctionType.get(function.type.inputs, results, function.context)
    )
    if "res_attrs" in function.attributes:
        kept = [*ir.ArrayAttr(function.attributes["res_attrs"])]
        with function.context:
            none = [ir.DictAttr.get({}) for _ in values]
            function.attributes["res_attrs"] = ir.ArrayAttr.get([*kept, *none])
