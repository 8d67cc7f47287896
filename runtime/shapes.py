"""Check the shapes of a call against the fixed, symbolic and computed sizes of the signature."""

from __future__ import annotations

import ast
import operator
from collections.abc import Iterable, Mapping

from ..errors import UserError
from .manifest import Dimension, Leaf

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}
_LONGEST = 200


class ShapeChecker:
    """The sizes that one call has given to the symbols so far."""

    def __init__(self, ranges: Mapping[str, tuple[int | None, int | None]]) -> None:
        self.ranges = ranges
        self.sizes: dict[str, int] = {}
        self.owners: dict[str, str] = {}

    def check(self, shapes: Iterable[tuple[Leaf, tuple[int, ...]]]) -> None:
        """Check all tensors of a call: rank and plain sizes first, then those like ``2*s0``.

        Raises
        ------
        UserError
            Names the input, the expected shape and the given one.
        """
        pairs = list(shapes)
        for leaf, shape in pairs:
            if len(shape) != len(leaf.shape):
                raise UserError(
                    f"expected rank {len(leaf.shape)} ({self._text(leaf.shape)}), got rank "
                    f"{len(shape)} ({self._text(shape)})",
                    where=f"input '{leaf.name}'",
                )
            for axis, wanted in enumerate(leaf.shape):
                self._plain(leaf, shape, axis, wanted)
        for leaf, shape in pairs:
            for axis, wanted in enumerate(leaf.shape):
                size = None if is_plain(wanted) else evaluate(str(wanted), self.sizes)
                if size is not None and size != shape[axis]:
                    raise self._error(leaf, shape, f"dimension {axis} must be {wanted} = {size}")

    def _plain(self, leaf: Leaf, shape: tuple[int, ...], axis: int, wanted: Dimension) -> None:
        size = shape[axis]
        if isinstance(wanted, int):
            if size != wanted:
                raise self._error(leaf, shape, f"dimension {axis} is {size}, not {wanted}")
            return
        low, high = self.ranges.get(wanted, (None, None))
        if (low is not None and size < low) or (high is not None and size > high):
            raise self._error(leaf, shape, f"'{wanted}' must be {_range(low, high)}, and is {size}")
        if not is_plain(wanted):
            return
        first = self.sizes.setdefault(wanted, size)
        owner = self.owners.setdefault(wanted, leaf.name)
        if first != size:
            raise self._error(leaf, shape, f"'{wanted}' is {first} in '{owner}' and {size} here")

    def _error(self, leaf: Leaf, shape: tuple[int, ...], why: str) -> UserError:
        return UserError(
            f"expected the shape {self._text(leaf.shape)}, got {self._text(shape)}: {why}",
            where=f"input '{leaf.name}'",
        )

    @staticmethod
    def _text(shape: Iterable[Dimension]) -> str:
        return "[" + ", ".join(str(size) for size in shape) + "]"


def refuse_empty(leaf: Leaf, shape: tuple[int, ...], device: str) -> None:
    """Refuse an input without elements whose size the call decides, which a GPU cannot read.

    IREE binds its memory, of which there is none, only when the work has been queued: that fails
    this call and all that come after it in the process.

    Raises
    ------
    UserError
        Names the input, its size that is 0, and the device.
    """
    for axis, (wanted, size) in enumerate(zip(leaf.shape, shape, strict=True)):
        if size == 0 and not isinstance(wanted, int):
            raise UserError(
                f"'{wanted}' is 0 (dimension {axis}), and '{device}' runs no model on an input "
                "without elements",
                where=f"input '{leaf.name}'",
                hint="leave out calls without elements, or compile the model for a CPU, which "
                "takes them",
            )


def _range(low: int | None, high: int | None) -> str:
    if high is None:
        return f"at least {low}"
    return f"at most {high}" if low is None else f"in [{low}, {high}]"


def is_plain(size: Dimension) -> bool:
    """Whether `size` is a number or a lone symbol, not an expression."""
    return isinstance(size, int) or size.isidentifier()


def evaluate(text: str, sizes: Mapping[str, int]) -> int | None:
    """Return the value of an expression of ``+ - * //``, integers and known symbols, else None."""
    try:
        return _value(ast.parse(text[: _LONGEST + 1], mode="eval").body, sizes)
    except (SyntaxError, ValueError, LookupError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _value(node: ast.AST, sizes: Mapping[str, int]) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, sizes)
    if isinstance(node, ast.BinOp):
        operation = _OPERATORS[type(node.op)]
        return int(operation(_value(node.left, sizes), _value(node.right, sizes)))
    raise ValueError(f"cannot evaluate {type(node).__name__}")
