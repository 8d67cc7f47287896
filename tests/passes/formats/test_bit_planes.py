"""Integer weights by look-up: planes and zeros give the codes back, products those of the codes."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from lowc.passes.formats import bipolar, bit_planes, integer
from lowc.passes.formats.integer import GroupedInteger
from lowc.passes.formats.tables import TableFormat


def quantized(bits, group, symmetric, n, k, seed):
    weight = np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32)
    fmt = GroupedInteger(bits, group, symmetric)
    return integer.quantize(weight, fmt), fmt


@given(
    bits=st.integers(2, 4), group=st.sampled_from([16, 32, 64]), symmetric=st.booleans(),
    n=st.integers(1, 9), k=st.integers(1, 150), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_planes_and_zeros_are_the_weight(bits, group, symmetric, n, k, seed):
    made, fmt = quantized(bits, group, symmetric, n, k, seed)
    planes = np.where(bit_planes.signs(made, fmt), 1, -1)
    values = (planes << np.arange(bits)[:, None]).sum(axis=1)
    assert (np.abs(values) <= bipolar.largest(bits)).all()
    spread = np.repeat(bit_planes.zeros(made, fmt), group, axis=1)
    halves = np.repeat(bit_planes.halves(made), group, axis=1)
    weight = (values - spread).astype(np.float32) * halves
    assert np.array_equal(weight[:, :k], integer.dequantize(made, k))


@given(
    bits=st.integers(2, 4), symmetric=st.booleans(), span=st.sampled_from([16, 32, 64]),
    n=st.integers(1, 9), k=st.integers(1, 200), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_tables_that_hold_activations_exactly_lose_nothing(bits, symmetric, span, n, k, seed):
    made, fmt = quantized(bits, 64, symmetric, n, k, seed)
    # Sums of four are integers up to 124, the exponent is 0 or less, and sums in f64 are exact.
    x = np.random.default_rng(seed).integers(-31, 32, (3, k)).astype(np.float32)
    found = bit_planes.product(x, made, fmt, TableFormat(8, span))
    wanted = x.astype(np.float64) @ integer.dequantize(made, k).astype(np.float64).T
    bound = np.abs(x) @ np.abs(integer.dequantize(made, k)).T * 2.0**-20
    assert (np.abs(found - wanted) <= bound).all()


def test_what_is_not_finite_stays_in_its_row():
    made, fmt = quantized(4, 64, False, 5, 100, 0)
    x = np.ones((3, 100), np.float32)
    x[1, 3], x[2, 70] = np.nan, np.inf
    found = bit_planes.product(x, made, fmt, TableFormat(8, 32))
    assert np.isfinite(found[0]).all() and np.isnan(found[1:]).all()
