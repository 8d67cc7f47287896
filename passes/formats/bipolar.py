"""Bipolar integers: bits that mean -1 and +1, and their products by XOR and counting bits.

A code of n bits stands for ``v = sum over i of (2 b_i - 1) 2^i``: the odd numbers from
-(2^n - 1) to 2^n - 1.  There is no zero and no sign bit.  As an unsigned number u the same bits
stand for ``v = 2 u - (2^n - 1)``, so a value ``s (u - z)`` is ``(s / 2) (v - z')`` with
``z' = 2 z + 1 - 2^n``.

A product of codes of n and m bits is n * m products of planes, each a sum of K signs::

    sum over k of v[k] w[k] = sum over i, j of 2^(i+j) (K - 2 popcount(V_i xor W_j))

with the TRUE K.  Zero cannot be stored, so K is filled up with bits that are equal in both
operands (here 0), of which XOR leaves nothing.

Source: APT-LLM (arXiv 2409.17870); the change of zero point is the table symmetrisation of LUT
Tensor Core (arXiv 2408.06003).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def largest(bits: int) -> int:
    """Return the largest value of a code of `bits`."""
    return 2**bits - 1


def from_unsigned(codes: ArrayLike, bits: int) -> NDArray[np.int64]:
    """Return the values of codes: ``2 u - (2^bits - 1)``."""
    return 2 * np.asarray(codes, np.int64) - largest(bits)


def to_unsigned(values: ArrayLike, bits: int) -> NDArray[np.int64]:
    """Undo :func:`from_unsigned`.

    Raises
    ------
    ValueError
        When a value is even, or beyond the codes of `bits`.
    """
    wide = np.asarray(values, np.int64)
    if (wide % 2 == 0).any() or (np.abs(wide) > largest(bits)).any():
        raise ValueError(f"codes of {bits} bits are odd numbers up to {largest(bits)}")
    return (wide + largest(bits)) // 2


def zero_point(zero: ArrayLike, bits: int) -> NDArray[np.int64]:
    """Return z' of codes with the zero point z: ``u - z = (v - z') / 2``."""
    return 2 * np.asarray(zero, np.int64) - largest(bits)


def planes(codes: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Return codes ``[..., K]`` as bits ``[..., bits, ceil(K / 8)]``, eight to a byte.

    Bit t of byte i belongs to code ``8 i + t``; K is filled up with 0.
    """
    split = np.asarray(codes)[..., None, :] >> np.arange(bits)[:, None] & 1
    return np.packbits(split.astype(np.bool_), axis=-1, bitorder="little")


def product(x: NDArray[np.uint8], weight: NDArray[np.uint8], k: int) -> NDArray[np.int64]:
    """Return ``[M, N]`` for planes ``[M, n, bytes]`` and ``[N, m, bytes]`` of rows of `k` codes."""
    differ = np.bitwise_count(x[:, None, :, None] ^ weight[None, :, None]).sum(axis=-1)
    signs = k - 2 * differ.astype(np.int64)  # [M, N, n, m]
    i, j = np.arange(x.shape[1])[:, None], np.arange(weight.shape[1])
    total: NDArray[np.int64] = (signs << (i + j)).sum(axis=(-2, -1))
    return total
