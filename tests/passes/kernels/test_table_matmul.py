"""Kernels of products by look-up against the definition, on every vector unit that runs here.

All kernels of a vector unit are compiled into one module, which its tests share.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lowc.passes.formats import powers, tables
from lowc.passes.formats.binary_codes import Coded
from lowc.passes.formats.tables import TableFormat
from lowc.passes.kernels.table_matmul import STEP, refusal
from lowc.passes.kernels.tiles import ISAS, Tile
from products import units
from products.lookups import (
    Loaded,
    coded_weight,
    compile_kernels,
    compile_rows,
    kernel,
    operands,
)
from products.modules import LoadedModule

# sizes, planes, group, bits, span, dynamic
CASES = [
    ((1, 130, 256), 2, 128, 8, 64, False),
    ((1, 70, 300), 3, 128, 6, 128, False),
    ((5, 70, 200), 2, 64, 6, 64, True),
    ((7, 33, 200), 1, 200, 7, 64, False),
    ((13, 40, 300), 4, 64, 8, 32, True),
    ((4, 64, 96), 4, 96, 6, 32, False),
    ((17, 65, 130), 1, 64, 6, 64, False),
    ((3, 1, 1), 2, 16, 7, 16, True),
    ((2, 31, 1030), 2, 1030, 8, 1024, False),  # the longest span of 8 bits
]
STRANGE = np.array(
    [0, -0.0, 1e-45, 2.0**-91, 2.0**-90, 1e30, -1e30, 3e38, np.inf, -np.inf, np.nan], np.float32
)
UNITS = ("avx512vnni", "avx512", "avx2vnni", "avx2")


def kernels(unit):
    """What the tests of a vector unit share: the cases, a batch of weights, other tiles."""
    lanes = ISAS[unit].lanes
    cut = Tile(lanes, 2, 4, 0, 1, 4)  # many workgroups, each with several blocks of rows
    side = Tile(lanes, 1, 4, 0, 3, 1)  # panels side by side, and one that is left
    return [
        *(
            kernel(unit, sizes, planes, group, TableFormat(bits, span), dynamic=dynamic)
            for sizes, planes, group, bits, span, dynamic in CASES
        ),
        kernel(unit, (5, 20, 64), 2, 64, batch=3),
        kernel(unit, (11, 8 * lanes + 3, 96), 2, 96, tile=cut),
        kernel(unit, (1, 13 * lanes + 3, 256), 2, 64, TableFormat(6, 64), tile=side),
    ]


NUMBERS = range(len(CASES) + 3)


@pytest.fixture(scope="module")
def loaded(request, tmp_path_factory):
    unit = request.param
    target = units.target(unit)
    made = kernels(unit)
    return Loaded(compile_kernels(made, target, tmp_path_factory.mktemp(unit)), made)


@pytest.fixture(scope="module")
def rows(request, tmp_path_factory):
    """The kernels of the cases that make tables, alone."""
    unit = request.param
    target = units.target(unit)
    found = {one.rows.name: one.rows for one in kernels(unit)}
    made = list(found.values())
    return LoadedModule(compile_rows(made, target, tmp_path_factory.mktemp(unit)), made)


def activation(one, seed=0):
    rng = np.random.default_rng([seed, one.n, one.rows.k])
    return rng, rng.standard_normal((one.batch, one.m or 6, one.rows.k)).astype(np.float32)


EVERY = pytest.mark.parametrize("loaded", UNITS, indirect=True)


@EVERY
@pytest.mark.parametrize("number", NUMBERS)
def test_products_are_those_of_the_definition(loaded, number):
    one = loaded.kernels[number]
    rng, x = activation(one)
    loaded.check(number, x, coded_weight(one, rng))


@EVERY
@pytest.mark.parametrize("number", NUMBERS)
def test_the_smallest_and_largest_entries_fit_their_sums(loaded, number):
    one = loaded.kernels[number]
    rng, x = activation(one)
    (*coded,) = coded_weight(one, rng)
    for sign in (1, -1):
        for signs in (np.ones, np.zeros):
            same = [Coded(signs(c.signs.shape, np.bool_), c.terms) for c in coded]
            loaded.check(number, np.full_like(x, sign), same)


@EVERY
@pytest.mark.parametrize("number", NUMBERS)
def test_zeros_and_strange_activations(loaded, number):
    one = loaded.kernels[number]
    rng, x = activation(one, seed=1)
    coded = coded_weight(one, rng)
    for c in coded:
        c.terms[::3, :, -1] = 0
    x[:, ::2] = 0
    strange = rng.random(x.shape) < 0.02
    x[strange] = rng.choice(STRANGE, int(strange.sum()))
    loaded.check(number, x, coded)
    x[...] = 2.0**-93  # rounds to nothing: four of them are below the smallest maximum
    loaded.check(number, x, coded)
    assert not loaded(number, x, coded).any()


@EVERY
@pytest.mark.parametrize("number", NUMBERS)
def test_sums_that_f32_holds_are_exact(loaded, number):
    one = loaded.kernels[number]
    rng, x = activation(one, seed=2)
    coded = coded_weight(one, rng)
    # Small whole numbers are their own entries, and scales are 1 or 2.
    x = rng.integers(-2, 3, x.shape).astype(np.float32)
    coded = [
        Coded(c.signs, powers.project(rng.integers(1, 3, c.terms.shape[:-1]), 1)) for c in coded
    ]
    found = loaded(number, x, coded)
    for b, c in enumerate(coded):
        signs = np.where(c.signs[..., : one.rows.k], 1, -1)
        scales = np.repeat(powers.values(c.terms), one.group, axis=1)[:, : one.rows.k]
        wanted = np.einsum("nik,nki,mk->mn", signs, scales, x[b])
        assert np.array_equal(found[b], wanted), one.name


DYNAMIC = [number for number, case in enumerate(CASES) if case[-1]]


@EVERY
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(number=st.sampled_from(DYNAMIC), m=st.integers(1, 40), seed=st.integers(0, 99))
def test_any_number_of_rows(loaded, number, m, seed):
    one = loaded.kernels[number]
    rng, _ = activation(one, seed)
    x = rng.standard_normal((1, m, one.rows.k)) * 10.0 ** rng.integers(-30, 30, (1, m, 1))
    loaded.check(number, x.astype(np.float32), coded_weight(one, rng))


@pytest.mark.parametrize("rows", UNITS, indirect=True)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(number=st.integers(0, 5), m=st.integers(1, 9), seed=st.integers(0, 99))
def test_tables_are_those_of_the_definition_to_the_bit(rows, number, m, seed):
    one = rows.kernels[number]
    rng = np.random.default_rng(seed)
    m = one.m or m
    x = rng.standard_normal((m, one.k)) * 10.0 ** rng.integers(-30, 30, (m, 1))
    x = np.round(x * 8) / 8 if seed % 3 == 0 else x  # entries between two whole numbers
    x = x.astype(np.float32)
    strange = rng.random(x.shape) < 0.01 * (seed % 2)
    x[strange] = rng.choice(STRANGE, int(strange.sum()))
    records = rows.run(number, x)
    wanted = tables.quantize(x, one.format)
    entries = records.view(np.uint8)[:, : 4 * one.first_scale].astype(np.int16) - one.bias
    assert np.array_equal(entries.reshape(wanted.entries.shape), wanted.entries)
    scales = records[:, one.first_scale : one.first_scale + one.spans]
    assert np.array_equal(np.isnan(scales), wanted.broken)
    counts = wanted.entries.any(axis=(-2, -1))
    powers_of_two = np.ldexp(np.float32(1), wanted.exponents)
    assert np.array_equal(scales[counts], powers_of_two[counts])


def test_what_there_is_no_kernel_for():
    assert refusal(TableFormat(6, 64), 128, 4096) == ""
    assert refusal(TableFormat(6, 64), 100, 100) == ""  # one group
    assert "multiple" in refusal(TableFormat(8, 4 * STEP - 4), 128, 4096)
    assert "whole spans" in refusal(TableFormat(8, 64), 96, 4096)
    assert "16 bits" in refusal(TableFormat(8, 2048), 4096, 4096)


@pytest.mark.parametrize("bits", [6, 7, 8])
def test_entries_fit_bytes(bits):
    one = kernel("avx512", (1, 16, 64), 1, 64, TableFormat(bits, 64)).rows
    assert one.bias - one.format.largest > 0
    assert (256 >> bits) * (one.bias + one.format.largest) < 256


def test_panels_are_read_side_by_side_where_rows_are_few():
    one, many = (kernel("avx512", (m, 4096, 4096), 2, 128) for m in (1, 64))
    assert one.together(1) == 2 and one.is_whole(2)
    assert many.together(many.tile.rows) == 1


def test_no_two_kernels_share_a_name():
    made = [one for unit in UNITS if "vnni" not in unit for one in kernels(unit)]
    assert len({one.name for one in made}) == len(made)
    assert len({one.rows.name for one in made}) == len({one.rows for one in made})


def test_the_bits_of_a_weight_are_all_there_is():
    one = kernel("avx512", (1, 4096, 4096), 2, 128)
    rng = np.random.default_rng(0)
    keys, scales = operands(one, coded_weight(one, rng))
    assert 8 * (keys.nbytes + scales.nbytes) == 4096 * 4096 * 2 * (1 + 16 / 128)
