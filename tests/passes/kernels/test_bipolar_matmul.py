"""Kernels of products of bipolar integers against the definition, bit for bit, on every vector unit.

The kernels of a vector unit are compiled into one module, which its tests share.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lowc.passes.kernels.tiles import ISAS, Tile
from products import units
from products.xors import Loaded, columns_of, compile_kernels, kernel

UNITS = ("avx512vnni", "avx512", "avx2vnni", "avx2", "portable")


def kernels(unit):
    """What the tests of a vector unit share; planes, scales, sizes and tiles vary together."""
    lanes = ISAS[unit].lanes
    cut = Tile(lanes, 3, 2, 70, 1, 6)  # many workgroups, each with several blocks of rows
    return [
        kernel(unit, (2, 5, 5 * lanes + 3, 64), 1),
        kernel(unit, (3, 1, 33, 32), 1, "power"),
        kernel(unit, (1, 17, 3 * lanes, 70), 2, tile=cut),
        kernel(unit, (1, 6, 7, 9), 3, "power"),
        kernel(unit, (2, 3, 20, 300), 4),  # more words than a byte can count
        kernel(unit, (1, 2, lanes, 1100), 1),
        kernel(unit, (None, None, None, 40), 1),
        kernel(unit, (2, None, 21, 33), 4, "power"),
        kernel(unit, (1, 6, 7, 36000), 1),  # rows of which few fit on a worker's stack
    ]


NUMBERS = range(9)
DYNAMIC = (6, 7)


@pytest.fixture(scope="module", params=UNITS)
def loaded(request, tmp_path_factory):
    unit = request.param
    target = units.target(unit)
    made = kernels(unit)
    return Loaded(compile_kernels(made, target, tmp_path_factory.mktemp(unit)), made)


def operands(one, seed=0, m=6, n=37):
    """Both operands, with rows of zeros, of one sign, and of huge and tiny numbers."""
    rng = np.random.default_rng([seed, one.codes.k])
    batch, m, n = one.batch or 2, one.m or m, one.n or n
    x = rng.standard_normal((batch, m, one.codes.k)).astype(np.float32)
    y = rng.standard_normal((batch, one.codes.k, n)).astype(np.float32)
    x[:, 1::5], x[:, 2::5] = 0, np.abs(x[:, 2::5])
    x[:, 3::5] *= np.float32(1e15)
    y[..., 1::4] *= np.float32(1e-10)
    return rng, x, y


@pytest.mark.parametrize("number", NUMBERS)
def test_products_are_those_of_the_definition(loaded, number):
    _, x, y = operands(loaded.kernels[number])
    loaded.check(number, x, y)
    loaded.check(number, -np.abs(x), np.abs(y))


@pytest.mark.parametrize("number", NUMBERS)
def test_strange_rows(loaded, number):
    rng, x, y = operands(loaded.kernels[number], seed=1)
    for operand in (x, y):
        strange = rng.random(operand.shape) < 0.3 / operand.shape[-1]
        operand[strange] = rng.choice(np.float32([np.inf, -np.inf, np.nan]), int(strange.sum()))
    loaded.check(number, x, y)


@pytest.mark.parametrize("number", NUMBERS)
def test_magnitudes_whose_sum_is_beyond_f32_give_numbers(loaded, number):
    one = loaded.kernels[number]
    _, x, y = operands(one, seed=2)
    x[...], y[...] = np.float32(3e38) * np.sign(x + 0.5), np.sign(y) * np.float32(2.0**-70)
    loaded.check(number, x, y)
    assert not np.isnan(loaded.run(number, x, y)).any()


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    number=st.sampled_from(DYNAMIC), m=st.integers(1, 40), n=st.integers(1, 90),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_any_number_of_rows_and_columns(loaded, number, m, n, seed):
    one = loaded.kernels[number]
    _, x, y = operands(one, seed, m, n)
    loaded.check(number, x, y)


def test_no_two_kernels_share_a_name():
    made = [one for unit in UNITS for one in kernels(unit)]
    assert len({one.name for one in made}) == len(made)
    coders = {columns_of(one) for one in made}
    assert len({coder.name for coder in coders}) == len(
        {(c.batch, c.n, c.codes, c.tile.lanes, c.tile.vectors) for c in coders}
    )


def test_the_portable_kernels_compile_for_arm(tmp_path):
    made = [kernels("portable")[number] for number in (0, 7)]
    arm = ("--iree-llvmcpu-target-triple=aarch64-unknown-unknown-eabi-elf",)
    path = compile_kernels(made, "cpu:generic", tmp_path, arm)
    assert b"embedded-elf-arm_64" in path.read_bytes()
