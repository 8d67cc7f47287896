"""Several models as entry points of one module: every weight once, and one state for all.

A language model is exported twice, for a prompt and for the next token::

    lowc.compile({"prefill": first, "decode": second}, recipe="w4a8", output="model.vmfb")

Each is imported alone; here their functions come into one module, under their names.  Globals of
one name are one global: parameters must be equal byte by byte, and a buffer that one entry writes
to is what the others read.
"""

import dataclasses
import io
import keyword
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from iree.compiler import ir

from ..errors import UserError
from ..passes import annotations
from ..runtime.manifest import RESET_POINT
from ..runtime.program import RESERVED
from . import parameters
from .frontend import Model, entry_function, open_model
from .globals import add_reset, tensor_of

BLOCK = 1 << 24  # bytes that are compared at a time


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


def merge(models: Mapping[str, Model]) -> Model:
    """Return one model with the entries of all; the module of the first one is changed."""
    (first_name, first), *rest = models.items()
    merged = _Merge(first_name, first)
    for name, model in rest:
        merged.add(name, model)
    add_reset(first.module, merged.tensors)
    has_state = any(model.interface.has_state for model in models.values())
    interfaces = [
        dataclasses.replace(model.interface, entry_point=name, has_state=has_state)
        for name, model in models.items()
    ]
    notes = [f"{name}: {note}" for name, model in models.items() for note in model.notes]
    return Model(
        first.module, interfaces[0], merged.tensors, merged.source, notes,
        merged.aliases, tuple(interfaces[1:]),
    )  # fmt: skip


class _Merge:
    def __init__(self, name: str, model: Model) -> None:
        self.module, self.source = model.module, model.source
        self.tensors = {
            key: dataclasses.replace(tensor, file=model.source)
            for key, tensor in model.tensors.items()
        }
        self.aliases = dict(model.aliases)
        self.entry_of = dict.fromkeys(self.tensors, name)
        _rename(entry_function(self.module), name)

    def add(self, name: str, model: Model) -> None:
        """Bring the entry function of `model`, and what it reads, into the module."""
        data = io.BytesIO()
        model.module.operation.write_bytecode(data)
        self.source = self.source or model.source
        with self.module.context, ir.Location.unknown():
            other = ir.Module.parse(data.getvalue())
            _rename(entry_function(other), name)
            symbols = {
                annotations.text(op, "sym_name"): self._global(name, model, op)
                for op in other.body.operations
                if op.operation.name == "util.global"
            }
            for op in other.body.operations:
                if op.operation.name != "util.global":
                    self._bring(name, op, symbols)

    def _global(self, name: str, model: Model, op: Any) -> str:
        """Return the symbol of the global `op` of another module in this one."""
        key = tensor_of(op)
        if key in model.tensors:
            key = self._tensor(name, model, key)
        there = next(
            (
                held
                for held in self.module.body.operations
                if held.operation.name == "util.global"
                and (tensor_of(held) == key or annotations.text(held, "sym_name") == key)
                and held.attributes["type"] == op.attributes["type"]
            ),
            None,
        )
        if there is None:
            self._bring(name, op, {}, at_begin=True)
            return annotations.text(op, "sym_name")
        if "is_mutable" in op.attributes and "is_mutable" not in there.attributes:
            there.attributes["is_mutable"] = ir.UnitAttr.get()
            self.tensors[key] = dataclasses.replace(
                self.tensors[key], is_zero=model.tensors[tensor_of(op)].is_zero
            )
        return annotations.text(there, "sym_name")

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
        if any(
            annotations.text(held, "sym_name") == symbol for held in self.module.body.operations
        ):
            raise UserError(f"two entries define '@{symbol}'", where=f"entry '{name}'")
        body = self.module.body
        place = ir.InsertionPoint.at_block_begin(body) if at_begin else ir.InsertionPoint(body)
        copied = op.operation.clone(place)
        for inner in annotations.operations(copied):
            if "global" in inner.attributes and inner.name.startswith("util.global."):
                old = ir.FlatSymbolRefAttr(inner.attributes["global"]).value
                new = ir.FlatSymbolRefAttr.get(symbols.get(old, old))
                inner.attributes["global"] = new


def _rename(function: Any, name: str) -> None:
    function.attributes["sym_name"] = ir.StringAttr.get(name, function.context)
    function.attributes[annotations.ENTRY] = ir.UnitAttr.get(function.context)


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
