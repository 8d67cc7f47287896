"""Products with ternary weights by look-up: tables of five inputs, a byte for five weights.

A row ``x[K]`` of f32 is cut into *fives*, filled up with 0 to whole spans; the table of a five has
243 entries, one for each choice of ``q`` in -1, 0, 1::

    key = sum over t of (q_t + 1) 3^t
    T[key] = (((q0 x0 + q1 x1) + q2 x2) + q3 x3) + q4 x4       in f32

which are additions and subtractions alone; ``T[242 - key] = -T[key]``.  Entries are rounded as
those of ``tables.py`` are, with a power of two for each span, so that sums over a span are exact::

    y[n] = sum over the spans s of scale(f32(sum over the fives of s of t[key[n]]), e[s])

in f32, in this order in the portable form; the scale of the weight comes after it.

A span is whole pairs of fives: :func:`span_of` makes one of what a recipe says.

Kernels look a magnitude up, and turn its sign: of a weight's byte bit 7 is the sign of
``key - 121``, and the others are its magnitude.  Bytes are ordered in panels as keys are
(``key_panels.py``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import powers, tables, ternary
from .key_panels import ROWS
from .tables import TableFormat, Tables

FIVE = 5
KEYS = 3**FIVE
ZERO = KEYS // 2  # the key of five zeros
SIGN = 0x80
_PAIR = 2 * FIVE


def span_of(span: int, k: int) -> int:
    """Return the span for sums over `k`: whole pairs of fives.

    There are as many as of `span` inputs, rounded up; they share K evenly, to fill up little.
    """
    spans = -(-k // (-(-span // _PAIR) * _PAIR))
    return -(-k // (spans * _PAIR)) * _PAIR


def digits() -> NDArray[np.int64]:
    """Return q ``[243, 5]`` of each key."""
    return np.arange(KEYS)[:, None] // 3 ** np.arange(FIVE) % 3 - 1


def float_tables(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the tables ``[..., K / 5, 243]`` of rows ``[..., K]``, K a multiple of 5."""
    fives = np.asarray(x, np.float32).reshape(*x.shape[:-1], -1, 1, FIVE)
    chosen, zero = digits(), np.float32(0)
    total = np.zeros((*fives.shape[:-2], KEYS), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        for t in range(FIVE):
            own, q = fives[..., t], chosen[:, t]
            total = total + np.where(q == 0, zero, np.where(q > 0, own, -own))
    return total


def quantize(x: NDArray[np.float32], fmt: TableFormat) -> Tables:
    """Build the tables of rows ``[..., K]``: entries ``i8 [..., S, span / 5, 243]``."""
    missing = -x.shape[-1] % fmt.span
    x = np.pad(np.asarray(x, np.float32), [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    floats = float_tables(x)
    return tables.rounded(floats.reshape(*x.shape[:-1], -1, fmt.span // FIVE, KEYS), fmt)


def keys(codes: NDArray[np.int8], fives: int) -> NDArray[np.uint8]:
    """Return the keys ``[N, fives]`` of codes ``[N, K]``, filled up with those of zeros."""
    packed = ternary.pack(codes, "trits")
    full = np.full((len(codes), fives), ZERO, np.uint8)
    full[:, : packed.shape[1]] = packed
    return full


def sums(made: Tables, codes: NDArray[np.int8]) -> NDArray[np.int32]:
    """Return the sums ``[..., N, S]`` of looked up entries."""
    spans, fives = made.entries.shape[-3:-1]
    found = keys(codes, spans * fives).reshape(-1, spans, fives)
    s, five = np.arange(spans)[:, None], np.arange(fives)
    looked_up = made.entries.astype(np.int32)[..., s, five, found]
    return np.asarray(looked_up.sum(axis=-1), np.int32)


def product(
    x: NDArray[np.float32], codes: NDArray[np.int8], fmt: TableFormat
) -> NDArray[np.float32]:
    """Return y ``[..., N]`` of rows ``[..., K]`` and codes ``[N, K]``, without their scale."""
    made = quantize(x, fmt)
    moved = powers.scale(sums(made, codes).astype(np.float32), made.exponents[..., None, :])
    moved = np.where(made.broken[..., None, :], np.float32(np.nan), moved)
    total = np.zeros(moved.shape[:-1], np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        for s in range(moved.shape[-1]):
            total = total + moved[..., s]
    return total


def pack(codes: NDArray[np.int8], columns: int, fives: int) -> NDArray[np.uint8]:
    """Return codes ``[N, K]`` as bytes ``[panels, fives, columns]``; N is filled up with zeros."""
    n, panels = len(codes), -(-len(codes) // columns)
    values = np.zeros((panels * columns, fives), np.int16)
    values[:n] = keys(codes, fives).astype(np.int16) - ZERO
    data = (np.abs(values) | np.where(values < 0, SIGN, 0)).astype(np.uint8)
    split = data.reshape(panels, ROWS, columns // ROWS, fives)
    return np.ascontiguousarray(split.transpose(0, 3, 2, 1)).reshape(panels, fives, columns)
