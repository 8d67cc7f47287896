"""Ternary weights as kernels read them that look four of them up at once: a byte for four weights.

Four ternary weights are two keys of a table of four inputs (``tables.py``), one in each plane of
signs (:func:`.ternary.as_planes`), and what they add to a sum is ``T[first] + T[second]``.  The
second key has no sign that the first one lacks, so there are 81 pairs; since ``T[15 - key] =
-T[key]``, the pair of the negated weights, ``(15 - second, 15 - first)``, has the negated sum.  So
41 pairs are enough, which six bits of a byte number, and bit 6 says that the weights are negated:

* bits 0 to 3 are the first key itself, so that ``T[first]`` of all 64 numbers is the table, four
  times;
* bits 4 and 5 choose one of up to four second keys (:func:`seconds`); which of the two pairs has a
  number is chosen so that no first key needs a fifth (:func:`numbers`);
* bit 7 is 0.

Bytes are ordered in panels as keys are (``key_panels.py``): panels, quads along K, bytes.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from .key_panels import ROWS
from .tables import ENTRIES, QUAD

NUMBERS = 64  # of pairs, some of which are none
NEGATED = 64  # the bit
PAIRS = 3**QUAD


@functools.cache
def numbers() -> NDArray[np.uint8]:
    """Return the byte of each four weights, by their place: ``sum over t of (q_t + 1) 3^t``.

    A pair and its opposite have one number: that of the one whose first key has fewer second keys
    so far, in the order of what there is least choice for.
    """
    found = np.zeros(PAIRS, np.uint8)
    chosen: list[list[int]] = [[] for _ in range(ENTRIES)]
    for place in sorted(range(PAIRS // 2 + 1), key=_choices):
        own, other = _pair(place), _pair(PAIRS - 1 - place)
        is_other = len(chosen[other[0]]) < len(chosen[own[0]])
        first, second = other if is_other else own
        number = first | len(chosen[first]) << QUAD
        chosen[first].append(second)
        found[place] = number | (NEGATED if is_other else 0)
        if place != PAIRS - 1 - place:
            found[PAIRS - 1 - place] = number | (0 if is_other else NEGATED)
    return found


@functools.cache
def seconds() -> tuple[int, ...]:
    """Return the second key of each number of a pair; 0 where a number is none."""
    found = [0] * NUMBERS
    for place, number in enumerate(numbers().tolist()):
        if number < NEGATED:
            found[number] = _pair(place)[1]
    return tuple(found)


def _pair(place: int) -> tuple[int, int]:
    """Return the keys of four weights in both planes."""
    digits = [place // 3**t % 3 - 1 for t in range(QUAD)]
    first = sum(1 << t for t, q in enumerate(digits) if q >= 0)
    return first, sum(1 << t for t, q in enumerate(digits) if q > 0)


def _choices(place: int) -> tuple[int, int]:
    """Return what four weights are sorted by: pairs whose first keys are many signs come last."""
    first, opposite = _pair(place)[0], _pair(PAIRS - 1 - place)[0]
    return -(first.bit_count() + opposite.bit_count()), place


def pack(codes: NDArray[np.int8], columns: int, quads: int) -> NDArray[np.uint8]:
    """Return codes ``[N, K]`` as bytes ``[panels, quads, columns]``.

    K is filled up to `quads` with zeros, N to whole panels.
    """
    (n, k), panels = codes.shape, -(-len(codes) // columns)
    full = np.zeros((panels * columns, quads * QUAD), np.int64)
    full[:n, :k] = codes
    places = ((full + 1).reshape(-1, quads, QUAD) * 3 ** np.arange(QUAD)).sum(axis=-1)
    split = numbers()[places].reshape(panels, ROWS, columns // ROWS, quads)
    return np.ascontiguousarray(split.transpose(0, 3, 2, 1)).reshape(panels, quads, columns)
