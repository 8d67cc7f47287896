"""Planes of signs as kernels read them that look four quads up at once: panels of sign words.

A lane of 32 bits of a vector belongs to one column; its word holds the signs of 32 neighbouring
weights of a plane, bit t for the t-th (:func:`.binary_codes.pack_signs`).  So byte j has the keys
of the quads 2 j, in its low half, and 2 j + 1.  Words are ordered, outermost first: panels, words
along K, planes, columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .binary_codes import WORD, pack_signs

PER_WORD = WORD // 4  # quads


def pack_words(signs: NDArray[np.bool_], columns: int, words: int) -> NDArray[np.uint32]:
    """Return signs ``[N, planes, K]`` as ``[panels, words, planes, columns]``.

    K is filled up to `words` or cut there, N is filled up to whole panels.
    """
    n, planes, _ = signs.shape
    panels = -(-n // columns)
    packed = pack_signs(signs)[..., :words]
    full = np.zeros((panels * columns, planes, words), np.uint32)
    full[:n, :, : packed.shape[-1]] = packed
    split = full.reshape(panels, columns, planes, words)
    return np.ascontiguousarray(split.transpose(0, 3, 2, 1))


def unpack_words(packed: NDArray[np.uint32], n: int) -> NDArray[np.uint32]:
    """Undo :func:`pack_words`: words ``[n, planes, words]`` of signs."""
    panels, words, planes, columns = packed.shape
    joined = packed.transpose(0, 3, 2, 1).reshape(panels * columns, planes, words)
    return np.ascontiguousarray(joined[:n])


def places(quads: int) -> NDArray[np.int64]:
    """Return where the table of each quad stands, so that four are looked up at once.

    Of the eight quads of a word those of the low halves of its bytes come first.
    """
    quad = np.arange(quads)
    return quad // PER_WORD * PER_WORD + quad % 2 * (PER_WORD // 2) + quad % PER_WORD // 2
