"""Weights in few bits as the CPU kernels read them: panels of columns, in exactly their bits.

The dot product instructions of CPUs (``vpdpbusd``) multiply four neighbouring unsigned bytes along
K by four signed ones and add the products to a 32-bit sum.  So codes are stored **unsigned**, a
symmetric code c as ``c + 2^(b-1)``, those of small floats as they are, and in this order, outermost
first:

1. *panels* of `columns` columns;
2. *chunks* along K: 32 weights each, or 16 where the group is an odd multiple of 16, so that a
   chunk never holds weights of two groups;
3. vectors of `columns` 32-bit words.  Byte j of a column's word belongs to weight ``4 * quad + j``
   of the chunk.  A byte holds as many *whole* codes as fit, the first in its lowest bits: with w of
   them, vector v has those of the quads ``v * w + i`` at bit ``b * i``.  What is left at the top of
   the bytes, 1 to 3 bits, holds the codes of the last quads in pieces (:func:`parts`).

A whole code is taken out by one mask, where it stands; a shift brings it down to bit 0.  A code in
pieces takes a shift, a mask and an "or" for each but the first piece: 3 bits in chunks of 32 are
three vectors, with two whole quads each, and the last two quads in the 2 bits that are left.

A chunk of 32 is b vectors.  Scales and zero points are ``[panels, G, columns]``, f32 and u8.
Columns that fill up the last panel have scale 0.  Scales of f16 (:mod:`.half_scales`) may be stored
as such, with the factors of their columns, f32 ``[panels, columns]``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import half_scales
from .integer import GroupedInteger, Quantized

CHUNK = 32  # weights along K


@dataclass(frozen=True)
class Part:
    """Bits of a quad's codes: `width` bits of each byte of a vector, from bit `bit` of the byte on.

    They are the bits of the code from `shift` on.
    """

    vector: int
    bit: int
    width: int
    shift: int


@functools.cache
def parts(bits: int, quads: int) -> tuple[tuple[Part, ...], ...]:
    """Return where the codes of 1…8 `bits` of each quad of a chunk are, their highest bits first.

    Quads in pieces have all that is left of the vectors 0, 1 … in turn as their highest bits.  The
    bits below them are, from the highest on, the highest that are left of the vector that has most
    of them left, the first of several.
    """
    whole, left = divmod(8, bits)
    vectors = bits * quads // 8
    found: list[tuple[Part, ...]] = [
        (Part(quad // whole, bits * (quad % whole), bits, 0),)
        for quad in range(min(quads, vectors * whole))
    ]
    others = quads - len(found)
    free = [0] * others + [left] * (vectors - others)
    for first in range(others):
        pieces, missing = [Part(first, 8 - left, left, bits - left)], bits - left
        while missing:
            vector = free.index(max(free))
            width = min(missing, free[vector])
            missing -= width
            pieces.append(Part(vector, 8 - left + free[vector] - width, width, missing))
            free[vector] -= width
        found.append(tuple(pieces))
    return tuple(found)


def chunk_of(group: int) -> int:
    """Return how many weights along K a chunk has, for a group that is a multiple of 16."""
    return CHUNK if group % CHUNK == 0 else CHUNK // 2


def vectors_per_chunk(bits: int, group: int) -> int:
    """Return how many vectors of words a chunk has.

    Raises
    ------
    ValueError
        When a chunk of 16 would fill half a vector: an odd number of bits.
    """
    if group % (CHUNK // 2):
        raise ValueError(f"a group of {group} is not a whole number of chunks")
    if bits % 2 and chunk_of(group) != CHUNK:
        raise ValueError(f"{bits} bits in groups of {group} have half a vector")
    return bits * chunk_of(group) // CHUNK


def unsigned_codes(quantized: Quantized, fmt: GroupedInteger) -> NDArray[np.uint8]:
    """Return the codes as panels store them: u8, symmetric ones with ``2^(b-1)`` added."""
    if not fmt.symmetric:
        return quantized.codes.astype(np.uint8, copy=False)
    return (quantized.codes.astype(np.int16) + zero_code(fmt)).astype(np.uint8)


def zero_code(fmt: GroupedInteger) -> int:
    """Return what the zero point of every group is where it is not stored; 0 where it is."""
    return 1 << (fmt.bits - 1) if fmt.symmetric else 0


def pack_panels(
    codes: NDArray[np.uint8], bits: int, columns: int, fill: int = 0
) -> NDArray[np.uint32]:
    """Return unsigned codes ``[N, G, g]`` as words ``[panels, chunks, vectors, columns]``.

    Columns that N lacks to a whole panel hold the code `fill`.

    Raises
    ------
    ValueError
        As :func:`vectors_per_chunk`.
    """
    n, groups, group = codes.shape
    count, chunk = vectors_per_chunk(bits, group), chunk_of(group)
    panels, chunks, quads = -(-n // columns), groups * group // chunk, chunk // 4
    padded = np.full((panels * columns, groups * group), fill, np.uint8)
    padded[:n] = codes.reshape(n, -1)
    by_quad = padded.reshape(panels, columns, chunks, quads, 4).transpose(0, 2, 3, 1, 4)
    data = np.zeros((panels, chunks, count, columns, 4), np.uint8)
    for quad, pieces in enumerate(parts(bits, quads)):
        for part in pieces:
            field = (by_quad[:, :, quad] >> np.uint8(part.shift)) & np.uint8((1 << part.width) - 1)
            data[:, :, part.vector] |= field << np.uint8(part.bit)
    return data.view("<u4")[..., 0]


def unpack_panels(words: NDArray[np.uint32], bits: int, n: int, group: int) -> NDArray[np.uint8]:
    """Undo :func:`pack_panels`: codes ``[n, G, group]``."""
    panels, chunks, _, columns = words.shape
    quads = chunk_of(group) // 4
    data = np.ascontiguousarray(words)[..., None].view(np.uint8)
    codes = np.zeros((panels, chunks, quads, columns, 4), np.uint8)
    for quad, pieces in enumerate(parts(bits, quads)):
        for part in pieces:
            field = (data[:, :, part.vector] >> np.uint8(part.bit)) & np.uint8(
                (1 << part.width) - 1
            )
            codes[:, :, quad] |= field << np.uint8(part.shift)
    return codes.transpose(0, 3, 1, 2, 4).reshape(panels * columns, -1, group)[:n]


def pack_group_values(
    values: NDArray[np.generic], columns: int, dtype: type[np.generic]
) -> NDArray[np.generic]:
    """Return scales or zero points ``[N, G]`` as ``[panels, G, columns]``, 0 beyond N."""
    n, groups = values.shape
    panels = -(-n // columns)
    padded = np.zeros((panels * columns, groups), dtype)
    padded[:n] = values
    return np.ascontiguousarray(padded.reshape(panels, columns, groups).transpose(0, 2, 1))


def bits_per_weight(
    bits: int, group: int, groups: int, k: int, *, symmetric: bool, has_halves: bool = False
) -> float:
    """Return the bits that a weight of K = `k` takes, scales, zero points and factors counted."""
    of_group = bits * group + (16 if has_halves else 32) + (0 if symmetric else 8)
    return (of_group * groups + (32 if has_halves else 0)) / k


def pack_scales(
    quantized: Quantized, columns: int, *, has_halves: bool
) -> tuple[NDArray[np.generic], NDArray[np.float32] | None]:
    """Return the scales of ``[N, G]`` in panels, and factors if they are stored as halves.

    Raises
    ------
    ValueError
        When they are to be, but are not of f16.
    """
    if not has_halves:
        return pack_group_values(quantized.scales, columns, np.float32), None
    if quantized.factors is None:
        raise ValueError("scales of f32 are no halves")
    stored = half_scales.halves(quantized.scales, quantized.factors[:, None])
    factors = pack_group_values(quantized.factors[:, None], columns, np.float32)[:, 0]
    return pack_group_values(stored, columns, np.float16), factors.astype(np.float32)


def float_panels(matrix: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """Return ``[K, N]`` as panels ``[panels, K, columns]``, N filled up with zeros."""
    k, n = matrix.shape
    panels = -(-n // columns)
    padded = np.zeros((k, panels * columns), np.float32)
    padded[:, :n] = matrix
    return np.ascontiguousarray(padded.reshape(k, panels, columns).transpose(1, 0, 2))
