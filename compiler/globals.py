"""Parameters as named globals.

The importer gives a function whose arguments are the model's parameters, buffers, constants and
user inputs.  Here all but the user inputs become globals::

    func.func @main(%w: tensor<8x4xf32>, %x: tensor<1x4xf32>)

    util.global private @"fc.weight" = #flow.parameter.named<"model"::"fc.weight"> : tensor<8x4xf32>
    func.func @main(%x: tensor<1x4xf32>) { %w = util.global.load @"fc.weight" : tensor<8x4xf32> … }

A buffer that the model writes to becomes a mutable global with the same initial value; the result
that carried its new value becomes a store, and ``@reset`` puts the initial value back.
"""

from __future__ import annotations

from typing import Any

from iree.compiler import ir

from ..errors import UserError
from ..passes.build import load_global
from ..runtime.manifest import ENTRY_POINT, PARAMETER_SCOPE, RESET_POINT
from .program import Tensor


def lift_parameters(
    module: ir.Module, result: dict[str, Any], tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Rewrite `module` in place; return the tensors that it still uses, tied ones once.

    Parameters
    ----------
    module : Module
        What the importer wrote.
    result : dict
        The importer's account of the function's arguments and results, in order.
    tensors : dict
        Every tensor of the archive by name.
    """
    function = next(op for op in module.body.operations if op.operation.name == "func.func")
    with module.context, ir.Location.unknown():
        return _Lift(module, function, tensors).run(result)


class _Lift:
    def __init__(self, module: ir.Module, function: Any, tensors: dict[str, Tensor]) -> None:
        self.module = module
        self.function = function
        self.block = function.regions[0].blocks[0]
        self.tensors = tensors
        self.first_of_storage: dict[Any, str] = {}
        self.used: dict[str, Tensor] = {}
        self.globals: dict[str, ir.Type] = {}

    def run(self, result: dict[str, Any]) -> dict[str, Tensor]:
        outputs = [entry for entry in result["outputs"] if entry["kind"] != "literal"]
        mutated = {entry["target"] for entry in outputs if entry["kind"] == "mutation"}
        self._replace_arguments(result["inputs"], mutated)
        self._replace_results(outputs)
        self._retype()
        if mutated:
            self._add_reset(sorted(mutated))
        self.function.attributes["sym_name"] = ir.StringAttr.get(ENTRY_POINT)
        return self.used

    def _replace_arguments(self, inputs: list[dict[str, Any]], mutated: set[str]) -> None:
        arguments = list(self.block.arguments)
        if len(arguments) != len(inputs):
            inputs = [entry for entry in inputs if entry["kind"] != "literal"]
        dead = []
        for index, (entry, argument) in enumerate(zip(inputs, arguments, strict=True)):
            if entry["kind"] == "user":
                continue
            dead.append(index)
            is_used = next(iter(argument.uses), None) is not None
            if entry["kind"] == "literal" or not (is_used or entry["target"] in mutated):
                continue
            name, mutable = entry["target"], entry["target"] in mutated
            symbol = self._global(name, argument.type, mutable=mutable)
            with ir.InsertionPoint.at_block_begin(self.block), argument.location:
                argument.replace_all_uses_with(load_global(symbol, argument.type))
        for index in reversed(dead):
            self.block.erase_argument(index)

    def _global(self, name: str, type_: ir.Type, *, mutable: bool) -> str:
        """Declare the global of tensor `name`, or return that of the tensor it is tied to."""
        tensor = self.tensors.get(name)
        if tensor is None:
            raise UserError(f"the program uses a tensor '{name}' that the archive does not hold")
        key = self.first_of_storage.setdefault(tensor.storage, name)
        self.used[key] = self.tensors[key]
        symbol = self._symbol(name if mutable else key)
        if symbol not in self.globals:
            declare_global(self.module, symbol, type_, parameter=key, mutable=mutable)
            self.globals[symbol] = type_
        return symbol

    @staticmethod
    def _symbol(name: str) -> str:
        """Return the symbol of tensor `name`: the name itself unless a function has it."""
        return f"{name}.tensor" if name in (ENTRY_POINT, RESET_POINT) else name

    def _replace_results(self, outputs: list[dict[str, Any]]) -> None:
        terminator = self.block.operations[len(self.block.operations) - 1]
        values = list(terminator.operands)
        kept = []
        with ir.InsertionPoint(terminator):
            for entry, value in zip(outputs, values, strict=True):
                if entry["kind"] == "user":
                    kept.append(value)
                elif entry["kind"] == "mutation":
                    ir.Operation.create(
                        "util.global.store",
                        operands=[value],
                        attributes={
                            "global": ir.FlatSymbolRefAttr.get(self._symbol(entry["target"]))
                        },
                    )
            ir.Operation.create("func.return", operands=kept)
        terminator.operation.erase()

    def _retype(self) -> None:
        returned = self.block.operations[len(self.block.operations) - 1].operands
        self.function.attributes["function_type"] = ir.TypeAttr.get(
            ir.FunctionType.get(
                [argument.type for argument in self.block.arguments],
                [value.type for value in returned],
            )
        )
        for name in ("arg_attrs", "res_attrs"):
            if name in self.function.attributes:
                del self.function.attributes[name]

    def _add_reset(self, mutated: list[str]) -> None:
        with ir.InsertionPoint(self.module.body):
            reset = ir.Operation.create(
                "func.func",
                attributes={
                    "sym_name": ir.StringAttr.get(RESET_POINT),
                    "function_type": ir.TypeAttr.get(ir.FunctionType.get([], [])),
                },
                regions=1,
            )
        body = reset.regions[0].blocks.append()
        with ir.InsertionPoint(body):
            for name in mutated:
                type_ = self.globals[self._symbol(name)]
                key = self.first_of_storage[self.tensors[name].storage]
                initial = f"{name}$initial"
                declare_global(self.module, initial, type_, parameter=key, mutable=False)
                ir.Operation.create(
                    "util.global.store",
                    operands=[load_global(initial, type_)],
                    attributes={"global": ir.FlatSymbolRefAttr.get(self._symbol(name))},
                )
            ir.Operation.create("func.return")


def declare_global(
    module: ir.Module, symbol: str, type_: ir.Type, *, parameter: str, mutable: bool
) -> ir.Operation:
    """Declare ``util.global private @symbol`` with a named parameter as initial value."""
    scope, key = ir.StringAttr.get(PARAMETER_SCOPE), ir.StringAttr.get(parameter)
    attributes = {
        "sym_name": ir.StringAttr.get(symbol),
        "sym_visibility": ir.StringAttr.get("private"),
        "type": ir.TypeAttr.get(type_),
        "initial_value": ir.Attribute.parse(f"#flow.parameter.named<{scope}::{key}> : {type_}"),
    }
    if mutable:
        attributes["is_mutable"] = ir.UnitAttr.get()
    with ir.InsertionPoint.at_block_begin(module.body):
        return ir.Operation.create("util.global", attributes=attributes)
