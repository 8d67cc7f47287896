"""Products with binary-coded weights by look-up: tables of sums of activations.

A row ``x[K]`` of f32 is cut into quads; the *table* of a quad has 16 entries, one for each choice
of signs, where bit t of the key means ``+x[t]``::

    T[key] = ((±x0 ± x1) ± x2) ± x3          in f32;   T[15 - key] = -T[key]

The signs of four neighbouring weights of one plane are such a key, so a plane's partial sum over
4 inputs is one look-up and one addition.  Entries are rounded to `bits` bits with a power of two
for each `span` of inputs, so that sums are integers and scaling is a shift:

* ``p = max (bits(T) & 0x7fffffff)`` over the span's tables, ``amax`` the f32 with those bits;
* ``e`` is the smallest exponent with ``amax <= L * 2^e``, where ``L = 2^(bits-1) - 1``; where amax
  is below 2^-90, ``e = -96`` and all entries are 0; where it is infinite or NaN, every sum over the
  span is NaN;
* ``t = RNE(T * 2^-e)``, in -L…L.

The integer sum ``P[n, s, i] = sum over the span of t[key[n, i]]`` is exact, and with the terms of
the weight (``powers.py``), for ``f`` the shift by a term and ``scale`` that by any exponent::

    F[n, G, i] = sum over the spans s of a group of scale(f32(P[n, s, i]), e[s])
    y[n] = sum over G, i of (f(F[n, G, i], term 0) + f(F[n, G, i], term 1)) + …

in f32, in this order in the portable form; kernels may add in another order and use the sum of the
terms, which moves the result by f32 rounding alone.  With a scale of 0, a sum that is NaN gives 0
in the portable form, and may give NaN in a kernel.

A span lies in one group of the weight: it is the smaller of `span` and the group.

Source: T-MAC (arXiv 2407.00088) and LUT Tensor Core (arXiv 2408.06003) for tables, their symmetry
and 8-bit entries.  That scales are powers of two, and entries may have fewer bits, so that several
sums fit a byte, is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import powers
from .activations import MAGNITUDE_MASK
from .binary_codes import BinaryCodes, Coded, shifted

QUAD = 4  # inputs of a table
ENTRIES = 1 << QUAD
SMALLEST_MAXIMUM = 2.0**-90
LOWEST_EXPONENT = -96


@dataclass(frozen=True)
class TableFormat:
    """Entries of `bits` 6…8 with one power of two for each `span` inputs, a multiple of 4."""

    bits: int = 8
    span: int = 64

    @property
    def largest(self) -> int:
        """The largest entry."""
        return (1 << (self.bits - 1)) - 1


@dataclass(frozen=True)
class Tables:
    """Entries ``i8 [..., S, span / 4, 16]`` and exponents ``i32 [..., S]``.

    ``broken [..., S]`` tells spans with NaN or infinity in them.
    """

    entries: NDArray[np.int8]
    exponents: NDArray[np.int32]
    broken: NDArray[np.bool_]


def float_tables(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the tables ``[..., K / 4, 16]`` of rows ``[..., K]``, K a multiple of 4."""
    quads = np.asarray(x, np.float32).reshape(*x.shape[:-1], -1, 1, QUAD)
    keys = np.arange(ENTRIES)[:, None] >> np.arange(QUAD) & 1
    signed = np.where(keys, quads, -quads)
    with np.errstate(invalid="ignore", over="ignore"):
        total = signed[..., 0]
        for t in range(1, QUAD):
            total = total + signed[..., t]
    return np.asarray(total, np.float32)


def quantize(x: NDArray[np.float32], fmt: TableFormat) -> Tables:
    """Build the tables of rows ``[..., K]``, K filled up with 0 to whole spans."""
    missing = -x.shape[-1] % fmt.span
    x = np.pad(np.asarray(x, np.float32), [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    floats = float_tables(x)
    return rounded(floats.reshape(*x.shape[:-1], -1, fmt.span // QUAD, ENTRIES), fmt)


def rounded(floats: NDArray[np.float32], fmt: TableFormat) -> Tables:
    """Round tables ``[..., S, tables of a span, entries]``."""
    magnitudes = floats.view(np.uint32) & np.uint32(MAGNITUDE_MASK)
    amax = magnitudes.max(axis=(-2, -1), initial=0).view(np.float32)
    broken = ~np.isfinite(amax)
    is_small = ~broken & (amax < np.float32(SMALLEST_MAXIMUM))
    mantissa, exponent = np.frexp(np.where(broken | is_small, 1, amax).astype(np.float32))
    # amax = m 2^x and L 2^e = (L / 2^(bits-1)) 2^(e + bits - 1).
    fits = mantissa <= fmt.largest / 2.0 ** (fmt.bits - 1)
    exponent = exponent - (fmt.bits - 1) + np.where(fits, 0, 1)
    exponent = np.where(is_small | broken, LOWEST_EXPONENT, exponent).astype(np.int32)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.ldexp(floats, -exponent[..., None, None])
    keep = ~(broken | is_small)[..., None, None]
    return Tables(np.rint(np.where(keep, scaled, 0)).astype(np.int8), exponent, broken)


def keys(coded: Coded) -> NDArray[np.uint8]:
    """Return the keys ``[N, planes, quads]`` of a weight; K is filled up to whole quads with 1."""
    signs = coded.signs
    missing = -signs.shape[-1] % QUAD
    full = np.pad(signs, [(0, 0), (0, 0), (0, missing)], constant_values=True)
    quads = full.reshape(*full.shape[:-1], -1, QUAD)
    return (quads * (1 << np.arange(QUAD))).sum(axis=-1).astype(np.uint8)


def sums(tables: Tables, coded: Coded) -> NDArray[np.int32]:
    """Return P ``[..., N, S, planes]`` for rows' tables and a weight: look-ups and additions."""
    spans, quads = tables.entries.shape[-3:-1]
    # Where K is filled up to groups there are more keys than spans: those of zeros.
    found = keys(coded)[..., : spans * quads]
    n, planes, _ = found.shape
    missing = spans * quads - found.shape[-1]
    found = np.pad(found, [(0, 0), (0, 0), (0, missing)]).reshape(n, planes, spans, quads)
    s, q = np.arange(spans)[:, None], np.arange(quads)
    looked_up = tables.entries.astype(np.int32)[..., s, q, found]
    return np.asarray(np.moveaxis(looked_up.sum(axis=-1), -2, -1), np.int32)


def product(
    x: NDArray[np.float32], coded: Coded, weight: BinaryCodes, fmt: TableFormat
) -> NDArray[np.float32]:
    """Return y ``[..., N]`` as the portable form computes it, to the bit."""
    tables = quantize(x, fmt)
    return scaled(sums(tables, coded), tables, coded, weight, fmt)


def scaled(
    found: NDArray[np.int32], tables: Tables, coded: Coded, weight: BinaryCodes, fmt: TableFormat
) -> NDArray[np.float32]:
    """Shift sums ``[..., N, S, planes]`` by their exponents and terms, and add them in order."""
    moved = powers.scale(found.astype(np.float32), tables.exponents[..., None, :, None])
    moved = np.where(tables.broken[..., None, :, None], np.float32(np.nan), moved)
    # Spans of zeros to whole groups: x is filled up to whole spans alone.
    missing = coded.terms.shape[1] * weight.group // fmt.span - moved.shape[-2]
    moved = np.pad(moved, [(0, 0)] * (moved.ndim - 2) + [(0, missing), (0, 0)])
    grouped = moved.reshape(*moved.shape[:-2], -1, weight.group // fmt.span, weight.planes)
    total = np.zeros_like(grouped[..., 0, :])
    with np.errstate(invalid="ignore", over="ignore"):
        for s in range(grouped.shape[-2]):
            total = total + grouped[..., s, :]
    return shifted(total, coded, weight)
