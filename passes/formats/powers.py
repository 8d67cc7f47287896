"""Numbers as sums of a few signed powers of two, and products with one by integer additions.

A *term* is a byte: 0 stands for the number 0; else bit 7 is the sign (1 is minus) and the low seven
bits are the exponent plus 96, so that a term is ``±2^e`` with e in -95…31.

:func:`project` takes terms greedily, each the power of two that is nearest to what is left in the
logarithm: from r it takes ``sgn(r) 2^round(log2 |r|)``, so the threshold between 2^n and 2^(n+1) is
``2^(n + 1/2)``.  One term is DeepShift's weight, several are additive powers of two (APoT).
A term below 2^-7 of the first one is dropped: so a sum has 8 significant bits, bf16 holds it
exactly, and kernels read two bytes where they use the sum and not its terms.

:func:`shift` is the product of an f32 and a term: an integer addition to the exponent field.

* a term 0 gives +0;
* the sign of the result is that of x, turned by a negative term;
* NaN and infinity keep their magnitude;
* zero and subnormal numbers, and results below 2^-126, become zero;
* results of 2^128 and more become infinity.

Source: DeepShift (arXiv 1905.13298) as ShiftAddViT (arXiv 2306.06446) uses it; ShiftAddLLM
(arXiv 2406.05981) for sums of terms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Terms = NDArray[np.uint8]

EXPONENT_BIAS = 96
LOWEST, HIGHEST = 1 - EXPONENT_BIAS, 127 - EXPONENT_BIAS
WINDOW = 7  # by which the exponent of a number's last term may lie below that of its first
EXPONENT_MASK, SIGN_MASK = 0x7F, 0x80
_SQRT_HALF = np.sqrt(0.5)


def project(values: ArrayLike, terms: int) -> Terms:
    """Return the terms ``[…, terms]`` of numbers ``[…]``, the first ones the largest.

    What is left below ``2^LOWEST``, or below 2^-7 of the first term, is dropped.

    Raises
    ------
    ValueError
        When a number is NaN, infinite, or rounds to more than ``2^HIGHEST``.
    """
    rest = np.asarray(values, np.float64)
    if not np.isfinite(rest).all():
        raise ValueError("the weight holds NaN or infinity")
    found: list[Terms] = []
    lowest = np.full(rest.shape, LOWEST)
    for _ in range(terms):
        exponent = _nearest_exponent(rest)
        if (exponent > HIGHEST).any():
            raise ValueError(f"the weight holds numbers beyond 2^{HIGHEST}")
        is_none = (rest == 0) | (exponent < lowest)
        lowest = np.maximum(lowest, exponent - WINDOW) if not found else lowest
        sign = np.where(rest < 0, SIGN_MASK, 0)
        found.append(np.where(is_none, 0, sign | (exponent + EXPONENT_BIAS)).astype(np.uint8))
        rest = rest - _power(found[-1])
    return np.stack(found, axis=-1)


def values(terms: Terms) -> NDArray[np.float64]:
    """Return the numbers ``[…]`` that terms ``[…, terms]`` stand for, exactly."""
    total: NDArray[np.float64] = _power(terms).sum(axis=-1)
    return total


def shift(x: ArrayLike, terms: Terms) -> NDArray[np.float32]:
    """Return ``x`` (f32) times one term each, by integer arithmetic on bits alone."""
    wide = terms.astype(np.int64)
    moved = scale(x, (wide & EXPONENT_MASK) - EXPONENT_BIAS).view(np.uint32)
    turned = moved ^ ((wide >> 7) << 31).astype(np.uint32)
    return np.where(terms == 0, np.uint32(0), turned).view(np.float32)


def scale(x: ArrayLike, exponents: NDArray[Any]) -> NDArray[np.float32]:
    """Return ``x`` (f32) times ``2^exponents`` as :func:`shift` does, for exponents of any size."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    magnitude = (bits & np.uint32(0x7FFFFFFF)).astype(np.int64)
    moved = magnitude + (exponents.astype(np.int64) << 23)
    moved = np.where(moved < 1 << 23, 0, np.minimum(moved, 0xFF << 23))
    moved = np.where(magnitude < 1 << 23, 0, moved)
    moved = np.where(magnitude >= 0xFF << 23, magnitude, moved)
    return (moved.astype(np.uint32) | (bits & np.uint32(1 << 31))).view(np.float32)


def product(x: NDArray[np.float32], terms: Terms) -> NDArray[np.float32]:
    """Return ``[..., N]`` for rows ``[..., K]`` and one term for each weight ``[N, K]``.

    Shifted activations are added in f32, from the first to the last.
    """
    total = np.zeros((*x.shape[:-1], len(terms)), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        for k in range(x.shape[-1]):
            total = total + shift(x[..., k, None], terms[:, k])
    return total


def _nearest_exponent(values: NDArray[np.float64]) -> NDArray[Any]:
    """Return ``round(log2 |v|)`` without rounding the logarithm first; anything for 0."""
    mantissa, exponent = np.frexp(np.abs(values))
    return np.where(mantissa < _SQRT_HALF, exponent - 1, exponent)


def _power(terms: Terms) -> NDArray[np.float64]:
    exponent = (terms & EXPONENT_MASK).astype(np.int32) - EXPONENT_BIAS
    magnitude = np.where(terms == 0, 0.0, np.ldexp(1.0, exponent))
    return np.where(terms & SIGN_MASK, -magnitude, magnitude)
