"""Products with integer weights by look-up: planes of bits as signs, tables of activations.

A code of b bits (``integer.py``) as an unsigned number u with the zero point z is a bipolar one
(``bipolar.py``): ``s (u - z) = s/2 (v - z')``, where v is the sum of ``±2^i`` by the bits of u and
``z' = 2 z + 1 - 2^b``.  A symmetric code c is ``u = c + 2^(b-1)`` with ``z = 2^(b-1)``, so
``z' = 1``.  With the tables of ``tables.py``, their entries t and exponents e, for each span::

    P[n, s, i] = sum over the span of t[key[n, i]],    O[s] = sum over the span of t[15]
    D[n, s] = sum over i of 2^i P[n, s, i] - z'[n, g(s)] O[s]             an exact integer

    F[n, G] = sum over the spans s of a group of scale(f32(D[n, s]), e[s])
    y[n] = sum over G of F[n, G] * (s[n, G] / 2)

in f32, from the first to the last.  A scale is applied once per group; kernels and, where it can,
IREE fuse its product with the addition, so that both are rounded once.

Source: the bipolar reading of codes is LUT Tensor Core's (arXiv 2408.06003), the sum of activations
from the tables themselves T-MAC's (arXiv 2407.00088).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import bipolar, powers, tables
from .binary_codes import Coded
from .integer import GroupedInteger, Quantized
from .tables import ENTRIES, TableFormat


def signs(quantized: Quantized, fmt: GroupedInteger) -> NDArray[np.bool_]:
    """Return the bits of codes ``[N, G, g]`` as signs ``[N, bits, G * g]``."""
    half = 1 << (fmt.bits - 1) if fmt.symmetric else 0
    codes = quantized.codes.reshape(len(quantized.codes), 1, -1).astype(np.int64) + half
    return (codes >> np.arange(fmt.bits)[:, None] & 1).astype(np.bool_)


def zeros(quantized: Quantized, fmt: GroupedInteger) -> NDArray[np.int64]:
    """Return z' ``[N, G]``."""
    if quantized.zeros is None:
        return np.ones(quantized.scales.shape, np.int64)
    return bipolar.zero_point(quantized.zeros, fmt.bits)


def halves(quantized: Quantized) -> NDArray[np.float32]:
    """Return halves of the scales ``[N, G]``."""
    return quantized.scales * np.float32(0.5)


def product(
    x: NDArray[np.float32],
    quantized: Quantized,
    fmt: GroupedInteger,
    table: TableFormat,
    *,
    fused: bool = False,
) -> NDArray[np.float32]:
    """Return y ``[..., N]`` of rows ``[..., K]`` and a weight ``[N, K]``, spans whole in groups.

    `fused` rounds the product with a scale and its addition once, but for what f64 rounds before.
    """
    n, groups = quantized.scales.shape
    made = tables.quantize(x, table)
    coded = Coded(signs(quantized, fmt), np.zeros((n, groups, fmt.bits, 1), np.uint8))
    found = (tables.sums(made, coded).astype(np.int64) << np.arange(fmt.bits)).sum(axis=-1)
    ones = made.entries[..., ENTRIES - 1].astype(np.int64).sum(axis=-1)
    spans, per_group = ones.shape[-1], fmt.group // table.span
    found -= np.repeat(zeros(quantized, fmt), per_group, axis=1)[:, :spans] * ones[..., None, :]
    moved = powers.scale(found.astype(np.float32), made.exponents[..., None, :])
    moved = np.where(made.broken[..., None, :], np.float32(np.nan), moved)
    missing = groups * per_group - spans
    moved = np.pad(moved, [(0, 0)] * (moved.ndim - 1) + [(0, missing)])
    cut = moved.reshape(*moved.shape[:-1], groups, per_group)
    total = np.zeros(moved.shape[:-1], np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        for g in range(groups):
            of_group = np.zeros_like(total)
            for s in range(per_group):
                of_group = of_group + cut[..., g, s]
            scale = halves(quantized)[:, g]
            if fused:
                exact = of_group.astype(np.float64) * scale
                total = (total + exact).astype(np.float32)
            else:
                total = total + of_group * scale
    return total
