"""The nesting of a model's inputs and outputs, as plain JSON.

A tree is ``"*"`` for a leaf, or ``{"type": T, "keys": [...], "name": N, "children": [...]}`` with T
one of ``tuple``, ``list``, ``dict``, ``namedtuple`` and ``object``.  An ``object`` is a class that
the machine which runs the model need not have (a Hugging Face ``ModelOutput``, say): on input
anything with those keys or attributes is taken, on output an :class:`Output` is given.
"""

from __future__ import annotations

import keyword
from collections import OrderedDict, namedtuple
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import UserError

LEAF = "*"
Tree = Any  # "*" or the dictionary described above


class Output(OrderedDict[str, Any]):
    """An ordered mapping whose values are also attributes and can be taken by position.

    It stands in for output classes of libraries that need not be installed where a model runs:
    ``out["last_hidden_state"]``, ``out.last_hidden_state`` and ``out[0]`` are the same array.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self:
            raise AttributeError(f"the model's output has no '{name}', only {list(self)}")
        return self[name]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, (int, slice)):
            return tuple(self.values())[key]
        return super().__getitem__(key)

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the values in order."""
        return tuple(self.values())


def leaf_count(tree: Tree) -> int:
    """Return the number of leaves below `tree`."""
    return 1 if tree == LEAF else sum(leaf_count(child) for child in tree["children"])


def leaf_paths(tree: Tree, prefix: str) -> Iterator[str]:
    """Yield one dotted path per leaf, in order: ``past.0.key``."""
    if tree == LEAF:
        yield prefix
        return
    labels = tree.get("keys") or range(len(tree["children"]))
    for label, child in zip(labels, tree["children"], strict=True):
        yield from leaf_paths(child, f"{prefix}.{label}" if prefix else str(label))


def flatten(tree: Tree, value: Any, where: str) -> Iterator[Any]:
    """Yield the leaves of `value` in the order of `tree`.

    Raises
    ------
    UserError
        When `value` is not nested like `tree`; `where` names the argument in the message.
    """
    if tree == LEAF:
        yield value
        return
    children = tree["children"]
    for label, part, child in zip(
        tree.get("keys") or range(len(children)), _parts(tree, value, where), children, strict=True
    ):
        yield from flatten(child, part, f"{where}.{label}")


def _parts(tree: Tree, value: Any, where: str) -> Sequence[Any]:
    children, keys = tree["children"], tree.get("keys")
    if keys and isinstance(value, Mapping):
        if set(value) != set(keys):
            raise UserError(
                f"expected the keys {list(keys)}, got {list(value)}", where=f"input '{where}'"
            )
        return [value[key] for key in keys]
    if keys and all(hasattr(value, str(key)) for key in keys):
        return [getattr(value, str(key)) for key in keys]
    if tree["type"] != "dict" and isinstance(value, Sequence) and len(value) == len(children):
        return value
    got = type(value).__name__
    if isinstance(value, Sequence) and not isinstance(value, str):
        got += f" of {len(value)}"
    wanted = f"a {tree['type']} of {len(children)}" + (f" with keys {list(keys)}" if keys else "")
    raise UserError(f"expected {wanted}, got a {got}", where=f"input '{where}'")


def unflatten(tree: Tree, leaves: Iterator[Any]) -> Any:
    """Build the value that `tree` describes from an iterator over its leaves."""
    if tree == LEAF:
        return next(leaves)
    values = [unflatten(child, leaves) for child in tree["children"]]
    kind, keys = tree["type"], tree.get("keys")
    if kind == "tuple":
        return tuple(values)
    if kind == "list":
        return values
    if kind == "dict":
        return dict(zip(keys, values, strict=True))
    if not keys:
        return tuple(values)
    valid = all(str(key).isidentifier() and not keyword.iskeyword(key) for key in keys)
    if kind == "namedtuple" and valid:
        return namedtuple(tree["name"].rsplit(".", 1)[-1], keys, rename=True)(*values)
    return Output(zip((str(key) for key in keys), values, strict=True))
