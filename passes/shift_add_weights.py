"""What products by weights in planes and powers of two are, by form: the definitions, chosen.

The definitions are those of ``formats/``: ``binary_codes`` and ``tables``, ``ternary``, ``trits``,
``bit_planes`` and ``powers``.  Here stands which of them a form means, and with which sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .formats import binary_codes, bit_planes, integer, powers, tables, ternary, trits
from .formats.binary_codes import BinaryCodes, Coded
from .formats.integer import GroupedInteger
from .formats.tables import TableFormat
from .forms import TABLE_BITS, Form, cut_binary

Single = NDArray[np.float32]
Double = NDArray[np.float64]

FORMS = ("binary", "ternary", "lut", "shift")


@dataclass(frozen=True)
class Signs:
    """A weight of form ``binary`` or ``ternary``: codes, and what the sums are multiplied by."""

    coded: Coded
    fmt: BinaryCodes
    scale: np.float32 | None = None


def table_format(k: int, form: Form) -> TableFormat:
    """Return the tables of a product over `k` inputs, by a form that has some."""
    return TableFormat(TABLE_BITS[form.tables], _cut(k, form)[1])


def integers(k: int, form: Form) -> GroupedInteger:
    """Return how a weight over `k` inputs is stored in form ``lut``."""
    return GroupedInteger(form.bits, _cut(k, form)[0], form.symmetric)


def code(weight: Single, form: Form, rows: NDArray[np.int64] | None = None) -> Signs:
    """Code a weight ``[N, K]`` from itself alone; return the codes of `rows`, of all if None.

    Each of some rows then has its own scales, whether it shares them in the weight or not.
    """
    n, k = weight.shape
    group = _cut(k, form)[0]
    chosen = weight if rows is None else weight[rows]
    if form.form == "ternary":
        scale = ternary.scale_of(weight)
        fmt = BinaryCodes(2, group, len(chosen), 1)
        return Signs(ternary.as_planes(ternary.round_by(chosen, scale), fmt), fmt, scale)
    fmt = BinaryCodes(form.planes, group, form.outputs or n, form.terms)
    if rows is None or fmt.outputs == 1:
        return Signs(binary_codes.encode(chosen, fmt), fmt)
    whole = binary_codes.encode(weight, fmt)
    terms = np.repeat(whole.terms, fmt.outputs, axis=0)[rows]
    each = BinaryCodes(form.planes, group, 1, form.terms)
    return Signs(Coded(whole.signs[rows], terms), each)


def product(x: Single, weight: Single, form: Form, rows: NDArray[np.int64] | None = None) -> Single:
    """Return ``x . weight^T`` by `form`, for `rows` of the weight ``[N, K]``, or all of them."""
    k = x.shape[-1]
    if form.form == "shift":
        return powers.product(x, _shifts(weight, rows))
    if form.form == "lut":
        fmt = integers(k, form)
        quantized = integer.quantize(weight if rows is None else weight[rows], fmt)
        return bit_planes.product(x, quantized, fmt, table_format(k, form))
    if form.packing == "trits":
        scale = ternary.scale_of(weight)
        codes = ternary.round_by(weight if rows is None else weight[rows], scale)
        table = TableFormat(TABLE_BITS[form.tables], trits.span_of(form.span, k))
        with np.errstate(over="ignore"):
            return trits.product(x, codes, table) * scale
    signs = code(weight, form, rows)
    if form.tables == "none":
        sums = binary_codes.product(x, signs.coded, signs.fmt)
    else:
        sums = tables.product(x, signs.coded, signs.fmt, table_format(k, form))
    if signs.scale is None:
        return sums
    with np.errstate(over="ignore"):
        return sums * signs.scale


def magnitude(
    x: Single, weight: Single, form: Form, rows: NDArray[np.int64] | None = None
) -> Double:
    """Return sums of magnitudes, which bound what sums in f32 are rounded by; as `product`."""
    sizes = np.abs(x).astype(np.float64)
    if form.form == "shift":
        return sizes @ np.abs(powers.values(_shifts(weight, rows)[..., None])).T
    if form.form == "lut":
        fmt = integers(x.shape[-1], form)
        made = integer.quantize(weight if rows is None else weight[rows], fmt)
        most = 2**form.bits - 1 + np.abs(bit_planes.zeros(made, fmt))
        spread = np.repeat(bit_planes.halves(made) * most, fmt.group, axis=1)
        return sizes @ spread[:, : x.shape[-1]].T
    signs = code(weight, form, rows)
    plus = Coded(np.ones_like(signs.coded.signs), signs.coded.terms)
    scale = 1.0 if signs.scale is None else float(signs.scale)
    return sizes @ binary_codes.decode(plus, signs.fmt, x.shape[-1]).T.astype(np.float64) * scale


def _cut(k: int, form: Form) -> tuple[int, int]:
    group = 0 if form.form == "ternary" else form.group
    return cut_binary(k, group, None if form.tables == "none" else form.span)


def _shifts(weight: Single, rows: NDArray[np.int64] | None) -> NDArray[np.uint8]:
    return powers.project(weight if rows is None else weight[rows], 1)[..., 0]
