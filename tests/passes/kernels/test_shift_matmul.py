"""Kernels of shifts and of signed sums against their definitions, bit for bit, on every vector unit.

The kernels of a vector unit are compiled into one module, which its tests share.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lowc.passes.formats import powers
from lowc.passes.formats.binary_codes import Coded
from lowc.passes.kernels.shift_matmul import ShiftMatmul
from lowc.passes.kernels.signed_matmul import refusal
from lowc.passes.kernels.tiles import ISAS, Tile
from products import units
from products.shifts import (
    Loaded,
    coded_weight,
    compile_kernels,
    shift_kernel,
    shift_weight,
    signed_kernel,
)

STRANGE = np.array([0, -0.0, 1e-45, 1e30, -1e30, 3e38, np.inf, -np.inf, np.nan], np.float32)


def kernels(unit):
    """What the tests of a vector unit share; sizes, tiles and batches vary together."""
    lanes = ISAS[unit].lanes
    cut = Tile(lanes, 3, 4, 2 * lanes, 1, 6)  # blocks of K, many workgroups
    return [
        shift_kernel(unit, (1, 1, 5 * lanes + 3, 70)),
        shift_kernel(unit, (1, None, 70, 33)),
        shift_kernel(unit, (3, 5, 20, 64), own=True),
        shift_kernel(unit, (2, 17, 9 * lanes + 1, 5 * lanes + 1), tile=cut),
        shift_kernel(unit, (1, 2, 1, 1)),
        signed_kernel(unit, (1, 1, 5 * lanes + 3, 300), 2, 128),
        signed_kernel(unit, (1, None, 70, 130), 3, 64, 2),
        signed_kernel(unit, (3, 5, 20, 64), 1, 32, own=True),
        signed_kernel(unit, (1, 9, 33, 70), 2, 8, 1),
        signed_kernel(unit, (2, 6, 9, 45), 4, 64, 1),
    ]


NUMBERS = range(10)
SHIFTS = range(5)


@pytest.fixture(scope="module", params=units.FLOAT_UNITS)
def loaded(request, tmp_path_factory):
    unit = request.param
    target = units.target(unit)
    made = kernels(unit)
    return Loaded(compile_kernels(made, target, tmp_path_factory.mktemp(unit)), made)


def operands(one, seed=0):
    rng = np.random.default_rng([seed, one.n, one.k])
    x = rng.standard_normal((one.batch, one.m or 6, one.k)).astype(np.float32)
    weight = shift_weight if isinstance(one, ShiftMatmul) else coded_weight
    return rng, x, weight(one, rng)


@pytest.mark.parametrize("number", NUMBERS)
def test_products_are_those_of_the_definition(loaded, number):
    _, x, weight = operands(loaded.kernels[number])
    loaded.check(number, x, weight)
    x[..., ::3] = 0  # what a ReLU leaves
    loaded.check(number, x, weight)
    loaded.check(number, np.zeros_like(x), weight)


@pytest.mark.parametrize("number", NUMBERS)
def test_strange_activations(loaded, number):
    rng, x, weight = operands(loaded.kernels[number], seed=1)
    strange = rng.random(x.shape) < 0.03
    x[strange] = rng.choice(STRANGE, int(strange.sum()))
    loaded.check(number, x, weight)


@pytest.mark.parametrize("number", NUMBERS)
def test_weights_of_zero_take_no_part(loaded, number):
    one = loaded.kernels[number]
    _, x, weight = operands(one, seed=2)
    x[..., 0] = np.inf
    for w in weight:
        if isinstance(w, Coded):
            w.terms[:] = 0
        else:
            w[:, 0] = 0
    loaded.check(number, x, weight)
    found = loaded(number, x, weight)
    assert np.isfinite(found).all()
    assert isinstance(one, ShiftMatmul) or not found.any()


@pytest.mark.parametrize("number", SHIFTS)
@pytest.mark.parametrize(("exponent", "power"), [(-110, -20), (-126, 20), (100, 27), (20, -95)])
def test_products_that_leave_the_normal_numbers(loaded, number, exponent, power):
    one = loaded.kernels[number]
    rng, x, weight = operands(one, seed=3)
    # Of one sign: no sum is subnormal, of which IREE's threads make zeros.
    x = np.abs(x).astype(np.float64) + 2.0**-5
    x = np.maximum(x * 2.0**exponent, 2.0**-126).astype(np.float32)
    for w in weight:
        w[:] = powers.project(2.0 ** (power + rng.integers(-3, 4, w.shape)).clip(-95, 31), 1)[
            ..., 0
        ]
    loaded.check(number, x, weight)


DYNAMIC = (1, 6)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(number=st.sampled_from(DYNAMIC), m=st.integers(1, 70), seed=st.integers(0, 99))
def test_any_number_of_rows(loaded, number, m, seed):
    one = loaded.kernels[number]
    rng, _, weight = operands(one, seed)
    x = rng.standard_normal((1, m, one.k)) * 10.0 ** rng.integers(-8, 8, (1, m, 1))
    loaded.check(number, x.astype(np.float32), weight)


def test_no_two_kernels_share_a_name():
    made = [one for unit in units.FLOAT_UNITS for one in kernels(unit)]
    assert len({one.name for one in made}) == len(made)


def test_what_there_is_no_kernel_for():
    assert refusal(8, 4096) == refusal(100, 100) == ""
    assert "no multiple of 8" in refusal(4, 4096)


def test_the_portable_kernels_compile_for_arm(tmp_path):
    made = [kernels("portable")[number] for number in (1, 6)]
    arm = ("--iree-llvmcpu-target-triple=aarch64-unknown-unknown-eabi-elf",)
    path = compile_kernels(made, "cpu:generic", tmp_path, arm)
    assert b"embedded-elf-arm_64" in path.read_bytes()
