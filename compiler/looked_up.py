"""Parameters that a call reads in places only: tables that are looked into, such as embeddings."""

from typing import Any

from iree.compiler import ir

from ..passes import annotations
from ..passes.parameters import parameter_key

_VIEWS = ("tensor.cast", "tensor.collapse_shape", "tensor.expand_shape", "tensor.reshape")


def looked_up(module: ir.Module) -> tuple[str, ...]:
    """Return the keys of the parameters of which only single elements are extracted, in order.

    Their rows depend on the input, so most of a table is not touched in a call; whoever loads the
    module may leave it in its file.
    """
    loads: dict[str, list[Any]] = {}
    for op in annotations.operations(module):
        if op.name == "util.global.load":
            symbol = ir.FlatSymbolRefAttr(op.attributes["global"]).value
            loads.setdefault(symbol, []).append(op)
    found = []
    for holder in module.body.operations:
        if holder.operation.name != "util.global":
            continue
        users = loads.get(annotations.text(holder, "sym_name"), [])
        key = parameter_key(holder)
        if key is not None and users and all(_is_looked_into(op.results[0]) for op in users):
            found.append(key)
    return tuple(found)


def _is_looked_into(value: ir.Value) -> bool:
    """Whether single elements of `value` are all that is read."""
    users = [use.owner.operation for use in value.uses]
    return bool(users) and all(
        user.name == "tensor.extract" or (user.name in _VIEWS and _is_looked_into(user.results[0]))
        for user in users
    )
