"""Integers of a few bits with one scale (and zero point) per group: the definition.

A weight ``w[..., K]`` is cut along K into G groups of g.  Group by group, with b bits:

* symmetric: ``s = max|w| / (2^(b-1) - 1)``, ``q = clip(RNE(w / s), -(2^(b-1)-1), 2^(b-1)-1)``,
  stored as a signed integer;
* asymmetric: ``lo = min(w, 0)``, ``hi = max(w, 0)``, ``s = (hi - lo) / (2^b - 1)``,
  ``z = clip(RNE(-lo / s), 0, 2^b - 1)``, ``q = clip(RNE(w / s) + z, 0, 2^b - 1)``, stored
  unsigned.

Its value is ``f32(q - z) * s``: an exact integer difference, then one rounded multiplication.  All
arithmetic is f32, RNE is round to nearest, ties to even.  A group of zeros has ``s = 0`` and codes
``z``, so zeros stay zeros; a weight above 2^127 may become infinite.  When g does not divide K the
last group is shorter; its codes are stored padded with ``z`` up to g.

With scales of f16 s is rounded to what :mod:`.half_scales` says before z and the codes follow from
it.

Source: round-to-nearest baseline of GPTQ (arXiv 2210.17323) and AWQ (arXiv 2306.00978); the
asymmetric range includes 0 as there, and the rounding is that of ONNX ``QuantizeLinear``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import half_scales

Float = NDArray[np.float32]


@dataclass(frozen=True)
class GroupedInteger:
    """The format: ``bits`` 2…8, ``group`` weights per scale (at most K), with or without zero.

    ``scales`` are ``f32``, or ``f16`` (:mod:`.half_scales`).
    """

    bits: int
    group: int
    symmetric: bool
    scales: str = "f32"

    @property
    def has_halves(self) -> bool:
        """Whether scales are f16 times the factor of their row."""
        return self.scales == "f16"

    @property
    def lowest(self) -> int:
        """The smallest code."""
        return -self.highest if self.symmetric else 0

    @property
    def highest(self) -> int:
        """The largest code."""
        return 2 ** (self.bits - 1) - 1 if self.symmetric else 2**self.bits - 1


@dataclass(frozen=True)
class Quantized:
    """Codes ``[..., G, g]`` (int8 if symmetric, else uint8), scales and zeros ``[..., G]``.

    ``factors`` ``[...]`` are there if scales are f16 times them; ``scales`` are the products.
    """

    codes: NDArray[np.int8] | NDArray[np.uint8]
    scales: Float
    zeros: NDArray[np.uint8] | None
    factors: Float | None = None


def quantize(weight: Float, fmt: GroupedInteger) -> Quantized:
    """Round `weight` ``[..., K]`` (f32) to nearest.

    Raises
    ------
    ValueError
        When the weight holds NaN or infinity.
    """
    if not np.isfinite(weight).all():
        raise ValueError("the weight holds NaN or infinity")
    cut = grouped(np.asarray(weight, np.float32), fmt.group)
    factors = half_scales.factors_of(weight) if fmt.has_halves else None
    scales, zeros = ranges(cut, fmt, None if factors is None else factors[..., None])
    return Quantized(
        round_to_codes(cut, scales, zeros, fmt),
        scales,
        None if fmt.symmetric else zeros.astype(np.uint8),
        factors,
    )


def ranges(cut: Float, fmt: GroupedInteger, factors: Float | None = None) -> tuple[Float, Float]:
    """Return scales and zero points ``[...]`` (f32) of groups ``[..., g]``; 0 if symmetric.

    `factors` are those of their rows, if scales are f16.
    """
    if fmt.symmetric:
        scales = (np.abs(cut).max(axis=-1) / np.float32(fmt.highest)).astype(np.float32)
        scales = scales if factors is None else half_scales.rounded(scales, factors)
        return scales, np.zeros_like(scales)
    low = np.minimum(cut.min(axis=-1), np.float32(0))
    high = np.maximum(cut.max(axis=-1), np.float32(0))
    # Halved before the difference, so that the range of a large f32 cannot overflow.
    half = np.float32(fmt.highest) * np.float32(0.5)
    scales = ((high * np.float32(0.5) - low * np.float32(0.5)) / half).astype(np.float32)
    scales = scales if factors is None else half_scales.rounded(scales, factors)
    return scales, np.clip(np.rint(-low / _divisor(scales)), 0, fmt.highest)


def round_to_codes(
    cut: Float, scales: Float, zeros: Float, fmt: GroupedInteger
) -> NDArray[np.int8] | NDArray[np.uint8]:
    """Return the codes of groups ``[..., g]`` with scales and zero points ``[...]``."""
    codes = np.rint(cut / _divisor(scales)[..., None])
    codes += zeros[..., None]
    np.clip(codes, fmt.lowest, fmt.highest, out=codes)
    return codes.astype(np.int8 if fmt.symmetric else np.uint8)


def dequantize(quantized: Quantized, k: int) -> Float:
    """Return the value of the codes as f32 ``[..., K]``, the padding of the last group dropped."""
    codes = quantized.codes.astype(np.int32)
    if quantized.zeros is not None:
        codes -= quantized.zeros.astype(np.int32)[..., None]
    values = codes.astype(np.float32) * quantized.scales[..., None]
    return np.ascontiguousarray(values.reshape(*values.shape[:-2], -1)[..., :k])


def element_bits(bits: int) -> int:
    """Return the bits of the elements that hold codes of `bits` in a tensor: 4 or 8.

    The portable form has no other elements; panels (``panels.py``) store the exact bits.
    """
    return 4 if bits == 4 else 8


def pack(codes: NDArray[np.int8] | NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return the bytes that MLIR's ``iN`` tensors have in memory: flat, lowest bits first.

    Two codes of 4 bits share a byte, the first in the low nibble; any other code is a byte.

    Raises
    ------
    ValueError
        When the number of codes of 4 bits is odd.
    """
    flat = codes.reshape(-1).view(np.uint8)
    if element_bits(bits) == 8:
        return flat
    if flat.size % 2:
        raise ValueError(f"{flat.size} codes of {bits} bits do not fill bytes")
    nibbles = flat & np.uint8(0x0F)
    return nibbles[0::2] | (nibbles[1::2] << np.uint8(4))


def unpack(data: NDArray[np.uint8], bits: int, *, signed: bool) -> NDArray[np.int8 | np.uint8]:
    """Undo :func:`pack`; flat."""
    if element_bits(bits) == 8:
        return data.view(np.int8 if signed else np.uint8)
    flat = np.empty(data.size * 2, np.uint8)
    flat[0::2], flat[1::2] = data & np.uint8(0x0F), data >> np.uint8(4)
    if not signed:
        return flat
    return ((flat ^ np.uint8(8)).astype(np.int8) - np.int8(8)).astype(np.int8)


def grouped(weight: Float, group: int) -> Float:
    """``[..., K]`` → ``[..., G, g]``, the last group padded with 0, which quantises to ``z``."""
    groups = -(-weight.shape[-1] // group)
    missing = groups * group - weight.shape[-1]
    if missing:
        weight = np.pad(weight, [(0, 0)] * (weight.ndim - 1) + [(0, missing)])
    return weight.reshape(*weight.shape[:-1], groups, group)


def _divisor(scales: Float) -> Float:
    """Scales with infinity in place of 0, to divide by: the codes are then those of 0."""
    return np.where(scales == 0, np.float32(np.inf), scales)
