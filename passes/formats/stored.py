"""Weights of added products in f32, bf16 or fp8: the definition of their stored bits.

``finite`` products (``lmul.py``) read weights that were clamped and truncated when they were
stored.  f32 keeps the prepared pattern, bf16 its upper half.  fp8 has a power of two for each
output channel, so that the largest magnitude lies in the highest binade: dividing by it moves
exponents only, and so changes no product.  Magnitudes below the smallest normal number become 0,
as L-Mul has it for subnormal operands, and a stored 0 gives a product of exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .floats import FORMATS
from .lmul import prepare


@dataclass(frozen=True)
class StoredFloat:
    """A storage: bits of a weight, and whether it has a scale per output channel."""

    name: str
    width: int
    is_scaled: bool

    @property
    def dtype(self) -> Any:
        """NumPy's unsigned integers of the width."""
        return np.dtype(f"u{self.width // 8}")


STORED = {
    entry.name: entry
    for entry in (
        StoredFloat("f32", 32, is_scaled=False),
        StoredFloat("bf16", 16, is_scaled=False),
        StoredFloat("f8E4M3FN", 8, is_scaled=True),
        StoredFloat("f8E5M2", 8, is_scaled=True),
    )
}
# The binade of the largest weight.  In 2^8, E4M3FN has its NaN; E5M2 has all of 2^15.
_TOP = {"f8E4M3FN": 7, "f8E5M2": 15}


def encode(
    weight: NDArray[np.float32], stored: StoredFloat, mantissa_bits: int
) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """Return the bits of `weight` ``[..., K, N]`` (f32) and its scales ``[..., N]``.

    `mantissa_bits` are the leading bits that the product keeps, 1 to 23.

    Raises
    ------
    ValueError
        When the weight holds NaN; or infinity, and is to have a scale.  Without one infinity is
        clamped, as ``finite`` products have it.
    """
    if np.isnan(weight).any():
        raise ValueError("the weight holds NaN")
    if stored.is_scaled and not np.isfinite(weight).all():
        raise ValueError("the weight holds infinity")
    if not stored.is_scaled:
        fmt = FORMATS[stored.name]
        bits = prepare(weight, min(mantissa_bits, fmt.mantissa_bits))
        return (bits >> np.uint32(32 - stored.width)).astype(stored.dtype), None
    fmt = FORMATS[stored.name]
    scales = channel_scales(np.abs(weight).max(axis=-2, initial=0), stored)
    bits = (weight / scales[..., None, :]).astype(np.float32).view(np.uint32)
    kept = min(mantissa_bits, fmt.mantissa_bits)
    mantissa = (bits >> np.uint32(23 - fmt.mantissa_bits)) & np.uint32(
        ((1 << kept) - 1) << (fmt.mantissa_bits - kept)
    )
    exponent = (bits >> np.uint32(23) & np.uint32(0xFF)).astype(np.int32) - 127 + fmt.bias
    code = (np.maximum(exponent, 0).astype(np.uint32) << np.uint32(fmt.mantissa_bits)) | mantissa
    code = np.where(exponent < 1, np.uint32(0), code | (bits >> np.uint32(31) << np.uint32(7)))
    return code.astype(np.uint8), scales


def channel_scales(largest: NDArray[np.float32], stored: StoredFloat) -> NDArray[np.float32]:
    """Return the power of two for each channel with so large a magnitude; 1 for one of zeros."""
    _, exponent = np.frexp(largest)
    scales = np.ldexp(np.float32(1), exponent - 1 - _TOP[stored.name])
    return np.where(largest > 0, np.maximum(scales, np.float32(2.0**-126)), 1).astype(np.float32)


def decode(
    bits: NDArray[Any], scales: NDArray[np.float32] | None, stored: StoredFloat
) -> NDArray[np.float32]:
    """Return the values of stored bits, ``[..., K, N]``."""
    if stored.name == "f32":
        return bits.view(np.float32)
    values = bits.view(FORMATS[stored.name].dtype).astype(np.float32)
    return values if scales is None else values * scales[..., None, :]


def pack_panels(
    bits: NDArray[Any], stored: StoredFloat, panel: int, lanes: int
) -> NDArray[np.uint32]:
    """Return `bits` ``[K, N]`` as panels ``[N/panel, K, panel * width / 32]`` of 32-bit words.

    N is filled up with the smallest operand.  Of narrow weights, word i of a group holds columns
    i, i + lanes, i + 2 lanes … in its bits from the lowest on, so that shifts of a vector of words
    give vectors of neighbouring columns.
    """
    k, n = bits.shape
    panels = -(-n // panel)
    smallest = 0 if stored.is_scaled else encode(np.zeros((1, 1), np.float32), stored, 23)[0][0, 0]
    padded = np.full((k, panels * panel), smallest, stored.dtype)
    padded[:, :n] = bits
    ways = 32 // stored.width
    grouped = padded.reshape(k, panels, panel // (ways * lanes), ways, lanes)
    words = np.ascontiguousarray(grouped.transpose(1, 0, 2, 4, 3)).view(np.uint32)
    return words.reshape(panels, k, panel // ways)
