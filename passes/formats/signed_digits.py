"""Weights of 8 bits as few signed powers of two, so that shifts and additions multiply by them.

The canonical signed digits of an integer are the only ones in {-1, 0, 1} of which no two
neighbours are both nonzero, and no other signed digits have fewer nonzero ones: at most 4 for
-128…127, and 2.8 on average.  For ``h = c >> 1`` and ``t = c + h``, digit i is::

    d[i] = bit i of ((t ^ h) & t) - bit i of ((t ^ h) & h),    c = sum over i < 8 of d[i] 2^i

A product with x is a sum of ``±x << i`` over the nonzero digits.

:func:`booth` is radix-4 recoding: 4 digits in {-2, -1, 0, 1, 2}, one for each two bits, of which
c has between 0 and 4; simpler hardware, more additions.

Source: Reitwiesner 1960 for canonical digits (the form with ``3 c`` is folklore, Hacker's Delight);
Booth 1951 and MacSorley 1961 for radix 4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

DIGITS = 8
MOST = 4  # nonzero digits of a code


def digits(codes: ArrayLike) -> NDArray[np.int8]:
    """Return the canonical digits ``[..., 8]`` of int8 codes ``[...]``, the lowest first."""
    wide = np.asarray(codes, np.int8).astype(np.int32)
    half = wide >> 1
    triple = wide + half  # 3 c / 2, rounded down
    place = np.arange(DIGITS, dtype=np.int32)
    changed = triple ^ half
    plus, minus = changed & triple, changed & half
    return ((plus[..., None] >> place & 1) - (minus[..., None] >> place & 1)).astype(np.int8)


def booth(codes: ArrayLike) -> NDArray[np.int8]:
    """Return the radix-4 digits ``[..., 4]`` of int8 codes: c is ``sum of d[i] 4^i``."""
    wide = np.asarray(codes, np.int8).astype(np.int32) << 1  # a 0 below the lowest bit
    window = wide[..., None] >> np.arange(0, DIGITS, 2) & 7
    return np.array([0, 1, 1, 2, -2, -1, -1, 0], np.int8)[window]


def nonzero(codes: ArrayLike) -> NDArray[np.int64]:
    """Return how many canonical digits are not 0: the additions that a product needs."""
    return np.count_nonzero(digits(codes), axis=-1)


def product(x: NDArray[Any], codes: ArrayLike) -> NDArray[np.int64]:
    """Return ``x * codes`` (integers, shapes that broadcast) by shifts and additions."""
    wide, place = np.asarray(x, np.int64)[..., None], np.arange(DIGITS)
    sign = digits(codes)
    shifted = wide << place
    total: NDArray[np.int64] = np.where(sign > 0, shifted, 0).sum(axis=-1)
    return total - np.where(sign < 0, shifted, 0).sum(axis=-1)
