"""Weights that are powers of two as their kernel reads them: panels of terms, and what they reach.

Four terms (:mod:`.powers`, a byte each) of one k make a word.  Word i of a group holds columns i,
i + lanes, i + 2 lanes … in its bytes from the lowest on, so that shifts of a vector of words give
vectors of neighbouring columns.

A product of an f32 and a term is one integer addition as long as its exponent stays that of a
normal number.  So each panel also says between which exponent fields an activation must lie for
that: ``97 - lowest`` and ``min(350 - highest, 254)``, with the lowest and the highest field of its
terms; zeros are handled beside it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .powers import EXPONENT_BIAS, EXPONENT_MASK

WAYS = 4  # terms in a word
LARGEST_FIELD = 254  # of a finite f32


def pack_terms(terms: NDArray[np.uint8], columns: int, lanes: int) -> NDArray[np.uint32]:
    """Return terms ``[N, K]`` as words ``[panels, K, columns / 4]``, N filled up with zeros."""
    n, k = terms.shape
    panels = -(-n // columns)
    padded = np.zeros((panels * columns, k), np.uint8)
    padded[:n] = terms
    split = padded.reshape(panels, columns // (WAYS * lanes), WAYS, lanes, k)
    ordered = np.ascontiguousarray(split.transpose(0, 4, 1, 3, 2))
    return ordered.view("<u4").reshape(panels, k, columns // WAYS)


def ranges(terms: NDArray[np.uint8], columns: int) -> NDArray[np.int32]:
    """Return the lowest and highest exponent field of activations ``[panels, 2]``."""
    n, k = terms.shape
    panels = -(-n // columns)
    padded = np.zeros((panels * columns, k), np.uint8)
    padded[:n] = terms
    fields = (padded & EXPONENT_MASK).astype(np.int32).reshape(panels, -1)
    lowest = np.where(fields == 0, EXPONENT_MASK, fields).min(axis=1)
    highest = np.maximum(fields.max(axis=1), 1)
    top = LARGEST_FIELD + EXPONENT_BIAS
    return np.stack([EXPONENT_BIAS + 1 - lowest, np.minimum(top - highest, LARGEST_FIELD)], axis=1)
