"""Tiles of every family, compiled alone, give what the definition of their form says."""

import dataclasses

import numpy as np
import pytest
from lowc.compiler.backend import vector_unit
from lowc.compiler.measuring import portable
from lowc.compiler.measuring.data import Data
from lowc.compiler.measuring.modules import operands
from lowc.compiler.target import load_target
from lowc.passes.tiling import families, space
from products import floats, integers, kernels, lookups
from products.problems import of_two_activations, problem

RNG_SEED = 7
TILES = 5


def some(one):
    """The default, and others from all over the space."""
    found = space.candidates(one)
    return [found[0], *found[1 :: max(1, len(found) // TILES)]][: TILES + 1]


@pytest.fixture(scope="module")
def unit():
    return vector_unit(load_target("cpu"))


def test_scales_have_as_many_powers_of_two_as_the_code_adds():
    one = dataclasses.replace(problem("shift-add", "avx2", 1, 2, 4, 128), lowering="linalg")
    _, _, scales = Data(one).operands(space.candidates(one)[0])
    exponents = scales.reshape(-1, 1) >> 8 * np.arange(4) & 255
    assert (exponents[:, : portable.TERMS] > 0).all() and not exponents[:, portable.TERMS :].any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "helper"), [("f32", floats), ("lmul", kernels), ("packed f32", floats), ("packed lmul", kernels)]
)  # fmt: skip
def test_floats_and_added_products(form, helper, unit, tmp_path):
    name = form.rpartition(" ")[2]
    one = problem(name, unit, 1, 37, 150, 130)
    if form.startswith("packed"):
        one = of_two_activations(name, unit, 2, 37, 70, 90)
    made = [families.kernel_of(one, tiling) for tiling in some(one)]
    loaded = helper.Loaded(helper.compile_kernels(made, "cpu", tmp_path), made)
    rng = np.random.default_rng(RNG_SEED)
    batch, m, n, k = one.sizes
    a = rng.standard_normal((batch, m, k)).astype(np.float32)
    b = rng.standard_normal((batch if one.own_batch else 1, k, n)).astype(np.float32)
    for number in range(len(made)):
        loaded.check(number, a, b)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["w4a8", "w8a8"])
def test_integers(form, unit, tmp_path):
    one = problem(form, unit, 1, 21, 150, 64)
    made = [families.kernel_of(one, tiling) for tiling in some(one)]
    loaded = integers.Loaded(integers.compile_kernels(made, "cpu", tmp_path), made)
    rng = np.random.default_rng(RNG_SEED)
    x, w = (rng.standard_normal((1, size, 64)).astype(np.float32) for size in (21, 150))
    for number in range(len(made)):
        loaded.check(number, x, w)


@pytest.mark.slow
def test_look_ups(unit, tmp_path):
    if unit == "portable":
        pytest.skip("there are no kernels of look-ups without AVX2")
    one = problem("shift-add", unit, 1, 21, 150, 128)
    made = [families.kernel_of(one, tiling) for tiling in some(one)]
    loaded = lookups.Loaded(lookups.compile_kernels(made, "cpu", tmp_path), made)
    rng = np.random.default_rng(RNG_SEED)
    x = rng.standard_normal((1, 21, 128)).astype(np.float32)
    coded = lookups.random_weight(made[0], rng)
    for number in range(len(made)):
        loaded.check(number, x, coded)


@pytest.mark.parametrize(
    "one",
    [
        problem("f32", "avx512vnni", 1, 5, 40, 33), problem("pam", "avx2", 1, 5, 40, 33),
        problem("lmul", "avx2", 1, 5, 40, 33, weight="f8E4M3FN", prepares=False),
        of_two_activations("lmul", "avx512", 2, 5, 40, 33), problem("w4a8", "avx2", 1, 5, 40, 33),
        problem("w8a8", "avx512vnni", 1, 3, 40, 64), problem("w4a16", "avx2", 1, 5, 40, 48),
        problem("w4a16", "avx512", 1, 5, 40, 48, weight="nf4", symmetric=True),
        problem("shift-add", "avx2", 1, 5, 40, 100, group=128, span=128),
        problem("shift-add", "avx512vbmi", 1, 5, 40, 100, group=128, span=128, shared=True),
        problem("lut", "avx512vbmi", 1, 5, 40, 128), problem("lut", "avx2", 1, 5, 40, 128, symmetric=True),
        problem("ternary", "avx512vnni", 1, 5, 40, 128),
    ],
    ids=str,
)  # fmt: skip
def test_operands_fit(one):
    """What is drawn has the shapes that the functions take, whatever the tile."""
    data = Data(one)
    widths = {"f32": 4, "i32": 4, "i8": 1}
    for tiling in some(one):
        wanted = operands(one, tiling)
        arrays = data.operands(tiling)
        assert [array.size for array in arrays] == [int(np.prod(part.shape)) for part in wanted]
        assert [array.itemsize for array in arrays] == [widths[part.element] for part in wanted]
