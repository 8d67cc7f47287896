"""Check results of a product on a sample of rows and columns, against its form's definition."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import InternalError
from ...passes import shift_add_weights
from ...passes.formats import bipolar_products
from ...passes.forms import MANTISSA_BITS, Form
from .products import Float, Product

if TYPE_CHECKING:
    from ...passes.formats.activations import Activations
    from ...passes.formats.integer import Quantized

Double = NDArray[np.float64]
# Products of numbers that are calculated for the comparison: some tenths of a second.
_BUDGET = 1 << 23
_MOST_ROWS = 16


@dataclass(frozen=True)
class Sample:
    """Rows and columns of one matrix of the batch, and the operands that lead to them.

    ``x`` is [rows, K], ``w`` [K, columns]; the whole product where it is small.  Of two activations
    ``w`` is the right one, and nothing is stored; of a weight, ``weight`` is all of it, ``[N, K]``.
    """

    batch: int
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    x: Float
    w: Float
    has_weight: bool = True
    weight: Float | None = None

    @classmethod
    def of(cls, product: Product) -> Sample:
        """Choose rows and columns at random, seeded; the matrix is the last of the batch."""
        shape, generator = product.shape, np.random.default_rng(1)
        rows = min(shape.m, max(1, min(_MOST_ROWS, _BUDGET // shape.k)))
        columns = min(shape.n, max(1, _BUDGET // (shape.k * rows)))
        chosen_rows = np.sort(generator.choice(shape.m, rows, replace=False))
        chosen_columns = np.sort(generator.choice(shape.n, columns, replace=False))
        left, right = product.operands
        if not product.has_weight:
            left, right = left[-1], right[-1].T
        return cls(
            shape.batch - 1, chosen_rows, chosen_columns, left[chosen_rows],
            right[chosen_columns].T, product.has_weight, right if product.has_weight else None,
        )  # fmt: skip

    def take(self, result: ArrayLike) -> Double:
        """Return the sampled part of a result ``[M, N]`` or ``[B, M, N]``."""
        array = np.asarray(result)
        matrix = array[self.batch] if array.ndim == 3 else array
        return matrix[np.ix_(self.rows, self.columns)].astype(np.float64)


def exact(sample: Sample) -> Double:
    """Return the product of the operands as they are."""
    return sample.x.astype(np.float64) @ sample.w.astype(np.float64)


def definition(form: Form, sample: Sample) -> Double:
    """Return what `form` must give, by its NumPy definition."""
    if form.activations == "i8":
        from ...passes.formats import activations

        return activations.product(*_integers(form, sample))
    form = _applied(form, sample)
    if form.form == "bipolar":
        left, right = (bipolar_products.encode(x, form.planes) for x in (sample.x, sample.w.T))
        found = bipolar_products.product(left, right, form.planes, form.scales)
        return found.astype(np.float64)
    if sample.has_weight and form.form in shift_add_weights.FORMS:
        return shift_add_weights.product(*_signed(form, sample)).astype(np.float64)
    w = _stored(form, sample.w)
    if form.form in ("exact", "dequant"):
        return sample.x.astype(np.float64) @ w.astype(np.float64)
    from ...passes.formats import lmul

    is_lmul = form.form == "lmul"
    result = lmul.matmul(
        sample.x, w, form.mantissa_bits, form.specials,
        offset=is_lmul, carrier=form.carrier, accumulate=form.accumulate,
    ).astype(np.float64)  # fmt: skip
    if form.gain:
        stored_bits = MANTISSA_BITS[form.weights] if form.weights else 0
        result /= lmul.slope(
            form.mantissa_bits, offset=is_lmul, carrier=form.carrier, weight_bits=stored_bits
        )
    return result


def product(form: Form, sample: Sample) -> Double:
    """Return the exact product of the left operand and the weight as `form` stores it."""
    w = _stored(_applied(form, sample), sample.w)
    return sample.x.astype(np.float64) @ w.astype(np.float64)


def rounding(form: Form, sample: Sample) -> float:
    """Return a bound on ``||found - defined||``: two sums of K rounded products, in any order.

    Products of 8-bit activations are exact, what is rounded is their scaling.
    """
    if form.activations == "i8":
        from ...passes.formats import activations

        return float(np.linalg.norm(activations.rounding(*_integers(form, sample))))
    form, k = _applied(form, sample), sample.w.shape[0]
    if sample.has_weight and form.form in shift_add_weights.FORMS:
        magnitude = shift_add_weights.magnitude(*_signed(form, sample))
    else:
        magnitude = np.abs(sample.x).astype(np.float64) @ np.abs(_stored(form, sample.w))
    unit = 2.0 ** -(MANTISSA_BITS[form.accumulate] + 1)
    return float(2 * (k + 2) * unit * np.linalg.norm(magnitude))


def relative_error(found: Double, expected: Double) -> float:
    """Return ``||found - expected|| / ||expected||``."""
    return float(np.linalg.norm(found - expected) / (np.linalg.norm(expected) or 1.0))


def check(name: str, found: Double, defined: Double, bound: float) -> None:
    """Raise an InternalError when `found` is not what the form defines: no time counts then."""
    distance = float(np.linalg.norm(found - defined))
    if not distance <= bound:
        raise InternalError(
            f"the result of '{name}' is not what its form defines: it differs by {distance:.3g}, "
            f"rounding explains {bound:.3g}",
            where="lowc bench matmul",
        )


def _integers(form: Form, sample: Sample) -> tuple[Activations, Quantized]:
    """Return both operands as the integers and scales that `form` makes of them."""
    from ...passes.formats import activations, weights

    columns = np.ascontiguousarray(sample.w.T)
    group = min(form.group or columns.shape[1], columns.shape[1])
    weight = weights.quantize(
        columns, form.weights, group, symmetric=form.symmetric, scales=form.scales
    )
    per_row = form.activation_scale == "row"
    return activations.quantize(sample.x, group, per_row=per_row), weight


def _signed(form: Form, sample: Sample) -> tuple[Any, ...]:
    """Return the operands of a product by signs, bits or powers of two, and the sampled rows."""
    if sample.weight is None:
        return sample.x, np.ascontiguousarray(sample.w.T, np.float32), form, None
    # Where outputs share scales, those depend on the whole weight.
    return sample.x, np.asarray(sample.weight, np.float32), form, sample.columns


def _applied(form: Form, sample: Sample) -> Form:
    """Return `form` as it is applied: added activations are not stored, whatever its `weights`."""
    if sample.has_weight or form.form not in ("lmul", "pam"):
        return form
    return dataclasses.replace(form, weights="")


def _stored(form: Form, w: Float) -> Any:
    """Return the values ``[K, N]`` that the weight has where it is stored."""
    if form.stores_codes:
        from ...passes.formats.weights import rounded

        columns = np.ascontiguousarray(w.T)
        return rounded(
            columns, form.weights, form.group, symmetric=form.symmetric, scales=form.scales
        ).T
    if not form.weights:
        return w
    from ...passes.formats.stored import STORED, decode, encode

    stored = STORED[form.weights]
    return decode(*encode(np.ascontiguousarray(w), stored, form.mantissa_bits or 23), stored)
