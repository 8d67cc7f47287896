"""Weights of 4 or 8 bits as kernels for GPUs read them: rows of 16-byte pieces.

A row is one column of the product, its K weights in whole groups, filled up to a multiple of
:data:`MULTIPLE`.  A thread reads a *piece* of 16 bytes at a time, 32 codes of 4 bits or 16 of 8;
neighbouring threads read neighbouring pieces.  Symmetric codes are two's complement, others are
unsigned; what fills a row up is its zero point, 0 where none is stored.

**Integer order** (8-bit activations).  A piece holds codes of neighbouring k.  Of 8 bits they are
in order.  Of 4 bits each 32-bit word holds eight: byte j has code j in its low half and code j + 4
in its high half, so that one mask leaves a quad, as ``dp4a`` and ``mma`` multiply it.

**Float order** (f32 activations).  A block of ``span`` pieces holds ``span`` * 32 (or 16) weights.
Piece l of a block, quad j, element i is the weight ``4 * span * j + 4 * l + i`` of the block, so
that threads l read the j-th quads of activations side by side.  Of 4 bits, word i of a piece has
element i of quad j in its bits from 4 j on; of 8 bits, word j has element i in byte i.

Scales are f32 ``[N, G]`` and zero points u8 ``[N, G]``, G counted of the filled-up row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MULTIPLE = 128  # weights, of which a row is a whole number
PIECE = 16  # bytes
WIDTHS = (4, 8)


def padded(k: int, group: int) -> int:
    """Return the length of a row of `k` weights: whole groups, and a multiple."""
    whole = k if group >= k else -(-k // group) * group
    return -(-whole // MULTIPLE) * MULTIPLE


def misfit(k: int, group: int) -> str:
    """Say why rows of `k` weights cannot have groups of so many; "" if they can."""
    if group >= k or group % MULTIPLE == 0 or group in (16, 32, 64):
        return ""
    return f"groups of {group} are neither 16, 32, 64 nor a multiple of {MULTIPLE}"


def per_piece(bits: int) -> int:
    """Return how many codes a piece has."""
    return 8 * PIECE // bits


def span_of(k: int, group: int, bits: int) -> int:
    """Return how many pieces are a block of the float order, for rows of `k` weights; 0: none fits.

    No quad of a thread has two scales, and a block holds whole groups or is a part of one.
    """
    for span in (8, 4):
        block = span * per_piece(bits)
        nested = group >= k or group % block == 0 or block % group == 0
        if padded(k, group) % block == 0 and nested and (group >= k or group % (4 * span) == 0):
            return span
    return 0


def groups_of(k: int, group: int) -> int:
    """Return how many scales a row of `k` weights has, with those of what fills it up."""
    return 1 if group >= k else padded(k, group) // group


def _filled(codes: NDArray[Any]) -> NDArray[np.uint8]:
    """Return codes ``[N, G, g]`` as bytes ``[N, padded]``."""
    n, groups, group = codes.shape
    flat = np.ascontiguousarray(codes).reshape(n, -1).view(np.uint8)
    missing = padded(groups * group, group) - groups * group
    fill = np.zeros((n, missing), np.uint8)
    return np.concatenate([flat, fill], axis=1)


def pack_integers(codes: NDArray[np.int8] | NDArray[np.uint8], bits: int) -> NDArray[np.uint32]:
    """Return codes ``[N, G, g]`` as words ``[N, padded * bits / 32]`` in integer order."""
    rows = _filled(codes)
    n = len(rows)
    if bits == 8:
        return rows.view("<u4")
    low_high = (rows & np.uint8(15)).reshape(n, -1, 2, 4)
    return np.ascontiguousarray(low_high[:, :, 0] | (low_high[:, :, 1] << 4)).view("<u4")[..., 0]


def unpack_integers(words: NDArray[np.uint32], bits: int, *, signed: bool) -> NDArray[Any]:
    """Undo :func:`pack_integers`: ``[N, padded]``, i8 or u8."""
    data = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return data.view(np.int8) if signed else data
    quads = data.reshape(len(data), -1, 4)
    codes = np.stack([quads & np.uint8(15), quads >> 4], axis=2).reshape(len(data), -1)
    return ((codes ^ np.uint8(8)).astype(np.int8) - np.int8(8)) if signed else codes


def pack_floats(
    codes: NDArray[np.int8] | NDArray[np.uint8], bits: int, span: int
) -> NDArray[np.uint32]:
    """Return codes ``[N, G, g]`` as words ``[N, padded * bits / 32]`` in float order.

    Symmetric codes are stored with ``2^(bits-1)`` added, so that all are unsigned.
    """
    rows = _filled(codes)
    if codes.dtype == np.int8:
        rows = (rows + np.uint8(1 << (bits - 1))) & np.uint8((1 << bits) - 1)
    n, quads = len(rows), per_piece(bits) // 4
    blocks = rows.reshape(n, -1, quads, span, 4).transpose(0, 1, 3, 2, 4)  # n, block, l, j, i
    if bits == 8:
        return np.ascontiguousarray(blocks).view("<u4")[..., 0].reshape(n, -1)
    shifts = 4 * np.arange(quads, dtype=np.uint32)
    words = (blocks.transpose(0, 1, 2, 4, 3).astype(np.uint32) << shifts).sum(axis=-1)
    return words.astype("<u4").reshape(n, -1)


def unpack_floats(words: NDArray[np.uint32], bits: int, span: int) -> NDArray[np.uint8]:
    """Undo :func:`pack_floats`: unsigned codes ``[N, padded]``."""
    n, quads = len(words), per_piece(bits) // 4
    pieces = np.ascontiguousarray(words).reshape(n, -1, span, 4)
    if bits == 8:
        blocks = pieces[..., None].view(np.uint8)  # n, block, l, j, i
    else:
        shifts = 4 * np.arange(quads, dtype=np.uint32)
        fields = (pieces[..., None] >> shifts) & np.uint32(15)  # n, block, l, i, j
        blocks = fields.transpose(0, 1, 2, 4, 3).astype(np.uint8)
    return np.ascontiguousarray(blocks.transpose(0, 1, 3, 2, 4)).reshape(n, -1)


def pack_values(
    values: NDArray[np.generic], k: int, group: int, dtype: type[np.generic]
) -> NDArray[np.generic]:
    """Return scales or zero points ``[N, G]`` filled up to :func:`groups_of` with 0."""
    missing = groups_of(k, group) - values.shape[1]
    return np.pad(values.astype(dtype), [(0, 0), (0, missing)])
