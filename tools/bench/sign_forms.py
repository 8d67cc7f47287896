"""What products with planes of signs, planes of bits and powers of two must give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...passes.forms import TABLE_BITS, Form, cut_binary

if TYPE_CHECKING:
    from ...passes.formats.binary_codes import BinaryCodes, Coded
    from .check import Sample

Double = NDArray[np.float64]
FORMS = ("binary", "ternary", "lut", "shift")


def definition(form: Form, sample: Sample) -> Double:
    """Return the product of a sample by the definition of its form."""
    if form.form == "shift":
        from ...passes.formats import powers

        return powers.product(sample.x, _terms(sample)).astype(np.float64)
    if form.form == "lut":
        from ...passes.formats import bit_planes, integer

        fmt = _integers(form, sample)
        quantized = integer.quantize(_columns(sample), fmt)
        return bit_planes.product(sample.x, quantized, fmt, _tables(form, sample)).astype(
            np.float64
        )
    from ...passes.formats import binary_codes, tables

    coded, fmt, scale = _coded(form, sample)
    if form.tables == "none":
        found = binary_codes.product(sample.x, coded, fmt)
    else:
        found = tables.product(sample.x, coded, fmt, _tables(form, sample))
    return found.astype(np.float64) * scale


def magnitude(form: Form, sample: Sample) -> Double:
    """Return sums of magnitudes ``[rows, columns]``, which bound what f32 sums are rounded by."""
    x = np.abs(sample.x).astype(np.float64)
    if form.form == "shift":
        from ...passes.formats import powers

        return x @ np.abs(powers.values(_terms(sample)[..., None])).T
    if form.form == "lut":
        from ...passes.formats import bit_planes, integer

        fmt = _integers(form, sample)
        made = integer.quantize(_columns(sample), fmt)
        most = 2**form.bits - 1 + np.abs(bit_planes.zeros(made, fmt))
        spread = np.repeat(bit_planes.halves(made) * most, fmt.group, axis=1)
        return x @ spread[:, : x.shape[1]].T
    from ...passes.formats import binary_codes

    coded, fmt, scale = _coded(form, sample)
    all_plus = binary_codes.Coded(np.ones_like(coded.signs), coded.terms)
    return x @ binary_codes.decode(all_plus, fmt, x.shape[1]).T.astype(np.float64) * scale


def _columns(sample: Sample) -> NDArray[np.float32]:
    return np.ascontiguousarray(sample.w.T, np.float32)


def _terms(sample: Sample) -> NDArray[np.uint8]:
    from ...passes.formats import powers

    return powers.project(_columns(sample), 1)[..., 0]


def _cut(form: Form, sample: Sample) -> tuple[int, int]:
    group = 0 if form.form == "ternary" else form.group
    return cut_binary(sample.w.shape[0], group, None if form.tables == "none" else form.span)


def _tables(form: Form, sample: Sample) -> Any:
    from ...passes.formats.tables import TableFormat

    return TableFormat(TABLE_BITS[form.tables], _cut(form, sample)[1])


def _integers(form: Form, sample: Sample) -> Any:
    from ...passes.formats.integer import GroupedInteger

    return GroupedInteger(form.bits, _cut(form, sample)[0], form.symmetric)


def _coded(form: Form, sample: Sample) -> tuple[Coded, BinaryCodes, float]:
    """Return the codes of the sampled columns, their format, and what sums are multiplied by.

    Where columns share scales, they depend on the whole weight.
    """
    from ...passes.formats import binary_codes, ternary

    group, columns = _cut(form, sample)[0], _columns(sample)
    weight = columns if sample.weight is None else np.asarray(sample.weight, np.float32)
    if form.form == "ternary":
        fmt = binary_codes.BinaryCodes(2, group, len(columns), 1)
        scale = ternary.scale_of(weight)
        return ternary.as_planes(ternary.round_by(columns, scale), fmt), fmt, float(scale)
    if form.outputs == 1:
        fmt = binary_codes.BinaryCodes(form.planes, group, 1, form.terms)
        return binary_codes.encode(columns, fmt), fmt, 1.0
    outputs = form.outputs or len(weight)
    fmt = binary_codes.BinaryCodes(form.planes, group, outputs, form.terms)
    whole = binary_codes.encode(weight, fmt)
    each = binary_codes.BinaryCodes(form.planes, group, 1, form.terms)
    terms = np.repeat(whole.terms, outputs, axis=0)[sample.columns]
    return binary_codes.Coded(whole.signs[sample.columns], terms), each, 1.0
