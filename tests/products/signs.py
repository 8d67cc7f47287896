"""Products with binary-coded weights in tests: their forms, and what they must give to the bit."""

import numpy as np
from lowc.passes import shift_add_weights
from lowc.passes.forms import Form
from lowc.passes.shift_add_weights import product

__all__ = ["agrees", "code", "form_of", "lut_form", "product", "rows_of", "same", "ternary_form"]

LARGEST = np.finfo(np.float32).max


def form_of(planes, group=128, outputs=1, terms=3, tables="none", span=64):
    """Return a form of binary codes."""
    form = Form(
        "binary", planes=planes, group=group, outputs=outputs, terms=terms, tables=tables,
        span=span, method="bcq",
    )  # fmt: skip
    form.check("test")
    return form


def ternary_form(tables="none", span=64, packing="bits"):
    """Return a form of ternary weights."""
    form = Form("ternary", tables=tables, span=span, packing=packing)
    form.check("test")
    return form


def lut_form(weights, group=128, symmetric=True, tables="i8", span=64):
    """Return a form of integer weights by look-up."""
    form = Form(
        "lut", weights, group, symmetric, tables=tables, span=span,
    )  # fmt: skip
    form.check("test")
    return form


def code(weight, form):
    """Return the coded weight, its format, and that of its tables or None."""
    signs = shift_add_weights.code(weight, form)
    table = None if form.tables == "none" else shift_add_weights.table_format(weight.shape[1], form)
    return signs.coded, signs.fmt, table


def rows_of(generator, count, k):
    """Ordinary rows, and some at the edges: zeros, tiny and huge numbers, NaN and infinities.

    No sum of them is subnormal: IREE's threads add such numbers as zeros.
    """
    x = generator.standard_normal((count, k)).astype(np.float32)
    x[1::8] = 0
    x[2::8, : k // 2] = 0
    x[3::8, 0] = LARGEST
    x[4::8] *= np.float32(1e-20)
    x[5::8] *= np.float32(2.0**-91)
    x[6::8, -1] = np.nan
    x[7::8, :2] = np.inf, -np.inf
    return x


def agrees(found, x, weight, form):
    """Whether `found` is ``x . weight^T`` to the bit; for `lut`, but for how products are rounded."""
    wanted = product(x, weight, form)
    if form.form != "lut" or same(found, wanted):
        return same(found, wanted)
    with np.errstate(invalid="ignore", over="ignore"):
        bound = np.abs(x).astype(np.float64) @ np.abs(weight).astype(np.float64).T * 2.0**-21
        near = np.abs(found.astype(np.float64) - wanted) <= bound
    same_special = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    return bool((near | same_special).all())


def same(found, expected):
    """Whether all bits agree, but for those of NaN and the sign of zero."""
    return found.shape == expected.shape and np.array_equal(found, expected, equal_nan=True)
