"""Parameters as named globals.

The importer gives a function whose arguments are the model's parameters, buffers, constants and
user inputs.  Here all but the user inputs become globals::

    func.func @main(%w: tensor<8x4xf32>, %x: tensor<1x4xf32>)

    util.global private @"fc.weight" = #flow.parameter.named<"model"::"fc.weight"> : tensor<8x4xf32>
    func.func @main(%x: tensor<1x4xf32>) { %w = util.global.load @"fc.weight" : tensor<8x4xf32> … }

A buffer that the model writes to becomes a mutable global with the same initial value; the result
that carried its new value becomes a store, and ``@reset`` puts the initial value back.  One that
begins as zeros, such as a key-value cache, is a parameter too, of which the archive says that it is
all zeros: IREE (3.13) takes globals that begin as one constant for one global.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from iree.compiler import ir

from ..errors import UserError
from ..passes.annotations import RESET, ZEROS
from ..passes.build import load_global
from ..passes.parameters import parameter_key
from ..passes.state import is_mutable, store_global, store_zeros
from ..runtime.manifest import ENTRY_POINT, PARAMETER_SCOPE, RESET_POINT
from .program import Tensor

_RENAMED = ".tensor"


def lift_parameters(
    module: ir.Module,
    result: dict[str, Any],
    tensors: dict[str, Tensor],
    functions: Collection[str] = (),
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
    functions : collection of str
        Names that functions will have, beside ``main`` and ``reset``.
    """
    function = next(op for op in module.body.operations if op.operation.name == "func.func")
    with module.context, ir.Location.unknown():
        taken = {ENTRY_POINT, RESET_POINT, *functions}
        return _Lift(module, function, tensors, taken).run(result)


def rename_global(module: ir.Module, op: Any) -> None:
    """Give the global `op` a symbol that no function can have; :func:`tensor_of` stays the same."""
    old = ir.StringAttr(op.attributes["sym_name"]).value
    ir.SymbolTable.replace_all_symbol_uses(old, f"{old}{_RENAMED}", module.operation)
    op.attributes["sym_name"] = ir.StringAttr.get(f"{old}{_RENAMED}", module.context)


def tensor_of(op: Any) -> str:
    """Return the name of the tensor that a ``util.global`` begins as."""
    name = ir.StringAttr(op.attributes["sym_name"]).value.removesuffix(_RENAMED)
    return parameter_key(op, mutable=True) or name


class _Lift:
    def __init__(
        self,
        module: ir.Module,
        function: Any,
        tensors: dict[str, Tensor],
        taken: Collection[str],
    ) -> None:
        self.module = module
        self.taken = taken
        self.function = function
        self.block = function.regions[0].blocks[0]
        self.tensors = tensors
        self.first_of_storage: dict[Any, str] = {}
        self.used: dict[str, Tensor] = {}
        self.declared: set[str] = set()

    def run(self, result: dict[str, Any]) -> dict[str, Tensor]:
        outputs = [entry for entry in result["outputs"] if entry["kind"] != "literal"]
        mutated = {entry["target"] for entry in outputs if entry["kind"] == "mutation"}
        self._replace_arguments(result["inputs"], mutated)
        self._replace_results(outputs)
        self._retype()
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
        # What is written to has bytes of its own from the first.
        key = name if mutable else self.first_of_storage.setdefault(tensor.storage, name)
        self.used[key] = self.tensors[key]
        symbol = self._symbol(name if mutable else key)
        if symbol not in self.declared:
            value = _parameter(key, type_)
            declare_global(self.module, symbol, type_, value, mutable=mutable)
            self.declared.add(symbol)
        return symbol

    def _symbol(self, name: str) -> str:
        """Return the symbol of tensor `name`: the name itself unless a function has it."""
        return f"{name}{_RENAMED}" if name in self.taken else name

    def _replace_results(self, outputs: list[dict[str, Any]]) -> None:
        terminator = self.block.operations[len(self.block.operations) - 1]
        values = list(terminator.operands)
        kept = []
        with ir.InsertionPoint(terminator):
            for entry, value in zip(outputs, values, strict=True):
                if entry["kind"] == "user":
                    kept.append(value)
                elif entry["kind"] == "mutation":
                    store_global(self._symbol(entry["target"]), value)
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


def add_reset(module: ir.Module, tensors: Mapping[str, Tensor]) -> None:
    """Add ``@reset`` for the mutable globals of `module`; without any, change nothing.

    Raises
    ------
    UserError
        A global that is written to has no initial value to be put back.
    """
    with module.context, ir.Location.unknown():
        mutable = sorted(
            (op for op in module.body.operations if is_mutable(op)),
            key=lambda op: ir.StringAttr(op.attributes["sym_name"]).value,
        )
        if mutable:
            _add_reset(module, mutable, tensors)


def _add_reset(module: ir.Module, mutable: list[Any], tensors: Mapping[str, Tensor]) -> None:
    with ir.InsertionPoint(module.body):
        reset = ir.Operation.create(
            "func.func",
            attributes={
                "sym_name": ir.StringAttr.get(RESET_POINT),
                "function_type": ir.TypeAttr.get(ir.FunctionType.get([], [])),
                RESET: ir.UnitAttr.get(),
            },
            regions=1,
        )
    body = reset.regions[0].blocks.append()
    with ir.InsertionPoint(body):
        for op in mutable:
            symbol = ir.StringAttr(op.attributes["sym_name"]).value
            type_ = ir.TypeAttr(op.attributes["type"]).value
            if "initial_value" not in op.attributes:
                raise UserError(
                    "what a model writes to needs an initial value, which a reset puts back",
                    where=f"global '@{symbol}'",
                    hint=f"util.global private mutable @{symbol} = … : {type_}",
                )
            value, tensor = op.attributes["initial_value"], tensors.get(tensor_of(op))
            if tensor is not None and tensor.is_zero:
                op.attributes[ZEROS] = ir.UnitAttr.get()
                store_zeros(symbol, type_)
                continue
            if tensor is None and parameter_key(op, mutable=True) is None:
                initial = _constant(value, type_)
            else:
                name = f"{symbol}$initial"
                declare_global(module, name, type_, value, mutable=False)
                initial = load_global(name, type_)
            store_global(symbol, initial)
        ir.Operation.create("func.return")


def _constant(value: ir.Attribute, type_: ir.Type) -> ir.Value:
    attributes = {"value": value}
    made: ir.Value = ir.Operation.create(
        "arith.constant", results=[type_], attributes=attributes
    ).results[0]
    return made


def _parameter(key: str, type_: ir.Type) -> ir.Attribute:
    scope, name = ir.StringAttr.get(PARAMETER_SCOPE), ir.StringAttr.get(key)
    return ir.Attribute.parse(f"#flow.parameter.named<{scope}::{name}> : {type_}")


def declare_global(
    module: ir.Module, symbol: str, type_: ir.Type, value: ir.Attribute, *, mutable: bool
) -> ir.Operation:
    """Declare ``util.global private @symbol`` with the initial `value`."""
    attributes = {
        "sym_name": ir.StringAttr.get(symbol),
        "sym_visibility": ir.StringAttr.get("private"),
        "type": ir.TypeAttr.get(type_),
        "initial_value": value,
    }
    if mutable:
        attributes["is_mutable"] = ir.UnitAttr.get()
    with ir.InsertionPoint.at_block_begin(module.body):
        return ir.Operation.create("util.global", attributes=attributes)
