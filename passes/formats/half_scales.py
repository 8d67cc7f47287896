"""Scales of groups as f16, with a power of two for each row of the weight: the definition.

A row ``w[K]`` of a weight whose largest magnitude is in [2^m, 2^(m+1)) has the factor ``f =
2^(m - clip(m, -3, 10))``, but at least 2^-100: 1 for rows of usual size, and for a row of zeros.  A
scale s, as the format of the codes has it in f32, becomes::

    h = f16(min(s / f, 65504)),  nearest, ties to even
    s = f32(h) * f                                         // exact

Codes are then chosen with that s.  So no size of a weight makes a scale infinite, and none is lost
because all of its row is small: a scale may lose bits where its group is 2^-4 of the row in 8 bits,
2^-8 in 4, and is 0 only where it is 2^-14 of it or less.  Rows below 2^-97 lose bits sooner, since
factors end at 2^-100: where a scale is 2^-125 or less it is 0, and so is a row below some 2^-122 in
4 bits, 2^-118 in 8, as one of 1e-40.
65504 is reached by no rounding to nearest; with error feedback, which adds to groups that come
later, a group would have to become 30 times as large as its row was.

Kernels multiply by f last, where a sum is done.  That changes no bit, unless what it multiplies is
below the normal numbers, or overflows.

llama.cpp's ``Q4_0`` has scales of f16 without factors, which end at 65504.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Half = NDArray[np.float16]

LARGEST = np.float32(65504)
USUAL = (-3, 10)  # exponents of the largest weight of a row that has the factor 1
LEAST_EXPONENT = -100  # of a factor: every scale is a normal f32


def factors_of(weight: Float) -> Float:
    """Return the factors ``[...]`` of the rows of a weight ``[..., K]`` of finite numbers."""
    largest = np.abs(weight).max(axis=-1, initial=0)
    exponent = np.frexp(largest)[1] - 1
    powers = np.ldexp(
        np.float32(1), np.maximum(exponent - np.clip(exponent, *USUAL), LEAST_EXPONENT)
    )
    return np.where(largest > 0, powers, 1).astype(np.float32)


def rounded(scales: Float, factors: Float) -> Float:
    """Return scales as they are stored; `factors` has their shape or is broadcast to it."""
    return halves(scales, factors).astype(np.float32) * factors


def halves(scales: Float, factors: Float) -> Half:
    """Return what is stored of scales, beside their factors."""
    return np.minimum(scales / factors, LARGEST).astype(np.float16)
