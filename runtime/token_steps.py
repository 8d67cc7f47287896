"""Steps of a language model on a CPU, one token each: what does not change is made once.

A step reads all weights, which drive the code of Python's calls and its objects out of the caches:
checking and copying two small inputs and one result took 0.2 ms of a step of 4.  Here a step writes
its token where the device reads it, and names its positions by a view of those that lie there.
"""

from __future__ import annotations

from typing import Any

import iree.runtime as rt
import numpy as np
from numpy.typing import NDArray

from .buffers import upload
from .devices import CPU, CPU_SYNC
from .dtypes import data_type
from .module import Module

_BYTE = np.dtype(np.uint8)
MOST_AT_FIRST = 1024  # positions


class TokenSteps:
    """Calls of an entry that takes tokens ``[1]`` and positions ``[n]``, and gives logits.

    Parameters
    ----------
    decode : Module
        An entry that :meth:`suit`.
    context : int
        The most positions that there are.
    """

    def __init__(self, decode: Module, context: int) -> None:
        token, positions = decode.signature.inputs
        [logits] = decode.signature.outputs
        size = str(positions.shape[0])
        least, most = decode.signature.ranges.get(size, (None, None))
        self._least = 1 if least is None else max(1, least)
        self._most = context if most is None else min(context, most)
        if positions.below is not None:  # they index a table, which may end before
            self._most = min(self._most, positions.below)
        self._below = token.below
        self._decode = decode
        kind = data_type(token.dtype, "").numpy
        self._given = upload(np.zeros(1, kind), token.dtype, decode.device)
        # The call's own memory: nothing is uploaded any more.
        self._token = self._given.get_buffer().map().asarray((1,), kind)
        self._place, self._positions, self._room = positions.dtype, None, 0
        self._logits = data_type(logits.dtype, "").numpy
        self._run = decode.runner()

    @staticmethod
    def suit(decode: Module, context: int) -> bool:
        """Whether an entry is of this kind: on a CPU, with two inputs, the second of any size."""
        if decode.device.kind not in (CPU, CPU_SYNC):
            return False
        inputs, outputs = decode.signature.inputs, decode.signature.outputs
        leaves = [*decode.manifest.inputs, *decode.manifest.outputs]
        if len(inputs) != 2 or len(outputs) != 1 or any(leaf.literal for leaf in leaves):
            return False
        token, positions = inputs
        if token.shape != (1,) or len(positions.shape) != 1:
            return False
        whole = data_type(token.dtype, "").numpy, data_type(positions.dtype, "").numpy
        # A size of its own, which nothing else follows from.
        is_free = str(positions.shape[0]) in decode.signature.ranges
        fits = all(np.issubdtype(kind, np.integer) for kind in whole)
        return is_free and fits and context - 1 <= np.iinfo(whole[1]).max

    def takes(self, token: int, count: int) -> bool:
        """Whether the model takes this token as the last one of `count`."""
        if not self._least <= count <= self._most:
            return False
        return token >= 0 and (self._below is not None and token < self._below)

    def step(self, token: int, count: int) -> NDArray[Any]:
        """Return the logits ``[vocabulary]`` after a token with which there are `count`.

        They are the result's own memory, only to be read, and good until the module's next call.
        """
        self._token[0] = token
        arguments = rt.VmVariantList(2)
        arguments.push_ref(self._given)
        arguments.push_ref(self._first(count))
        view = self._run(arguments).get_as_object(0, rt.HalBufferView)
        # Several times as fast as IREE's own way to an array.
        found = np.frombuffer(view.get_buffer().map(), _BYTE, view.byte_length)
        return found.view(self._logits)

    def _first(self, count: int) -> Any:
        """Return the positions ``[count]``; there is room for more than that, not for all."""
        kind = data_type(self._place, "")
        if self._room < count:
            self._room = min(self._most, max(MOST_AT_FIRST, 2 * count))
            numbers = np.arange(self._room).astype(kind.numpy)
            self._positions = upload(numbers, self._place, self._decode.device).get_buffer()
        return rt.HalBufferView(self._positions, [count], kind.element)
