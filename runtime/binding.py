"""Bind the arguments of a call to the model's inputs, the way Python binds parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import UserError, nearest
from . import tree as trees
from .manifest import Leaf, Manifest

MISSING = object()


class Binder:
    """The arguments of a module: each has a name, a tree and the leaves below it."""

    def __init__(self, manifest: Manifest) -> None:
        subtrees = [*manifest.args_tree["children"], *manifest.kwargs_tree["children"]]
        self.names = manifest.argument_names
        self.arguments: list[tuple[str, trees.Tree, tuple[Leaf, ...]]] = []
        start = 0
        for name, subtree in zip(self.names, subtrees, strict=True):
            end = start + trees.leaf_count(subtree)
            self.arguments.append((name, subtree, manifest.inputs[start:end]))
            start = end

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[Leaf, Any]]:
        """Yield each tensor of the signature with the value given for it, in order.

        Every argument can be given by position or by name.  One that the exported program was
        specialised on can be left out; given, it must be None or the same value.

        Raises
        ------
        UserError
            Names the argument that is missing, unexpected, given twice, or of another value.
        """
        for value, (name, subtree, leaves) in zip(
            self._values(args, kwargs), self.arguments, strict=True
        ):
            if value is MISSING or (value is None and all(leaf.literal for leaf in leaves)):
                continue
            for leaf, part in zip(leaves, trees.flatten(subtree, value, name), strict=True):
                if leaf.literal:
                    _check_literal(leaf, part)
                else:
                    yield leaf, part

    def _values(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        takes = f"the model takes {len(self.names)} inputs: {', '.join(self.names)}"
        if len(args) > len(self.names):
            raise UserError(f"got {len(args)} inputs, expected {len(self.names)}", hint=takes)
        values = [*args, *[MISSING] * (len(self.names) - len(args))]
        for name, value in kwargs.items():
            if name not in self.names:
                hint = nearest(name, self.names) if self.names else "the model takes no inputs"
                raise UserError(f"unexpected input '{name}'", hint=hint)
            index = self.names.index(name)
            if values[index] is not MISSING:
                raise UserError(f"the input '{name}' is given twice, by position and by name")
            values[index] = value
        missing = [
            name
            for value, (name, _, leaves) in zip(values, self.arguments, strict=True)
            if value is MISSING and not all(leaf.literal for leaf in leaves)
        ]
        if missing:
            word = "input" if len(missing) == 1 else "inputs"
            raise UserError(f"missing {word} {', '.join(map(repr, missing))}", hint=takes)
        return values


def _check_literal(leaf: Leaf, value: Any) -> None:
    if value is None:
        return
    is_simple = isinstance(value, (bool, int, float, complex, str))
    same_kind = isinstance(value, bool) == isinstance(leaf.value, bool)
    if is_simple and same_kind and value == leaf.value:
        return
    shown = repr(value) if is_simple else f"a {type(value).__name__}"
    raise UserError(
        f"the model was exported for the value {leaf.value!r}, got {shown}",
        where=f"input '{leaf.name}'",
        hint="leave it out, or export the model again with the value that you need",
    )
