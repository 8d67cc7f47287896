"""Several models as entry points of one module: every weight once, and one state for all.

A language model is exported twice, for a prompt and for the next token::

    lowc.compile({"prefill": first, "decode": second}, recipe="w4a8", output="model.vmfb")

Each is imported alone; here their functions come into one module, under their names.  Globals of
one name are one global: parameters must be equal byte by byte, and a buffer that one entry writes
to is what the others read.  Functions beside the entries stay those of their own model: where two
have one name, the later one gets another.
"""

import dataclasses
import io
import itertools
import keyword
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from iree.compiler import ir

from ..errors import UserError
from ..passes import annotations
from ..passes.state import is_mutable
from ..runtime.manifest import RESET_POINT
from ..runtime.program import RESERVED
from . import parameters
from .frontend import Model, entry_function, open_model
from .globals import add_reset, rename_global, tensor_of

BLOCK = 1 << 24  # bytes that are compared at a time
_HEX = re.compile(r'"(0x[0-9A-Fa-f]*)"')


@contextmanager
def open_entries(models: Mapping[str, Any]) -> Iterator[Model]:
    """Read the models of a mapping from entry to model; give one that has them all.

    Raises
    ------
    UserError
        A name that no entry can have, a model that cannot be read, or models that do not fit
        together: the message names the entries.
    """
    check_names(models)
    check_files(models)
    with ExitStack() as stack:
        yield merge(
            {
                name: stack.enter_context(open_model(model, tuple(models)))
                for name, model in models.items()
            }
        )


def check_names(models: Mapping[str, Any]) -> None:
    """Raise a UserError unless every name can be that of an entry."""
    if not models:
        raise UserError("there is no model to compile")
    for name in models:
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
            raise UserError(
                f"an entry cannot be called {name!r}", hint="use an identifier: prefill"
            )
        if name in RESERVED or name == RESET_POINT or keyword.iskeyword(name):
            raise UserError(f"an entry cannot be called '{name}', which means something else")


def check_files(models: Mapping[str, Any]) -> None:
    """Raise a UserError unless the file of every entry is there: reading a model takes long."""
    for name, model in models.items():
        if isinstance(model, (str, os.PathLike)) and not Path(os.fsdecode(model)).exists():
            raise UserError(f"the file of the entry '{name}' does not exist", where=str(model))


def merge(models: Mapping[str, Model]) -> Model:
    """Return one model with the entries of all; the module of the first one is changed."""
    (first_name, first), *rest = models.items()
    merged = _Merge(first_name, first, tuple(models))
    for name, model in rest:
        merged.add(name, model)
    add_reset(first.module, merged.tensors)
    has_state = any(is_mutable(op) for op in first.module.body.operations)
    interfaces = [
        dataclasses.replace(model.interface, entry_point=name, has_state=has_state)
        for name, model in models.items()
    ]
    notes = [f"{name}: {note}" for name, model in models.items() for note in model.notes]
    return Model(
        first.module, interfaces[0], merged.tensors, merged.source, notes,
        merged.aliases, tuple(interfaces[1:]), tuple(models),
    )  # fmt: skip


def alone(model: Model, name: str) -> Model:
    """Return a copy of `model` that has no entry but `name`; its matmuls keep their names.

    Weights and state are still those of all.
    """
    copy = model.copy()
    for interface in model.interfaces:
        if interface.entry_point != name:
            copy.function(interface).erase()
    interface = next(one for one in model.interfaces if one.entry_point == name)
    return dataclasses.replace(copy, interface=interface, others=(), entries=(name,))


class _Merge:
    def __init__(self, name: str, model: Model, entries: tuple[str, ...]) -> None:
        self.entries = entries
        self.module, self.source = model.module, model.source
        self.tensors = {
            key: dataclasses.replace(tensor, file=model.source)
            for key, tensor in model.tensors.items()
        }
        self.aliases = dict(model.aliases)
        self.entry_of = dict.fromkeys(self.tensors, name)
        with self.module.context, ir.Location.unknown():
            self._make_room(name, self.module)
            _rename(self.module, name)
        self.global_of = dict.fromkeys(self._symbols("util.global"), name)

    def add(self, name: str, model: Model) -> None:
        """Bring the entry function of `model`, and what it reads, into the module."""
        data = io.BytesIO()
        model.module.operation.write_bytecode(data)
        self.source = self.source or model.source
        with self.module.context, ir.Location.unknown():
            other = ir.Module.parse(data.getvalue())
            self._make_room(name, other)
            _rename(other, name)
            symbols = {
                annotations.text(op, "sym_name"): self._global(name, model, op)
                for op in other.body.operations
                if op.operation.name == "util.global"
            }
            for op in other.body.operations:
                if op.operation.name != "util.global":
                    self._bring(name, op, symbols)

    def _symbols(self, kind: str) -> list[str]:
        return [
            annotations.text(op, "sym_name")
            for op in self.module.body.operations
            if op.operation.name == kind
        ]

    def _make_room(self, name: str, module: ir.Module) -> None:
        """Rename what has the name of an entry, of ``reset``, or of what other models have."""
        entry = entry_function(module)
        functions, others = {*self.entries, RESET_POINT}, set[str]()
        if module is not self.module:
            functions |= set(self._symbols("func.func"))
            others = set(self._symbols("util.global"))
        own = {annotations.text(op, "sym_name") for op in module.body.operations}
        taken = functions | others
        for op in list(module.body.operations):
            symbol = annotations.text(op, "sym_name")
            if op.operation.name == "util.global" and symbol in functions:
                rename_global(module, op)
            elif op.operation.name == "func.func" and op != entry and symbol in taken:
                _rename_symbol(module, op, _free(f"{symbol}.{name}", taken | own))

    def _global(self, name: str, model: Model, op: Any) -> str:
        """Return the symbol of the global `op` of another module in this one."""
        key = tensor_of(op)
        is_tensor = key in model.tensors
        if is_tensor:
            key = self._tensor(name, model, key)
        there = next(
            (
                held
                for held in self.module.body.operations
                if held.operation.name == "util.global"
                and (tensor_of(held) == key or annotations.text(held, "sym_name") == key)
                and (not is_tensor or held.attributes["type"] == op.attributes["type"])
            ),
            None,
        )
        if there is None:
            self._bring(name, op, {}, at_begin=True)
            self.global_of[annotations.text(op, "sym_name")] = name
            return annotations.text(op, "sym_name")
        symbol = annotations.text(there, "sym_name")
        if not (is_tensor and tensor_of(there) in self.tensors):
            self._compare(name, there, op)
        if is_mutable(op) and not is_mutable(there):
            there.attributes["is_mutable"] = ir.UnitAttr.get()
            if is_tensor:
                self.tensors[key] = dataclasses.replace(
                    self.tensors[key], is_zero=model.tensors[tensor_of(op)].is_zero
                )
        return symbol

    def _compare(self, name: str, there: Any, op: Any) -> None:
        """Raise a UserError unless two globals, of which one is no tensor of a file, are equal."""
        symbol = annotations.text(there, "sym_name")
        pair = f"the entries '{self.global_of[symbol]}' and '{name}'"
        if there.attributes["type"] == op.attributes["type"]:
            if "initial_value" not in there.attributes and "initial_value" not in op.attributes:
                raise UserError(
                    f"{pair} have a global without an initial value, which cannot be compared",
                    where=f"global '@{symbol}'",
                    hint="give it an initial value, or another name in each",
                )
            if _have_equal_values(there, op):
                return
        raise UserError(
            f"{pair} have different weights",
            where=f"global '@{symbol}'",
            hint="what has one name must be equal in all entries; rename it where it differs",
        )

    def _tensor(self, name: str, model: Model, key: str) -> str:
        """Return the key of `model`'s tensor here; of tied ones another may have been first."""
        names = [alias for alias, of in model.aliases.items() if of == key] or [key]
        known = next((self.aliases[one] for one in names if one in self.aliases), None)
        tensor = dataclasses.replace(model.tensors[key], file=model.source)
        if known is None:
            self.tensors[key], self.entry_of[key] = tensor, name
            self.aliases |= dict.fromkeys(names, key)
            return key
        if not _are_equal(self.tensors[known], tensor):
            raise UserError(
                f"the entries '{self.entry_of[known]}' and '{name}' have different weights",
                where=f"parameter '{key}'",
                hint="export them from one model, after it was trained or loaded",
            )
        self.aliases |= dict.fromkeys(names, known)
        return known

    def _bring(
        self, name: str, op: Any, symbols: Mapping[str, str], *, at_begin: bool = False
    ) -> None:
        symbol = annotations.text(op, "sym_name")
        if symbol and any(
            annotations.text(held, "sym_name") == symbol for held in self.module.body.operations
        ):
            raise UserError(
                f"another entry defines '@{symbol}' too, as something else",
                where=f"entry '{name}'", hint="give it another name in one of them",
            )  # fmt: skip
        body = self.module.body
        place = ir.InsertionPoint.at_block_begin(body) if at_begin else ir.InsertionPoint(body)
        copied = op.operation.clone(place)
        for inner in annotations.operations(copied):
            if "global" in inner.attributes and inner.name.startswith("util.global."):
                old = ir.FlatSymbolRefAttr(inner.attributes["global"]).value
                new = ir.FlatSymbolRefAttr.get(symbols.get(old, old))
                inner.attributes["global"] = new


def _rename(module: ir.Module, name: str) -> None:
    function = entry_function(module)
    _rename_symbol(module, function, name)
    function.attributes[annotations.ENTRY] = ir.UnitAttr.get()


def _rename_symbol(module: ir.Module, op: Any, name: str) -> None:
    old = annotations.text(op, "sym_name")
    if old != name:
        ir.SymbolTable.replace_all_symbol_uses(old, name, module.operation)
        op.attributes["sym_name"] = ir.StringAttr.get(name)


def _free(name: str, taken: Collection[str]) -> str:
    """Return `name`, with a number if it is taken."""
    numbered = (f"{name}.{number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([name], numbered) if one not in taken)


def _have_equal_values(one: Any, other: Any) -> bool:
    """Return whether two globals of one module begin as the same."""
    if not all("initial_value" in op.attributes for op in (one, other)):
        return False
    values = [op.attributes["initial_value"] for op in (one, other)]
    if values[0] == values[1]:
        return True
    if not all(str(value).startswith("dense_resource<") for value in values):
        return False
    # Bytes beside the text, which lose their name when two modules come together.
    bytes_of = [_HEX.findall(str(op)) for op in (one, other)]
    return bool(bytes_of[0]) and bytes_of[0] == bytes_of[1]


def _are_equal(one: Any, other: Any) -> bool:
    """Return whether two tensors are of one type and of equal bytes; compares a block at a time."""
    if (one.dtype, one.sizes) != (other.dtype, other.sizes):
        return False
    views = [parameters.view(tensor, tensor.file) for tensor in (one, other)]
    if one.strides != other.strides or not all(view.flags.c_contiguous for view in views):
        return all(np.array_equal(_bytes(a), _bytes(b)) for a, b in zip(*views, strict=True))
    flat = [_bytes(view) for view in views]
    return all(
        np.array_equal(flat[0][start : start + BLOCK], flat[1][start : start + BLOCK])
        for start in range(0, flat[0].size, BLOCK)
    )


def _bytes(view: Any) -> Any:
    return np.ascontiguousarray(view).reshape(-1).view(np.uint8)
