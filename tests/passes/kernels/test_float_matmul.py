"""Kernels of f32 products against NumPy, on every vector unit that can be run."""

import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lowc.passes.kernels import tiles
from lowc.passes.kernels.float_matmul import Heads
from lowc.passes.kernels.tiles import Tile
from products import units
from products.floats import Loaded, compile_kernels, kernel

BEYOND = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-40], np.float32)


def static_of(unit):
    """Kernels by name: sizes, tiles and flags vary together."""
    lanes = tiles.ISAS[unit].lanes
    rows, small = (8, Tile(lanes, 8, 3, lanes, 2, 16))
    return {
        "one of all": kernel(unit, (1, 1, 1, 1)),
        "one row": kernel(unit, (1, 1, 5 * lanes + 3, 70)),
        "four rows, one column": kernel(unit, (1, 4, 1, 37)),
        "a few rows in blocks of K": kernel(
            unit, (1, 3, 6 * lanes, 5 * lanes + 1), tile=Tile(lanes, 3, 4, 2 * lanes, 1, 3)
        ),
        "whole tiles": kernel(unit, (1, 2 * rows, 6 * lanes, 4 * lanes)),
        "odd": kernel(unit, (1, 23, 7 * lanes - 1, 51)),
        "rows a power of two apart": kernel(unit, (2, 13, 3 * lanes, 256), own=True),
        "blocks, copied": kernel(unit, (1, 19, 7 * lanes + 3, 3 * lanes + 5), tile=small, copies=True),
        "blocks": kernel(unit, (2, 19, 7 * lanes + 3, 3 * lanes + 5), tile=small, copies=False),
        "packs": kernel(unit, (3, 9, 5 * lanes + 3, 17), own=True, packs=True),
        "packs blocks": kernel(
            unit, (1, 13, 7 * lanes, 2 * lanes + 5), packs=True, copies=True, tile=small
        ),
        "reads where it is": kernel(unit, (3, 24, 2 * lanes, 19), own=True, packs=True),
        "reads where it is, one B": kernel(unit, (2, 7, 6 * lanes, 16), packs=True),
        "packs for all batches": kernel(unit, (3, 5, 7, 30), packs=True),
        "heads, columns turned": kernel(
            unit, (6, 19, 2 * lanes + 3, lanes + 2), own=True, packs=True, heads=Heads(3, "ab", True)
        ),
        "heads of columns and results": kernel(
            unit, (4, 9, 2 * lanes, 21), own=True, packs=True, heads=Heads(2, "bc")
        ),
        "turned blocks": kernel(
            unit, (2, 7, 5 * lanes, 2 * lanes + 1), own=True, packs=True, tile=small,
            heads=Heads(turned=True),
        ),
    }  # fmt: skip


def dynamic_of(unit):
    """Kernels with sizes that are only known at run time."""
    lanes = tiles.ISAS[unit].lanes
    small = Tile(lanes, 5, 2, lanes, 2, 15)
    return {
        "rows": kernel(unit, (1, None, 37, 29)),
        "all": kernel(unit, (None,) * 4, own=True),
        "all, packed": kernel(unit, (None,) * 4, own=True, packs=True),
        "small tile": kernel(unit, (None, None, 43, None), tile=small),
        "heads": kernel(
            unit, (None,) * 4, own=True, packs=True, tile=small, heads=Heads(1, "abc", True)
        ),
    }


STATIC, DYNAMIC = list(static_of("portable")), list(dynamic_of("portable"))


@functools.cache
def _kernels(unit):
    return {**static_of(unit), **dynamic_of(unit)}


@pytest.fixture(scope="module", params=units.FLOAT_UNITS)
def compiled(request, tmp_path_factory):
    """Every kernel of a vector unit: its name and what it is loaded as."""
    unit = request.param
    target = units.target(unit)
    kernels = list(_kernels(unit).values())
    return unit, Loaded(compile_kernels(kernels, target, tmp_path_factory.mktemp(unit)), kernels)


def check(compiled, name, sizes, seed=0, *, strange=False):
    unit, loaded = compiled
    kernels = _kernels(unit)
    batch, m, n, k = sizes
    rng = np.random.default_rng([seed, *sizes])
    a = rng.standard_normal((batch, m, k)).astype(np.float32)
    b = rng.standard_normal((batch if kernels[name].b_batch else 1, k, n)).astype(np.float32)
    if strange:  # in A only: what an infinite weight meets beyond N is nobody's business
        chosen = rng.random(a.shape) < 0.02
        a[chosen] = rng.choice(BEYOND, int(chosen.sum()))
    loaded.check(list(kernels).index(name), a, b)


@pytest.mark.slow
@pytest.mark.parametrize("name", STATIC)
@pytest.mark.parametrize("strange", [False, True], ids=["random", "extremes"])
def test_static_sizes(compiled, name, strange):
    check(compiled, name, _kernels(compiled[0])[name].sizes, strange=strange)


SIZES = st.tuples(
    st.integers(1, 3), st.one_of(st.integers(1, 40), st.integers(300, 420)), st.integers(1, 90),
    st.integers(1, 90),
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", DYNAMIC)
@settings(
    max_examples=30, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)  # fmt: skip
@given(sizes=SIZES, seed=st.integers(0, 1 << 20))
@example(sizes=(1, 1, 1, 1), seed=0)
@example(sizes=(2, 203, 64, 600), seed=0)
@example(sizes=(1, 1, 65, 1025), seed=0)
def test_dynamic_sizes(compiled, name, sizes, seed):
    known = _kernels(compiled[0])[name].sizes
    sizes = tuple(s if fixed is None else fixed for s, fixed in zip(sizes, known, strict=True))
    check(compiled, name, sizes, seed)


@pytest.mark.slow
def test_every_number_of_rows(compiled):
    for m in range(1, 20):
        check(compiled, "rows", (1, m, 37, 29), seed=m)


def test_kernels_that_differ_have_different_names():
    kernels = [one for unit in units.FLOAT_UNITS for one in _kernels(unit).values()]
    kernels += [dataclasses.replace(one, copies=not one.copies) for one in kernels]
    names = {one.name: one for one in kernels}
    assert all(names[one.name] == one for one in kernels)


@pytest.mark.slow
def test_the_portable_kernel_compiles_for_arm(tmp_path):
    kernels = [kernel("portable", (1, None, 37, 29)), kernel("portable", (1, 5, 37, 29))]
    arm = ("--iree-llvmcpu-target-triple=aarch64-unknown-unknown-eabi-elf",)
    path = compile_kernels(kernels, "cpu:generic", tmp_path, arm)
    assert b"embedded-elf-arm_64" in path.read_bytes()


def test_a_small_right_operand_is_read_where_it_is():
    def one(n, k, **more):
        return kernel("avx512vnni", (12, 128, n, k), own=True, **{"packs": True, **more})

    assert one(128, 32).in_place and one(32, 128).in_place
    assert (one(128, 32).tile.rows, one(128, 128).tile.rows) == (8, 12)
    assert not one(128, 64).in_place  # half of the first cache does not hold it
    assert not one(120, 32).in_place  # columns that are not there would be read
    assert not one(128, 32, packs=False).in_place
    assert not kernel("avx512vnni", (12, 128, None, 32), own=True, packs=True).in_place
