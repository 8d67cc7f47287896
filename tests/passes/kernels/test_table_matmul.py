"""Kernels of products by look-up against the definition, on every vector unit that runs here.

All kernels of a vector unit are compiled into one module, which its tests share.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lowc.passes.formats import powers, sign_panels, tables, trits
from lowc.passes.formats.binary_codes import Coded
from lowc.passes.formats.integer import Quantized
from lowc.passes.formats.tables import TableFormat
from lowc.passes.kernels.table_matmul import Scaling, looks_up_four, refusal
from lowc.passes.kernels.table_shuffles import STEP
from lowc.passes.kernels.tiles import ISAS, Tile
from products import units
from products.lookups import (
    PLANES,
    Loaded,
    compile_kernels,
    compile_rows,
    kernel,
    operands,
    random_weight,
)
from products.modules import LoadedModule

INTEGERS, WITH_ZEROS = Scaling("bits"), Scaling("bits", symmetric=False)
TERNARY, SHARED = Scaling("ternary"), Scaling(shared=True)
# sizes, planes, group, bits, span, dynamic, scaling
CASES = [
    ((1, 130, 256), 2, 128, 8, 64, False, PLANES),
    ((1, 70, 300), 3, 128, 6, 128, False, PLANES),
    ((5, 70, 200), 2, 64, 6, 64, True, PLANES),
    ((7, 33, 200), 1, 200, 7, 64, False, PLANES),
    ((13, 40, 300), 4, 64, 8, 32, True, PLANES),
    ((4, 64, 96), 4, 96, 6, 32, False, PLANES),
    ((17, 65, 130), 1, 64, 6, 64, False, PLANES),
    ((3, 1, 1), 2, 16, 7, 16, True, PLANES),
    ((2, 31, 1030), 2, 1030, 8, 1024, False, PLANES),  # the longest span of 8 bits
    ((1, 70, 256), 2, 64, 8, 64, False, WITH_ZEROS),
    ((6, 33, 200), 3, 64, 8, 32, True, WITH_ZEROS),  # spans are added up to groups
    ((3, 130, 171), 4, 192, 7, 64, False, INTEGERS),  # one group
    ((2, 9, 300), 4, 128, 8, 128, True, WITH_ZEROS),
    ((5, 17, 90), 2, 16, 6, 16, False, INTEGERS),
    ((1, 70, 300), 2, 320, 7, 64, False, TERNARY),
    ((4, 31, 90), 2, 96, 8, 32, True, TERNARY),
    ((2, 70, 256), 3, 64, 6, 64, False, SHARED),
]
STRANGE = np.array(
    [0, -0.0, 1e-45, 2.0**-91, 2.0**-90, 1e30, -1e30, 3e38, np.inf, -np.inf, np.nan], np.float32
)
FIVES = [
    ((1, 300, 300), 100, 7, False),
    ((1, 70, 171), 60, 8, False),
    ((6, 33, 90), 30, 6, True),
    ((7, 130, 7), 10, 7, False),
]
# VNNI without VBMI changes nothing.
UNITS = ("avx512vbmi", "avx512", "avx2")


def kernels(unit):
    """What the tests of a vector unit share: the cases, a batch of weights, other tiles."""
    lanes = ISAS[unit].lanes
    cut = Tile(lanes, 2, 4, 0, 1, 4)  # many workgroups, each with several blocks of rows
    side = Tile(lanes, 1, 4, 0, 3, 1)  # panels side by side, and one that is left
    return [
        *(
            kernel(
                unit,
                sizes,
                planes,
                group,
                TableFormat(bits, span),
                dynamic=dynamic,
                scaling=scaling,
            )
            for sizes, planes, group, bits, span, dynamic, scaling in CASES
        ),
        kernel(unit, (5, 20, 64), 2, 64, batch=3),
        kernel(unit, (3, 40, 200), 2, 64, batch=2, rounds=True),  # tables of its own rows
        kernel(unit, (1, 40, 200), 2, 64, rounds=False),
        kernel(unit, (11, 8 * lanes + 3, 96), 2, 96, tile=cut),
        kernel(unit, (1, 13 * lanes + 3, 256), 2, 64, TableFormat(6, 64), tile=side),
        # Makes tables, in each workgroup those of the rows that it has.
        kernel(unit, (4, 20, 64), 2, 64, tile=Tile(lanes, 1, 4, 0, 1, 2), rounds=True),
    ]


NUMBERS = range(len(CASES) + 6)


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


@pytest.fixture(scope="module")
def of_fives(request, tmp_path_factory):
    """The kernels of ternary weights five in a byte, and those that make their tables."""
    unit, scaling = request.param, Scaling("trits")
    target = units.target(unit)
    made = [
        kernel(unit, sizes, 1, 4096, TableFormat(bits, span), dynamic=dynamic, scaling=scaling)
        for sizes, span, bits, dynamic in FIVES
    ]
    # Panels side by side, and one that is left.
    side = Tile(ISAS[unit].lanes, 1, 4, 0, 3, 1)
    made.append(
        kernel(unit, (1, 250, 60), 1, 4096, TableFormat(7, 30), tile=side, scaling=scaling)
    )  # fmt: skip
    rows = [one.rows for one in made]
    folder = tmp_path_factory.mktemp("fives")
    (folder / "rows").mkdir()
    return (
        Loaded(compile_kernels(made, target, folder), made),
        LoadedModule(compile_rows(rows, target, folder / "rows"), rows),
    )


@pytest.mark.parametrize("of_fives", UNITS, indirect=True)
@pytest.mark.parametrize("number", range(len(FIVES) + 1))
def test_five_ternary_weights_at_once_are_those_of_the_definition_to_the_bit(of_fives, number):
    loaded, rows = of_fives
    one = loaded.kernels[number]
    for seed in range(3):
        rng, x = activation(one, seed)
        strange = rng.random(x.shape) < 0.01 * (seed == 2)
        x[strange] = rng.choice(STRANGE, int(strange.sum()))
        x[:, ::3] *= 0 if seed == 1 else 1
        loaded.check(number, x, random_weight(one, rng))
        for code in (-1, 1):
            full = np.full((one.n, one.rows.k), code, np.int8)
            loaded.check(number, np.ones_like(x), [full])
        records, wanted = rows.run(number, x[0]), trits.quantize(x[0], one.rows.format)
        tables_ = records.view(np.uint8)[:, : 4 * one.rows.first_scale].reshape(
            *wanted.entries.shape[:-1], -1
        )
        magnitudes = tables_[..., : trits.ZERO + 1].astype(np.int16) - one.rows.bias
        assert np.array_equal(magnitudes, wanted.entries[..., trits.ZERO :])


EVERY = pytest.mark.parametrize("loaded", UNITS, indirect=True)


@EVERY
@pytest.mark.parametrize("number", NUMBERS)
def test_products_are_those_of_the_definition(loaded, number):
    one = loaded.kernels[number]
    rng, x = activation(one)
    loaded.check(number, x, random_weight(one, rng))


@EVERY
@pytest.mark.parametrize("number", NUMBERS)
def test_the_smallest_and_largest_entries_fit_their_sums(loaded, number):
    one = loaded.kernels[number]
    rng, x = activation(one)
    (*weights,) = random_weight(one, rng)
    for sign in (1, -1):
        for largest in (True, False):
            same = [of_one_code(w, one.planes, largest) for w in weights]
            loaded.check(number, np.full_like(x, sign), same)


def of_one_code(weight, planes, largest):
    """A weight whose codes are all the largest or the smallest, and zero points its opposites."""
    if isinstance(weight, Coded):
        return Coded(np.full_like(weight.signs, largest), weight.terms)
    most = (1 << planes) - 1
    half = 0 if weight.zeros is not None else 1 << (planes - 1)
    code, zero = (most, 0) if largest else (0, most)
    zeros = None if half else np.full_like(weight.zeros, zero)
    return Quantized(np.full_like(weight.codes, code - half), weight.scales, zeros)


@EVERY
@pytest.mark.parametrize("number", NUMBERS)
def test_zeros_and_strange_activations(loaded, number):
    one = loaded.kernels[number]
    rng, x = activation(one, seed=1)
    coded = random_weight(one, rng)
    for c in coded:
        if isinstance(c, Quantized):
            c.scales[::3] = 0
        elif one.scaling.kind == "planes":
            c.terms[:, :, -1] = 0
            c.terms[:: 1 if one.scaling.shared else 3, 0] = 0
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
    coded = random_weight(one, rng)
    # Small whole numbers are their own entries, and scales are 1 or 2.
    x = rng.integers(-2, 3, x.shape).astype(np.float32)
    coded = [of_whole_scales(one, c, rng) for c in coded]
    found = loaded(number, x, coded)
    for b, c in enumerate(coded):
        assert np.array_equal(found[b], x[b] @ values(one, c).T), one.name


def of_whole_scales(one, weight, rng):
    """The weight with scales of 1 and 2, where its kernel has any."""
    if isinstance(weight, Quantized):
        scales = rng.integers(1, 3, weight.scales.shape).astype(np.float32)
        return Quantized(weight.codes, scales, weight.zeros)
    if one.scaling.kind == "ternary":
        return weight
    scales = rng.integers(1, 3, weight.terms.shape[:-1])
    if one.scaling.shared:
        scales[:] = scales[:1]
    return Coded(weight.signs, powers.project(scales, 1))


def values(one, weight):
    """What ``[N, K]`` the codes of a weight stand for."""
    k = one.rows.k
    if isinstance(weight, Quantized):
        codes = weight.codes.astype(np.float64)
        if weight.zeros is not None:
            codes -= weight.zeros[..., None]
        return (codes * weight.scales[..., None]).reshape(one.n, -1)[:, :k]
    scales = np.repeat(powers.values(weight.terms), one.group, axis=1)[:, :k]
    return np.einsum("nik,nki->nk", np.where(weight.signs[..., :k], 1, -1), scales)


DYNAMIC = [number for number, case in enumerate(CASES) if case[5]]


@EVERY
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(number=st.sampled_from(DYNAMIC), m=st.integers(1, 40), seed=st.integers(0, 99))
def test_any_number_of_rows(loaded, number, m, seed):
    one = loaded.kernels[number]
    rng, _ = activation(one, seed)
    x = rng.standard_normal((1, m, one.rows.k)) * 10.0 ** rng.integers(-30, 30, (1, m, 1))
    loaded.check(number, x.astype(np.float32), random_weight(one, rng))


@pytest.mark.parametrize("rows", UNITS, indirect=True)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(number=st.integers(0, 13), m=st.integers(1, 9), seed=st.integers(0, 99))
def test_tables_are_those_of_the_definition_to_the_bit(rows, number, m, seed):
    one = rows.kernels[number % len(rows.kernels)]
    rng = np.random.default_rng(seed)
    m = one.m or m
    x = rng.standard_normal((m, one.k)) * 10.0 ** rng.integers(-30, 30, (m, 1))
    x = np.round(x * 8) / 8 if seed % 3 == 0 else x  # entries between two whole numbers
    x = x.astype(np.float32)
    strange = rng.random(x.shape) < 0.01 * (seed % 2)
    x[strange] = rng.choice(STRANGE, int(strange.sum()))
    records = rows.run(number % len(rows.kernels), x)
    wanted = tables.quantize(x, one.format)
    entries = records.view(np.uint8)[:, : 4 * one.first_scale].astype(np.int16) - one.bias
    entries = entries.astype(np.int8).reshape(wanted.entries.shape)
    if one.by_four:
        entries = entries[..., sign_panels.places(one.quads), :]
    assert np.array_equal(entries, wanted.entries)
    if one.has_sums:
        sums = records.view(np.int32)[:, one.first_sum : one.first_sum + one.spans]
        assert np.array_equal(sums, wanted.entries[..., -1].sum(axis=-1, dtype=np.int32))
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


def test_four_quads_at_once_need_permutations_and_whole_words():
    assert looks_up_four(ISAS["avx512vbmi"], TableFormat(8, 32))
    assert not looks_up_four(ISAS["avx512vbmi"], TableFormat(8, 16))
    assert not looks_up_four(ISAS["avx512vnni"], TableFormat(8, 32))


def test_panels_are_read_side_by_side_where_rows_are_few():
    one, many = (kernel("avx512", (m, 4096, 4096), 2, 128) for m in (1, 64))
    assert one.together(1) == 2
    assert not one.is_whole(2)  # a thread's share may be any number of panels
    assert many.together(many.tile.rows) == 1


def test_no_two_kernels_share_a_name():
    # Short spans are looked up in one way with and without VBMI.
    made = [one for unit in ("avx512vbmi", "avx2") for one in kernels(unit)]
    assert len({one.name for one in made}) == len(made)
    assert len({one.rows.name for one in made}) == len({one.rows for one in made})


def test_the_bits_of_a_weight_are_all_there_is():
    one = kernel("avx512", (1, 4096, 4096), 2, 128)
    rng = np.random.default_rng(0)
    keys, scales = operands(one, random_weight(one, rng))
    assert 8 * (keys.nbytes + scales.nbytes) == 4096 * 4096 * 2 * (1 + 16 / 128)
