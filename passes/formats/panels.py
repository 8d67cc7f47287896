"""Weights in few bits as the CPU kernels read them: panels of columns, in exactly their bits.

The dot product instructions of CPUs (``vpdpbusd``) multiply four neighbouring unsigned bytes along
K by four signed ones and add the products to a 32-bit sum.  So codes are stored **unsigned**, a
symmetric code c as ``c + 2^(b-1)``, those of small floats as they are, and in this order, outermost
first:

1. *panels* of `columns` columns;
2. *chunks* along K: 32 weights each, or 16 where the group is an odd multiple of 16, so that a
   chunk never holds weights of two groups;
3. *planes* of bits: b is cut into widths 8, 4, 2 and 1 from the largest on (3 = 2 + 1,
   7 = 4 + 2 + 1), and the first plane has the lowest bits.  Joining planes is a shift and an "or";
4. vectors of `columns` 32-bit words.  Byte j of a column's word belongs to weight ``4 * quad + j``
   of the chunk; in a plane of width w, a byte holds ``8 / w`` quads, so vector v has the quads
   ``v * 8 / w + i`` at bit ``w * i``.

A chunk of 32 is b vectors.  Scales and zero points are ``[panels, G, columns]``, f32 and u8.
Columns that fill up the last panel have scale 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .integer import GroupedInteger, Quantized

CHUNK = 32  # weights along K


@dataclass(frozen=True)
class Plane:
    """Bits ``shift`` to ``shift + width`` of every code."""

    width: int
    shift: int

    @property
    def ways(self) -> int:
        """Quads that share a byte."""
        return 8 // self.width


def planes(bits: int) -> tuple[Plane, ...]:
    """Return the planes of codes of 1…8 `bits`, the one with the lowest bits first."""
    found: list[Plane] = []
    shift = 0
    for width in (8, 4, 2, 1):
        if bits & width:
            found.append(Plane(width, shift))
            shift += width
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
    vectors_per_chunk(bits, group)
    chunk = chunk_of(group)
    panels, chunks, quads = -(-n // columns), groups * group // chunk, chunk // 4
    padded = np.full((panels * columns, groups * group), fill, np.uint8)
    padded[:n] = codes.reshape(n, -1)
    by_quad = padded.reshape(panels, columns, chunks, quads, 4)
    parts = []
    for plane in planes(bits):
        field = (by_quad >> np.uint8(plane.shift)) & np.uint8((1 << plane.width) - 1)
        shared = field.reshape(panels, columns, chunks, quads // plane.ways, plane.ways, 4)
        offsets = (np.arange(plane.ways, dtype=np.uint8) * np.uint8(plane.width))[:, None]
        parts.append(np.bitwise_or.reduce(shared << offsets, axis=-2))
    joined = np.concatenate(parts, axis=3).transpose(0, 2, 3, 1, 4)
    return np.ascontiguousarray(joined).view("<u4")[..., 0]


def unpack_panels(words: NDArray[np.uint32], bits: int, n: int, group: int) -> NDArray[np.uint8]:
    """Undo :func:`pack_panels`: codes ``[n, G, group]``."""
    panels, chunks, _, columns = words.shape
    quads = chunk_of(group) // 4
    data = np.ascontiguousarray(words)[..., None].view(np.uint8).transpose(0, 3, 1, 2, 4)
    codes = np.zeros((panels, columns, chunks, quads, 4), np.uint8)
    start = 0
    for plane in planes(bits):
        count = quads // plane.ways
        shared = data[..., start : start + count, None, :]
        offsets = (np.arange(plane.ways, dtype=np.uint8) * np.uint8(plane.width))[:, None]
        field = (shared >> offsets) & np.uint8((1 << plane.width) - 1)
        codes |= field.reshape(codes.shape) << np.uint8(plane.shift)
        start += count
    return codes.reshape(panels * columns, -1, group)[:n]


def pack_group_values(
    values: NDArray[np.generic], columns: int, dtype: type[np.generic]
) -> NDArray[np.generic]:
    """Return scales or zero points ``[N, G]`` as ``[panels, G, columns]``, 0 beyond N."""
    n, groups = values.shape
    panels = -(-n // columns)
    padded = np.zeros((panels * columns, groups), dtype)
    padded[:n] = values
    return np.ascontiguousarray(padded.reshape(panels, columns, groups).transpose(0, 2, 1))


def float_panels(matrix: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """Return ``[K, N]`` as panels ``[panels, K, columns]``, N filled up with zeros."""
    k, n = matrix.shape
    panels = -(-n // columns)
    padded = np.zeros((k, panels * columns), np.float32)
    padded[:, :n] = matrix
    return np.ascontiguousarray(padded.reshape(k, panels, columns).transpose(1, 0, 2))
