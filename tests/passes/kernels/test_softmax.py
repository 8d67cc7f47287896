"""Kernels of softmax against NumPy, on every vector unit that can be run."""

import math

import numpy as np
import pytest
from iree.compiler import ir
from lowc.passes import build
from lowc.passes.kernels import executable, tiles
from lowc.passes.kernels.softmax import Softmax
from products import units
from products.modules import LoadedModule, add_function, compile_functions

INF, NAN = math.inf, math.nan
# Shapes with what the addend has of them; sizes after a None are those that are tried.
SHAPES = {
    "one of all": ((1,), None),
    "one vector and a rest": ((3, 21), None),
    "rounds and a rest": ((5, 150), None),
    "whole rounds": ((7, 128), None),
    "whole vectors": ((7, 80), None),
    "longer than an item": ((2, 9000), None),
    "masked": ((2, 3, 5, 37), (True, False, True, True)),
    "a mask for all": ((2, 3, 64), (False, False, True)),
    "as long as x": ((4, 33), (True, True)),
}
DYNAMIC = {
    "rows": ((None, 40), None),
    "columns": ((3, None), None),
    "all, masked": ((None, 2, None, None), (True, False, True, True)),
}
ALL = SHAPES | DYNAMIC


def kernels_of(unit):
    lanes = tiles.ISAS[unit].lanes
    return [Softmax(*given, zeros, lanes) for given in ALL.values() for zeros in (False, True)]


def add(module, name, kernel):
    sizes = [build.DYNAMIC if size is None else size for size in kernel.shape]
    x = build.tensor_type(sizes, ir.F32Type.get())
    own = kernel.addend or ()
    added = [size if has else 1 for size, has in zip(sizes, own, strict=False)]
    types = [x, build.tensor_type(added, ir.F32Type.get())] if own else [x]

    def value(*operands):
        dims = [build.dim(operands[0], axis) for axis in range(len(sizes))]
        opened = [dim for dim, size in zip(dims, kernel.shape, strict=True) if size is None]
        flags = [True] * len(operands) + [False]
        executable.declare(module, kernel.name, flags, len(opened), kernel.translation, kernel.emit)
        grid = kernel.grid(dims)
        return executable.dispatch(kernel.name, grid, opened, operands, x, opened).results[0]

    add_function(module, name, types, x, value)


@pytest.fixture(scope="module", params=units.FLOAT_UNITS)
def compiled(request, tmp_path_factory):
    unit = request.param
    target = units.target(unit)
    kernels = kernels_of(unit)
    folder = tmp_path_factory.mktemp(unit)
    return LoadedModule(compile_functions(kernels, add, target, folder), kernels)


def reference(x, addend, zeros):
    """Softmax in f64, by the definition."""
    if x.size == 0:
        return x
    with np.errstate(invalid="ignore"):
        value = (x if addend is None else x + addend).astype(np.float64)
        largest = value.max(-1, keepdims=True)
        powers = np.exp(value - largest)
        found = powers / powers.sum(-1, keepdims=True)
    return np.where(largest == -INF, 0, found) if zeros else found


def check(compiled, name, sizes, change=lambda x, addend: None, seed=0):
    """Compare both kernels called `name` with NumPy, on random numbers that `change` changes."""
    random = np.random.default_rng(seed)
    x = random.normal(0, 3, sizes).astype(np.float32)
    own = ALL[name][1]
    addend = None
    if own is not None:
        shape = [size if has else 1 for size, has in zip(sizes, own, strict=True)]
        addend = random.normal(0, 1, shape).astype(np.float32)
    change(x, addend)
    for zeros in (False, True):
        number = 2 * list(ALL).index(name) + zeros
        found = compiled.run(number, *([x] if addend is None else [x, addend]))
        expected = reference(x, addend, zeros)
        assert found.shape == expected.shape and found.dtype == np.float32
        # Four roundings, and those of as many additions as a row is long.
        np.testing.assert_allclose(found, expected, rtol=3e-6, atol=1e-37, equal_nan=True)


@pytest.mark.parametrize("name", SHAPES)
def test_static_sizes(compiled, name):
    check(compiled, name, SHAPES[name][0])


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("rows", (1, 40)), ("rows", (33, 40)),
        ("columns", (3, 0)), ("columns", (3, 1)), ("columns", (3, 64)), ("columns", (3, 259)),
        ("all, masked", (1, 2, 1, 1)), ("all, masked", (3, 2, 5, 67)),
    ],
)  # fmt: skip
def test_dynamic_sizes(compiled, name, sizes):
    check(compiled, name, sizes)


@pytest.mark.parametrize("name", ["rounds and a rest", "masked", "whole rounds"])
def test_rows_that_are_not_plain_numbers(compiled, name):
    """In rows of their own: infinities, NaN beside numbers and beside nothing, far-apart numbers."""

    def change(x, addend):
        rows = x.reshape(-1, x.shape[-1])
        rows[0] = -INF
        rows[1, 3], rows[1, 4:] = 0.5, -INF
        rows[2, 7] = INF
        rows[3] = -INF
        rows[3, 5] = NAN
        rows[4, -1] = NAN
        if addend is not None:
            addend[..., 1:3] = -INF
        if len(rows) > 6:
            rows[5], rows[5, 2] = -1e30, 3e38
            rows[6] = 3e38

    check(compiled, name, SHAPES[name][0], change)


def test_a_mask_that_leaves_nothing_gives_zeros_or_nan(compiled):
    def change(_x, addend):
        addend[0, 0, 2] = -INF

    check(compiled, "masked", SHAPES["masked"][0], change)


def test_names_tell_kernels_apart():
    kernels = [kernel for unit in units.FLOAT_UNITS for kernel in kernels_of(unit)]
    assert len({kernel.name for kernel in kernels}) == len(set(kernels)) == len(kernels)
