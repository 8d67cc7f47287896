"""Kernels that look four ternary weights up at once: their bits, their tables, their inner loop."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lowc.passes.formats import tables
from lowc.passes.formats.tables import TableFormat
from lowc.passes.kernels.table_matmul import Scaling, looks_up_trits
from lowc.passes.kernels.tiles import ISAS, Tile
from products import units
from products.assembly import compile_assembly, inner_loops
from products.lookups import Loaded, compile_kernels, compile_rows, kernel, random_weight
from products.modules import LoadedModule

UNIT = "avx512vbmi"
QUADS, PLANES = Scaling("quads"), Scaling("ternary")
# n, k, bits, span
CASES = [
    (300, 300, 6, 64),
    (257, 1030, 7, 1024),  # the longest span of 7 bits
    (70, 5000, 7, 128),  # tables by a dispatch of their own
]
STRANGE = np.array(
    [0, -0.0, 1e-45, 2.0**-91, 2.0**-90, 1e30, -1e30, 3e38, np.inf, -np.inf, np.nan], np.float32
)


def of(case, scaling, **options):
    n, k, bits, span = case
    return kernel(UNIT, (1, n, k), 2, 8192, TableFormat(bits, span), scaling=scaling, **options)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Kernels of four weights at once, and of the same products in planes, one behind another."""
    target = units.target(UNIT)
    side = Tile(ISAS[UNIT].lanes, 1, 4, 0, 3, 1)  # panels side by side, and some that are left
    made = [of(case, scaling) for case in CASES for scaling in (QUADS, PLANES)]
    made += [of((450, 64, 7, 32), QUADS, tile=side), of((450, 64, 7, 32), PLANES)]
    made += [of((40, 200, 6, 64), scaling, batch=3) for scaling in (QUADS, PLANES)]
    return Loaded(compile_kernels(made, target, tmp_path_factory.mktemp("trits")), made)


PAIRS = range(len(CASES) + 2)


def exact(one, x, coded):
    """The sums of spans, scaled and added in order, each with one rounding."""
    fmt = one.rows.format
    built = tables.quantize(x, fmt)
    found = tables.sums(built, coded).sum(axis=-1).astype(np.float64)
    total = np.zeros(found.shape[:-1], np.float32)
    for s in range(found.shape[-1]):
        scale = np.ldexp(0.5, built.exponents[:, s])[:, None]
        scale = np.where(built.broken[:, s, None], np.nan, scale)
        total = (total + found[..., s] * scale).astype(np.float32)
    return total


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(pair=st.sampled_from(PAIRS), seed=st.integers(0, 999))
def test_results_are_those_of_planes_and_of_the_definition_to_the_bit(both, pair, seed):
    one, planes = both.kernels[2 * pair : 2 * pair + 2]
    assert one.scaling == QUADS and planes.scaling == PLANES
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((one.batch, 1, one.rows.k)) * 10.0 ** rng.integers(-20, 20)
    x = x.astype(np.float32)
    is_ordinary = seed % 3
    if not is_ordinary:
        strange = rng.random(x.shape) < 0.02
        x[strange] = rng.choice(STRANGE, int(strange.sum()))
        x[..., ::5] = 0
    weights = random_weight(planes, rng)
    found = both(2 * pair, x, weights)
    np.testing.assert_array_equal(found, both(2 * pair + 1, x, weights))
    if is_ordinary:
        wanted = [exact(one, rows, weight) for rows, weight in zip(x, weights, strict=True)]
        np.testing.assert_array_equal(found, np.stack(wanted))


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_fit(both, pair, sign):
    one = both.kernels[2 * pair]
    x = np.full((one.batch, 1, one.rows.k), sign, np.float32)
    for weight in random_weight(one, np.random.default_rng(0)):
        weight.signs[...] = sign > 0
        weights = [weight] * one.batch
        assert (both(2 * pair, x, weights) == exact(one, x[0], weight)).all()


def test_tables_are_those_of_the_definition(tmp_path):
    target = units.target(UNIT)
    rows = [of(CASES[i], QUADS).rows for i in (0, 2)]
    loaded = LoadedModule(compile_rows(rows, target, tmp_path), rows)
    for number, one in enumerate(rows):
        x = np.random.default_rng(number).standard_normal((1, one.k)).astype(np.float32)
        records, wanted = loaded.run(number, x), tables.quantize(x, one.format)
        entries = records.view(np.uint8)[:, : 4 * one.first_scale].astype(np.int16) - one.bias
        assert np.array_equal(entries.reshape(wanted.entries.shape), wanted.entries)
        scales = records[:, one.first_scale : one.first_scale + one.spans]
        assert np.array_equal(scales, np.ldexp(np.float32(1), wanted.exponents))


@pytest.mark.parametrize(
    ("unit", "bits", "span", "m", "found"),
    [
        (UNIT, 7, 128, 1, True),
        (UNIT, 6, 1024, 1, True),
        (UNIT, 8, 128, 1, False),  # a byte does not hold two entries
        (UNIT, 7, 2048, 1, False),  # 16 bits do not hold the sum
        (UNIT, 7, 128, 2, False),
        (UNIT, 7, 128, None, False),
        ("avx512vnni", 7, 128, 1, False),
        ("avx2", 7, 128, 1, False),
    ],
)
def test_what_is_looked_up_so(unit, bits, span, m, found):
    assert looks_up_trits(ISAS[unit], TableFormat(bits, span), m) is found


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "sums"), [(7, 2), (6, 1)])
def test_inner_loop(bits, sums, tmp_path):
    one = of((1024, 256, bits, 128), QUADS)
    beside = one.together(1)
    assert beside == 8
    found = compile_assembly(compile_kernels, [one], units.CHIPS[UNIT], tmp_path)
    (loop,) = (
        loop for name in (one.name,) for loop in inner_loops(found[name], "vpermi2b")
        if sum(part[0] == "vpermi2b" for part in loop) == 2 * beside
    )  # fmt: skip
    counts = Counter(part[0] for part in loop)
    # Of a pair of quads: a second entry for each, and the negated ones; one look-up for a panel.
    assert counts["vpshufb"] + counts["vpermb"] == counts["vpsubb"] == 2
    assert counts["vpaddb"] == 2 + beside * (2 - sums)
    assert counts["vpaddw"] == 2 * counts["vpsrlw"] == 2 * beside * sums
    assert not [p for p in loop if len(p) > 1 and re.search(r"\(%(rsp|rbp)\b", p[1])]
