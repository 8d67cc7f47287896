"""Binary-coded weights as the kernels of look-ups read them: panels of keys, and their scales.

A key is the signs of four neighbouring weights of one plane (:func:`.tables.keys`).  A vector of
keys is a byte for each of the `columns` columns of a panel; its low half is the key of an even quad
and its high half that of the odd quad behind it.  Keys are ordered, outermost first: panels, pairs
of quads along K, planes, bytes.

Looked up entries are bytes and totals are f32, so a register of these has a quarter of the columns;
sums are widened twice, each time into the even and the odd ones.  Columns are ordered so that what
comes out lies side by side: byte ``4 d + j`` of a vector belongs to column ``j * columns / 4 + d``.

A scale is the sum of a plane's terms, which bf16 holds exactly (``powers.py``).  Two make a word:
of ``u32 [panels, G, planes, columns / 2]``, the word ``h * columns / 4 + d`` has column
``2 h * columns / 4 + d`` in its low half, and column ``(2 h + 1) * columns / 4 + d`` in its high
one.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

ROWS = 4  # registers of f32 sums for one of bytes


def pack_keys(keys: NDArray[np.uint8], columns: int, quads: int) -> NDArray[np.uint8]:
    """Return keys ``[N, planes, quads of K]`` as ``[panels, quads / 2, planes, columns]``.

    K is filled up to an even number of `quads` or cut there, N is filled up to whole panels, with
    the key 0.
    """
    n, planes, given = keys.shape
    panels = -(-n // columns)
    full = np.zeros((panels * columns, planes, quads), np.uint8)
    full[:n, :, :given] = keys[..., :quads]
    pairs = full[..., 0::2] | full[..., 1::2] << np.uint8(4)
    split = pairs.reshape(panels, ROWS, columns // ROWS, planes, quads // 2)
    ordered = split.transpose(0, 4, 3, 2, 1)
    return np.ascontiguousarray(ordered).reshape(panels, quads // 2, planes, columns)


def unpack_keys(packed: NDArray[np.uint8], n: int, quads: int) -> NDArray[np.uint8]:
    """Undo :func:`pack_keys`: keys ``[n, planes, quads]``."""
    panels, pairs, planes, columns = packed.shape
    split = packed.reshape(panels, pairs, planes, columns // ROWS, ROWS).transpose(0, 4, 3, 2, 1)
    joined = split.reshape(panels * columns, planes, pairs)
    halves = np.stack([joined & np.uint8(15), joined >> np.uint8(4)], axis=-1)
    return np.ascontiguousarray(halves.reshape(panels * columns, planes, -1)[:n, :, :quads])


def pack_scales(scales: NDArray[Any], columns: int) -> NDArray[np.uint32]:
    """Return scales ``[N, G, planes]`` as words ``[panels, G, planes, columns / 2]``, 0 beyond N.

    Raises
    ------
    ValueError
        When bf16 cannot hold a scale.
    """
    n, groups, planes = scales.shape
    panels = -(-n // columns)
    full = np.zeros((panels * columns, groups, planes), np.float64)
    full[:n] = scales
    short = full.astype(ml_dtypes.bfloat16)
    if (short.astype(np.float64) != full).any():
        raise ValueError("the terms of a scale are too far apart")
    bits = short.view(np.uint16).astype(np.uint32)
    split = bits.reshape(panels, ROWS // 2, 2, columns // ROWS, groups, planes)
    words = split[:, :, 0] | split[:, :, 1] << np.uint32(16)
    ordered = words.transpose(0, 3, 4, 1, 2)
    return np.ascontiguousarray(ordered).reshape(panels, groups, planes, columns // 2)
