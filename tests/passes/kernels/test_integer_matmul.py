"""Kernels of integer products against the definition, on every vector unit that runs here.

All kernels of a vector unit are compiled into one module, which its tests share.
"""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lowc.passes.kernels.tiles import ISAS, Tile
from lowc.passes.kernels.work_split import makespan
from products import units
from products.integers import Loaded, compile_kernels, kernel, number_format
from products.integers import operands as packed

# sizes, bits, group, per group, symmetric, dynamic
CASES = [
    ((5, 70, 128), 4, 32, True, True, False),
    ((7, 33, 80), 4, 16, True, False, True),
    ((1, 130, 256), 4, 128, True, True, False),
    ((9, 70, 300), 8, 320, False, True, False),
    ((13, 40, 300), 8, 64, True, False, True),
    ((1, 64, 96), 8, 128, False, True, False),
    ((5, 40, 200), 2, 64, True, False, False),
    ((2, 31, 100), 3, 32, True, True, False),
    ((5, 40, 100), 5, 32, False, False, False),
    ((6, 17, 100), 6, 48, True, True, True),
    ((70, 40, 256), 7, 128, True, False, False),
    ((3, 1, 1), 4, 16, True, True, False),
    ((3, 40, 700), 8, 320, True, False, True),  # sums of a group do not fit 16 bits
    # A sum for each bit at which codes stand, with VNNI: one row, several chunks in a group.
    *(((1, 70, 256), bits, 128, True, bits % 2 == 0, False) for bits in (2, 3, 5, 6, 7)),
    ((2, 40, 384), 2, 192, True, False, False),
    ((1, 40, 96), 4, 48, True, True, False),  # chunks of 16
]
# sizes, bits, group, per group, symmetric, dynamic; with scales of f16 where there is an instruction.
HALVES = [
    ((1, 70, 100), 4, 32, True, True, False),
    ((4, 31, 256), 4, 128, True, True, False),
    ((20, 33, 70), 4, 32, True, True, False),
    ((64, 17, 64), 4, 32, True, True, False),
    ((6, 40, 200), 8, 64, False, False, True),
    ((1, 50, 96), 3, 32, True, False, False),
    ((3, 65, 90), 4, 16, False, True, False),
]
STRANGE = np.array([0, -0.0, 1e-45, 2.0**-121, 1e30, -1e30, np.inf, -np.inf, np.nan], np.float32)


def kernels(unit):
    """What the tests of a vector unit share: the cases, a batch of weights, another tile."""
    lanes = ISAS[unit].lanes
    cut = Tile(lanes, 2, 1, 0, 1, 4)  # many workgroups, each with several blocks of rows
    side = Tile(lanes, 1, 1, 0, 7, 1)  # panels side by side, and some that are left
    return [
        *(
            kernel(unit, sizes, bits, group, per_group=own, symmetric=symmetric, dynamic=dynamic)
            for sizes, bits, group, own, symmetric, dynamic in CASES
        ),
        kernel(unit, (5, 20, 64), 4, 32, batch=3),
        kernel(unit, (11, 2 * lanes + 3, 96), 4, 32, tile=cut),
        kernel(unit, (1, 13 * lanes + 3, 96), 4, 32, symmetric=False, tile=side),
        kernel(unit, (1, 14 * lanes, 70), 8, 96, per_group=False, tile=side),
        # Rounds its own rows, in each of four workgroups those that it has.
        kernel(unit, (4, 3 * lanes, 96), 4, 32, tile=Tile(lanes, 1, 1, 0, 2, 2)),
        *pairs(unit),
    ]


def pairs(unit):
    """Kernels with scales of f16, each followed by the same one with scales of f32."""
    cases = HALVES if ISAS[unit].halves else []
    return [of_halves(unit, case, halves=halves) for case in cases for halves in (True, False)]


def of_halves(unit, case, *, halves):
    sizes, bits, group, own, symmetric, dynamic = case
    facts = {"per_group": own, "symmetric": symmetric, "dynamic": dynamic}
    return kernel(unit, sizes, bits, group, halves=halves, **facts)


@pytest.fixture(scope="module")
def loaded(request, tmp_path_factory):
    unit = request.param
    target = units.target(unit)
    made = kernels(unit)
    path = compile_kernels(made, target, tmp_path_factory.mktemp(unit))
    both = Loaded(path, made)
    both.alone = Loaded(path, made, "cpu-sync")
    return both


def operands(one, seed=0):
    rng = np.random.default_rng([seed, one.n, one.rows.k])
    m = one.m or 6
    x = rng.standard_normal((one.batch, m, one.rows.k)).astype(np.float32)
    return rng, x, rng.standard_normal((one.batch, one.n, one.rows.k)).astype(np.float32)


EVERY = pytest.mark.parametrize("loaded", units.INTEGER_UNITS, indirect=True)
WITH_HALVES = [unit for unit in units.INTEGER_UNITS if ISAS[unit].halves]
NUMBERS = range(len(CASES) + 5)


@EVERY
@pytest.mark.parametrize("number", NUMBERS)
def test_products_are_those_of_the_definition(loaded, number):
    one = loaded.kernels[number]
    _, x, weights = operands(one)
    loaded.check(number, x, weights)


@EVERY
def test_however_many_threads_share_the_panels(loaded):
    found = []
    for number, one in enumerate(loaded.kernels):
        if one.reads_once:
            _, x, weights = operands(one)
            alone = loaded.alone(number, x, weights)
            np.testing.assert_array_equal(alone, loaded(number, x, weights))
            found.append(one.portions)
    assert max(found) > 4  # more than workgroups, on one thread and on two


@EVERY
@pytest.mark.parametrize("number", NUMBERS)
def test_the_smallest_and_largest_codes_do_not_saturate(loaded, number):
    one = loaded.kernels[number]
    _, x, weights = operands(one)
    loaded.check(number, np.sign(x), np.sign(weights))
    for sign in (1, -1):
        loaded.check(number, np.ones_like(x), np.full_like(weights, sign))


@EVERY
@pytest.mark.parametrize("number", NUMBERS)
def test_zeros_and_strange_activations(loaded, number):
    one = loaded.kernels[number]
    rng, x, weights = operands(one, seed=1)
    weights[:, ::3] = 0
    x[:, ::2] = 0
    strange = rng.random(x.shape) < 0.02
    x[strange] = rng.choice(STRANGE, int(strange.sum()))
    loaded.check(number, x, weights)
    x[...] = 2.0**-125  # rounds to nothing: below the smallest scale
    loaded.check(number, x, weights)


@pytest.mark.parametrize("loaded", WITH_HALVES, indirect=True)
def test_scales_of_f16_give_the_bits_of_the_same_scales_in_f32(loaded):
    for number in range(len(NUMBERS), len(loaded.kernels), 2):
        half, wide = loaded.kernels[number : number + 2]
        assert half.has_halves and not wide.has_halves
        rng, x, weights = operands(half)
        weights *= 10.0 ** rng.integers(-12, 12, (1, half.n, 1))  # with factors of all sizes
        weights = weights.astype(np.float32)
        weights[:, 3::7] = 0
        loaded.check(number, x, weights)
        given = packed(wide, weights, number_format(half))
        wanted = loaded.run(number + 1, x.reshape(-1, x.shape[-1]), *given)
        np.testing.assert_array_equal(loaded(number, x, weights), wanted)


DYNAMIC = [number for number, case in enumerate(CASES) if case[-1]]


@EVERY
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(number=st.sampled_from(DYNAMIC), m=st.integers(1, 40), seed=st.integers(0, 99))
def test_any_number_of_rows(loaded, number, m, seed):
    one = loaded.kernels[number]
    rng, _, weights = operands(one, seed)
    x = rng.standard_normal((1, m, one.rows.k)) * 10.0 ** rng.integers(-30, 30, (1, m, 1))
    loaded.check(number, x.astype(np.float32), weights)


def test_panels_are_read_side_by_side_where_rows_are_few():
    one, many = (kernel("avx512", (m, 4096, 4096), 8, 4096, per_group=False) for m in (1, 64))
    assert one.together(1) == 4
    assert not one.is_whole(4)  # a thread's share may be any number of panels
    assert many.is_whole(1)
    assert many.together(many.tile.rows) == 1
    # Scales of groups are read beside their panels.
    assert kernel("avx512", (1, 4096, 4096), 4, 32).together(1) == 2
    # Two sums for each: all registers would go to them.
    assert kernel("avx512", (4, 4096, 4096), 4, 32).together(4) == 1


def test_few_small_rows_are_rounded_by_the_product_itself():
    def rounds(*sizes, **more):
        return kernel("avx512vnni", sizes, 4, 32, **more).rounds

    assert rounds(1, 1536, 384) and rounds(1, 384, 1536) and rounds(4, 384, 384)
    assert rounds(4, 4096, 4096)
    assert not rounds(4, 4096, 4608)  # each workgroup would take a while
    assert kernel("portable", (1, 64, 4096), 4, 32).rounds
    assert not kernel("portable", (1, 64, 4608), 4, 32).rounds  # nor have its stack
    assert not rounds(5, 64, 64)
    assert not rounds(1, 64, 64, dynamic=True)  # may be any number


@pytest.mark.parametrize("m", [1, 4, 8, 16, 64, 128])
@pytest.mark.parametrize(("n", "k"), [(4096, 4096), (384, 1536), (1536, 384), (192, 4096)])
def test_two_threads_get_nearly_the_same_work(m, n, k):
    one = kernel("avx512vnni", (m, n, k), 8, k, per_group=False)
    groups = [min(one.portion, one.panels - p) for p in range(0, one.panels, one.portion)]
    if one.reads_once:  # as many workgroups as two threads get
        count = min(one.portions, 2 * one.shares)
        each, over = divmod(one.portions, count)
        firsts = [number * each + min(number, over) for number in range(count + 1)]
        groups = [sum(groups[first:last]) for first, last in itertools.pairwise(firsts)]
    chunks = [min(one.tile.row_chunk, m - r) for r in range(0, m, one.tile.row_chunk)]
    items = [panels * rows for rows in chunks for panels in groups]
    last, _ = makespan(items, 2)
    assert last <= 0.6 * sum(items)


@pytest.mark.parametrize("m", [1, 16, 128, None])
def test_few_panels_are_shared_out_one_by_one(m):
    # Six panels of 32: pairs of them would be three workgroups on two cores.
    one = kernel("avx512", (m or 1, 192, 1024), 8, 1024, per_group=False, dynamic=m is None)
    assert (one.panels, one.tile.panels) == (6, 1)


def test_the_portable_kernels_compile_for_arm(tmp_path):
    made = [kernel("portable", (5, 37, 96), bits, 32, dynamic=bits == 8) for bits in (3, 4, 8)]
    arm = ("--iree-llvmcpu-target-triple=aarch64-unknown-unknown-eabi-elf",)
    path = compile_kernels(made, "cpu:generic", tmp_path, arm)
    assert b"embedded-elf-arm_64" in path.read_bytes()


def test_no_two_kernels_share_a_name():
    made = [one for unit in units.INTEGER_UNITS for one in kernels(unit)]
    assert len({one.name for one in made}) == len(made)


def test_codes_stay_where_they_are_while_it_saves_shifts():
    def levels(bits, group, rows=1, unit="avx512vnni"):
        one = kernel(unit, (rows, 4096, 4096), bits, group)
        return one.dot.levels(4 * rows, rows, group)

    found = {bits: levels(bits, 128) for bits in range(2, 9)}
    wanted = {2: (0, 2, 4, 6), 3: (0, 3, 5), 4: (0, 4), 5: (0, 3), 6: (0, 2), 7: (0, 1), 8: (0,)}
    assert found == wanted
    assert levels(4, 32) == (0, 4)
    assert levels(4, 32, rows=2) == (0,)  # more instructions in the end than shifts
    assert levels(2, 128, rows=4) == (0,)  # more sums than registers
    assert levels(4, 128, unit="avx512") == (0,)  # 16 bits hold no such products


def test_codes_are_shifted_where_a_sum_could_overflow():
    """Of a code times 2^p: the sum itself may wrap on its way, since its end fits; a shift's may not."""
    dot = kernel("avx512vnni", (1, 64, 64), 4, 32).dot
    longest = (2**31 - 1) // (255 * 127) // 32 * 32
    assert dot.levels(4, 1, longest) == (0, 4)
    assert dot.levels(4, 1, longest + 32) == (0,)


@pytest.mark.parametrize("bits", range(2, 8))
def test_sums_of_pairs_fit_16_bits(bits):
    one = kernel("avx512", (4, 16, 32), bits, 32)
    most = 2 * (2**bits - 1) * 127
    assert most * one.dot.pairs < 2**15 <= most * (one.dot.pairs + 1)
