"""Weights in groups by the name of their format, as recipes write it (``i4``, ``nf4``)."""

from __future__ import annotations

from . import integer, small_floats
from .integer import Float, GroupedInteger, Quantized
from .small_floats import SMALL_FLOATS


def quantize(
    weight: Float, name: str, group: int, *, symmetric: bool = True, scales: str = "f32"
) -> Quantized:
    """Round `weight` ``[..., K]`` (f32) to the format `name`, in groups along K.

    `scales` are ``f32``, or ``f16`` (:mod:`.half_scales`).

    Raises
    ------
    ValueError
        When the weight holds NaN or infinity.
    """
    if name in SMALL_FLOATS:
        return small_floats.quantize(weight, SMALL_FLOATS[name], group, scales)
    return integer.quantize(weight, GroupedInteger(int(name[1:]), group, symmetric, scales))


def rounded(
    weight: Float, name: str, group: int, *, symmetric: bool = True, scales: str = "f32"
) -> Float:
    """Return what the codes of :func:`quantize` stand for: f32 ``[..., K]``."""
    k = weight.shape[-1]
    quantized = quantize(weight, name, min(group or k, k), symmetric=symmetric, scales=scales)
    if name in SMALL_FLOATS:
        return small_floats.dequantize(quantized, SMALL_FLOATS[name], k)
    return integer.dequantize(quantized, k)
