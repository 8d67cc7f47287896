"""Binary-coded weights as the kernels of signed sums read them: panels of signs, and their terms.

A word holds 32 neighbouring weights along K of one column and plane: that of k in bit ``31 - k``, 1
means *minus*.  So a word that moves up by one bit for each k has the sign where an f32 has it.
Words are ordered, outermost first: panels of columns, words along K, planes, columns.  What fills
up K and N is plus.

The terms of a scale (:mod:`.powers`) are the bytes of a word, the first in the lowest:
``[panels, G, planes, columns]``, 0 beyond N.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

WORD = 32
TERM_BYTES = 4


def pack_signs(signs: NDArray[np.bool_], k: int, columns: int) -> NDArray[np.uint32]:
    """Return signs ``[N, planes, k or more]`` as words ``[panels, words, planes, columns]``.

    Of the signs, true is plus.
    """
    n, planes, _ = signs.shape
    panels, words = -(-n // columns), -(-k // WORD)
    minus = np.zeros((panels * columns, planes, words * WORD), np.bool_)
    minus[:n, :, :k] = ~signs[..., :k]
    packed = np.packbits(minus, axis=-1, bitorder="big").view(">u4").astype("<u4")
    split = packed.reshape(panels, columns, planes, words)
    return np.ascontiguousarray(split.transpose(0, 3, 2, 1))


def pack_terms(terms: NDArray[np.uint8], columns: int) -> NDArray[np.uint32]:
    """Return terms ``[N, G, planes, at most 4]`` as words ``[panels, G, planes, columns]``."""
    n, groups, planes, count = terms.shape
    panels = -(-n // columns)
    full = np.zeros((panels * columns, groups, planes, TERM_BYTES), np.uint8)
    full[:n, ..., :count] = terms
    words: NDArray[Any] = full.view("<u4")[..., 0].reshape(panels, columns, groups, planes)
    return np.ascontiguousarray(words.transpose(0, 2, 3, 1))
