"""Give tokens to a language model of two entries, a prompt piece by piece.

What a call calculates between its layers grows with the tokens that it is given, so a long prompt
at once takes much memory.  In pieces it takes that of one piece; each reads all weights again.

Caches that are inputs and outputs are carried from call to call, on the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from . import tree as trees
from .dtypes import data_type
from .module import Module
from .token_steps import TokenSteps

PIECE = 128  # tokens


class Feeder:
    """The entries ``prefill`` and ``decode`` of a model (``generation.py``), as one.

    Parameters
    ----------
    prefill, decode : Module
        The entries.
    context : int
        The most tokens that there are.
    piece : int
        The most tokens of a call, if the model leaves a choice: one that takes as many tokens as
        positions, or a known number of them, does not.
    """

    def __init__(self, prefill: Module, decode: Module, context: int, piece: int = PIECE) -> None:
        self._prefill, self._decode = prefill, decode
        self._context = context
        self._positions: dict[str, NDArray[Any]] = {}  # by type; as many as were asked for
        tokens, positions = (leaf.shape[0] for leaf in prefill.signature.inputs[:2])
        ranges = dict(prefill.signature.ranges)
        self._caches: list[Any] = []
        suits = TokenSteps.suit(decode, context)
        self._steps = TokenSteps(decode, context) if suits else None
        if isinstance(tokens, int):
            ranges[str(tokens)] = tokens, tokens
        is_known = str(tokens) in ranges  # and no sum or product of other sizes
        self._comes_in_pieces = is_known and isinstance(positions, str) and tokens != positions
        least, most = ranges.get(str(tokens), (None, None))
        self._least = max(2, least or 0)
        self._most = 1 if most == 1 else max(self._least, min(piece, most or piece))

    def pieces(self, count: int) -> list[int]:
        """Return how many tokens each call is given of `count`, one at least; all much alike."""
        least, most = self._least, self._most
        if count == 1 or not self._comes_in_pieces:
            return [count]
        if most == 1:
            return [1] * count
        calls = -(-count // most)
        even, longer = divmod(count, calls)
        if even >= least:
            return [even + 1] * longer + [even] * (calls - longer)
        whole, rest = divmod(count, most)
        return [most] * whole + ([rest] if rest >= least else [1] * rest)

    def call(self, tokens: NDArray[np.int64], held: int) -> NDArray[Any]:
        """Return the logits ``[vocabulary]`` after a piece, with which there are `held` tokens.

        They may be memory of the model's, good until its next call.
        """
        if tokens.size == 1 and self._steps is not None and self._steps.takes(tokens[0], held):
            return self._steps.step(tokens[0], held)
        entry = self._decode if tokens.size == 1 else self._prefill
        if held == tokens.size and self.carries_caches:
            self._caches = [
                entry.to_device(np.zeros(leaf.shape, data_type(leaf.dtype, "").numpy))
                for leaf in entry.signature.inputs[2:]
            ]
        manifest = entry.manifest
        given, counted = (leaf.dtype for leaf in entry.signature.inputs[:2])
        leaves = iter([as_type(tokens, given), self._first(held, counted), *self._caches])
        args = trees.unflatten(manifest.args_tree, leaves)
        kwargs = trees.unflatten(manifest.kwargs_tree, leaves)
        call = entry.start if self._caches else entry
        result = trees.flatten(manifest.out_tree, call(*args, **kwargs), "the logits")
        logits, *self._caches = result
        found: NDArray[Any] = np.asarray(logits)[0]
        return found

    def _first(self, count: int, dtype: str) -> NDArray[Any]:
        """Return the positions ``[count]``; there is room for more than that, not for all."""
        found = self._positions.get(dtype)
        if found is None or found.size < count:
            found = as_type(np.arange(min(self._context, max(PIECE, 2 * count))), dtype)
            self._positions[dtype] = found
        return found[:count]

    @property
    def carries_caches(self) -> bool:
        """Whether the model takes and gives its caches, so that it keeps no text itself."""
        return len(self._decode.signature.inputs) > len(("tokens", "positions"))

    def feed(self, tokens: NDArray[np.int64], start: int) -> NDArray[Any]:
        """Return the logits ``[vocabulary]`` after `tokens`, the first of which is at `start`.

        They may be memory of the model's, good until its next call.
        """
        done = 0
        for size in self.pieces(tokens.size):
            done += size
            logits = self.call(tokens[done - size : done], start + done)
        return logits


def as_type(numbers: NDArray[np.int64], dtype: str) -> NDArray[Any]:
    """Return whole numbers in the type of an input.

    Raises
    ------
    UserError
        The type has not one of them.
    """
    wanted = data_type(dtype, "").numpy
    ends = np.iinfo(wanted)
    for number in (int(numbers.min()), int(numbers.max())):
        if not ends.min <= number <= ends.max:
            raise UserError(
                f"the model takes tokens and positions in {dtype}, which has no {number}",
                hint="export it with int64, or give a shorter text of tokens that it knows",
            )
    return numbers.astype(wanted, copy=False)
