"""Products by look-up: tables, their rounding, exact integer sums, and the product."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lowc.passes.formats import powers, tables
from lowc.passes.formats.binary_codes import BinaryCodes, Coded, decode, encode
from lowc.passes.formats.tables import TableFormat

FLOATS = st.floats(-(2.0**40), 2.0**40, width=32)
ROWS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 3), st.integers(1, 12).map(lambda q: 4 * q)),
    elements=FLOATS,
)  # fmt: skip
FORMATS = st.builds(TableFormat, bits=st.integers(6, 8), span=st.sampled_from([4, 8, 16]))
SHAPES = [
    # m, n, k, weight, tables
    (1, 5, 64, BinaryCodes(2, 32), TableFormat(8, 32)),
    (3, 7, 64, BinaryCodes(3, 64), TableFormat(8, 16)),
    (2, 9, 70, BinaryCodes(2, 32, 4), TableFormat(7, 16)),
    (2, 3, 37, BinaryCodes(4, 8, 2), TableFormat(6, 8)),
    (1, 1, 5, BinaryCodes(1, 16, terms=1), TableFormat(8, 16)),
    (1, 6, 129, BinaryCodes(3, 64), TableFormat(8, 64)),
]


def case(m, n, k, weight):
    generator = np.random.default_rng(n * k)
    x = generator.standard_normal((m, k)).astype(np.float32)
    return x, encode(generator.standard_normal((n, k)).astype(np.float32), weight, 3)


def looked_up(found, coded):
    """P by the definition: look-ups of keys that are put together one sign at a time."""
    m, spans, quads, _ = found.entries.shape
    n, planes, k = coded.signs.shape
    total = np.zeros((m, n, spans, planes), np.int64)
    last = min(k // 4, spans * quads)
    for r, o, p, q in itertools.product(range(m), range(n), range(planes), range(last)):
        key = sum(int(coded.signs[o, p, 4 * q + t]) << t for t in range(4))
        total[r, o, q // quads, p] += found.entries[r, q // quads, q % quads, key]
    return total


@given(x=ROWS)
@settings(max_examples=80, deadline=None)
def test_an_entry_is_a_sum_of_signed_inputs(x):
    found = tables.float_tables(x)
    assert (found == -found[..., ::-1]).all()  # 15 - key is the key with all bits turned
    for key in range(16):
        sign = [1 if key >> t & 1 else -1 for t in range(4)]
        x0, x1, x2, x3 = (x.reshape(len(x), -1, 4)[..., t] * np.float32(sign[t]) for t in range(4))
        assert (found[..., key] == ((x0 + x1) + x2) + x3).all()


@given(x=ROWS, fmt=FORMATS)
@settings(max_examples=80, deadline=None)
def test_entries_are_rounded_with_the_smallest_power_of_two(x, fmt):
    found = tables.quantize(x, fmt)
    assert not found.broken.any()
    assert (np.abs(found.entries.astype(int)) <= fmt.largest).all()
    assert (found.entries == -found.entries[..., ::-1]).all()
    filled = np.pad(x, [(0, 0), (0, -x.shape[1] % fmt.span)])
    exact = tables.float_tables(filled).reshape(found.entries.shape).astype(np.float64)
    step = 2.0 ** found.exponents[..., None, None]
    amax = np.abs(exact).max(axis=(-2, -1))
    small = amax < tables.SMALLEST_MAXIMUM
    assert not found.entries[small].any()
    assert (np.abs(exact - found.entries * step) <= step / 2)[~small].all()
    largest = fmt.largest * 2.0**found.exponents
    assert (amax <= largest)[~small].all() and (amax > largest / 2)[~small].all()


@pytest.mark.parametrize(("m", "n", "k", "weight", "fmt"), SHAPES)
def test_sums_are_exact(m, n, k, weight, fmt):
    x, coded = case(m, n, k, weight)
    found = tables.quantize(x, fmt)
    assert (tables.sums(found, coded) == looked_up(found, coded)).all()


@pytest.mark.parametrize(("m", "n", "k", "weight", "fmt"), SHAPES)
def test_the_product_is_near_that_of_the_decoded_weight(m, n, k, weight, fmt):
    x, coded = case(m, n, k, weight)
    found = tables.product(x, coded, weight, fmt)
    assert found.shape == (m, n) and found.dtype == np.float32
    exact = x.astype(np.float64) @ decode(coded, weight, k).astype(np.float64).T
    # Half a step for each quad and plane, times its alpha; f32 is far below that.
    step = 2.0 ** tables.quantize(x, fmt).exponents
    alpha = powers.values(coded.terms).sum(axis=-1).repeat(weight.outputs, axis=0)[:n]
    of_span = alpha[:, np.arange(step.shape[1]) * fmt.span // weight.group]
    bound = (step / 2 * (fmt.span // 4)) @ of_span.T
    assert (np.abs(found - exact) <= bound * 1.001).all()
    assert np.abs(found - exact).max() > 0


@pytest.mark.parametrize(("m", "n", "k", "weight", "fmt"), SHAPES)
def test_tables_without_rounding_give_the_sum_of_the_planes(m, n, k, weight, fmt):
    generator = np.random.default_rng(k)
    x = generator.integers(-7, 8, (m, k)).astype(np.float32)
    along_n, along_k = weight.blocks(n, k)
    signs = generator.random((n, weight.planes, along_k * weight.group)) < 0.5
    shape = (along_n, along_k, weight.planes, weight.terms)
    terms = generator.integers(90, 102, shape) | generator.integers(0, 2, shape) << 7
    coded = Coded(signs, terms.astype(np.uint8))
    # In i64, in units of 2^-6, the smallest term: each plane on its own, then shifted and added.
    total = np.zeros((m, n), np.int64)
    filled = np.pad(x, [(0, 0), (0, signs.shape[2] - k)]).astype(np.int64)
    for p, g in itertools.product(range(weight.planes), range(along_k)):
        part = slice(g * weight.group, (g + 1) * weight.group)
        plane = filled[:, part] @ np.where(signs[:, p, part], 1, -1).T
        alpha = (powers.values(coded.terms)[:, g, p] * 64).astype(np.int64)
        total += plane * alpha.repeat(weight.outputs)[:n]
    found = tables.product(x, coded, weight, fmt)
    assert (found.astype(np.float64) * 64 == total).all()


def test_small_and_broken_spans():
    x = np.ones((5, 16), np.float32)
    x[0, 8:] = 2.0**-100
    x[1, 9] = np.nan
    x[2, 0] = -np.inf
    x[3, :4] = 3e38
    x[4, :] = 0
    found = tables.quantize(x, TableFormat(8, 8))
    assert found.broken.tolist() == [
        [False, False], [False, True], [True, False], [True, False], [False, False],
    ]  # fmt: skip
    assert not found.entries[0, 1].any() and found.exponents[0, 1] == tables.LOWEST_EXPONENT
    fmt = BinaryCodes(1, 8, terms=1)
    weight = np.ones((1, 16), np.float32)
    result = tables.product(x, encode(weight, fmt), fmt, TableFormat(8, 8))[:, 0]
    assert result[0] == 8 and np.isnan(result[1:4]).all() and result[4] == 0


@pytest.mark.parametrize("exponent", [-88, 0, 40, 120])
def test_activations_of_any_size(exponent):
    # Terms end at 2^31; the power of two of a span does not.
    x = np.ldexp(np.float32(1), exponent) * np.ones((1, 4), np.float32)
    fmt = BinaryCodes(1, 4, terms=1)
    coded = encode(np.ones((1, 4), np.float32), fmt)
    found = tables.product(x, coded, fmt, TableFormat(8, 4))
    assert found == np.ldexp(np.float32(4), exponent)
