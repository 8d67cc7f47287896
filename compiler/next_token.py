"""How well a model foretells its own input: the bits that each next token costs.

The cross-entropy of a language model: ``-log2 softmax(logits[t])[token[t + 1]]``, averaged over all
places that have a next one.  Where tokens are bytes these are bits per byte, the figure that
compares models whatever their tokens are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UserError

Array = np.ndarray[Any, Any]


@dataclass
class NextToken:
    """Adds up the bits of call after call."""

    bits: float = 0.0
    tokens: int = 0

    def add(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Take the flat inputs and outputs of one call.

        Tokens ``[…, T]`` are the integer input for which a float output ``[…, T, V]`` is there.

        Raises
        ------
        UserError
            There is no such pair or more than one, or a token lies outside the vocabulary V.
        """
        tokens, logits = _pair(inputs, outputs)
        if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < logits.shape[-1]:
            raise UserError(f"a token lies outside the vocabulary of {logits.shape[-1]}")
        bits = next_token_bits(logits, tokens)
        self.bits += float(bits.sum())
        self.tokens += bits.size

    @property
    def mean(self) -> float | None:
        """Bits per token so far; None when no token had a next one."""
        return self.bits / self.tokens if self.tokens else None


def next_token_bits(logits: Array, tokens: Array) -> Array:
    """Return the bits ``[…, T - 1]`` of each token ``[…, T]`` but the first, in f64."""
    values = np.asarray(logits)[..., :-1, :].astype(np.float64)
    top = values.max(axis=-1, keepdims=True)
    total = np.log(np.exp(values - top).sum(axis=-1)) + top[..., 0]
    chosen = np.take_along_axis(values, tokens[..., 1:, None].astype(np.int64), axis=-1)[..., 0]
    return np.asarray((total - chosen) / math.log(2))


def _pair(inputs: Sequence[Any], outputs: Sequence[Any]) -> tuple[Array, Array]:
    floats = [np.asarray(value) for value in outputs if np.asarray(value).dtype.kind in "fV"]
    found = [
        (value, logits)
        for value in map(np.asarray, inputs)
        if value.dtype.kind in "iu" and value.ndim
        for logits in floats
        if logits.shape[:-1] == value.shape
    ]
    if len(found) > 1:
        raise UserError("several inputs or outputs could be the tokens and their logits")
    if found:
        return found[0]
    raise UserError(
        "no output has logits for each token of an input",
        hint="bits of the next token need tokens [..., T] and an output [..., T, vocabulary]",
    )
