"""Epilogues in kernels of added products: against NumPy, on every vector unit.

The sums before them are known bit for bit, so that whatever differs comes from the epilogue.
"""

import dataclasses
import math

import ml_dtypes
import numpy as np
import pytest
from lowc.passes.formats.stored import STORED
from lowc.passes.kernels import tiles
from lowc.passes.kernels.additive_matmul import AdditiveMatmul
from lowc.passes.kernels.epilogue import Epilogue, Input, Step
from products import units
from products.kernels import Loaded, addition, compile_kernels, expected, operands


def number(value, element="f32"):
    return Step("arith.constant", (), element, f"{{value = {value:e} : {element}}}")


def f32(name, *operands, attributes="{}"):
    return Step(name, operands, "f32", attributes)


BIAS = Epilogue((Input("columns", "f32"),), (f32("arith.addf", 0, 1),), 2, ("bias",))
RELU = Epilogue(
    (Input("columns", "bf16"), Input("scalar", "f32")),
    (
        f32("arith.extf", 1), f32("arith.addf", 0, 3), f32("arith.mulf", 4, 2), number(0),
        Step("arith.cmpf", (5, 6), "i1", "{predicate = 9 : i64}"),  # ugt: NaN stays
        f32("arith.select", 7, 5, 6),
    ),
    8, ("bias", "relu"),
)  # fmt: skip
GELU = Epilogue(
    (Input("columns", "f32"), Input("full", "f32")),
    (
        f32("arith.addf", 0, 1), number(math.sqrt(2), "f64"), f32("arith.truncf", 4),
        f32("arith.divf", 3, 5), f32("math.erf", 6), number(1), f32("arith.addf", 7, 8),
        number(0.5), f32("arith.mulf", 9, 10), f32("arith.mulf", 3, 11), f32("arith.addf", 12, 2),
    ),
    13, ("bias", "gelu", "residual"),
)  # fmt: skip
CUBE = Epilogue(
    (Input("full", "f32"),),
    (
        Step("arith.constant", (), "i64", "{value = 3 : i64}"), f32("math.fpowi", 0, 2),
        f32("math.tanh", 3), f32("math.exp", 4), f32("arith.mulf", 5, 1),
    ),
    6, ("tanh", "sigmoid", "gate"),
)  # fmt: skip


def _relu(total, bias, factor):
    total = (total + bias.astype(np.float32)) * factor
    return np.where(total <= 0, np.float32(0), total)


def _gelu(total, bias, residual):
    total = (total + bias).astype(np.float64)
    erf = np.vectorize(lambda x: x if math.isnan(x) else math.erf(x))(total / math.sqrt(2))
    return total * (erf + 1) / 2 + residual


EPILOGUES = {
    "bias": (BIAS, lambda total, bias: total + bias),
    "relu": (RELU, _relu),
    "gelu": (GELU, _gelu),
    "cube": (CUBE, lambda total, gate: np.exp(np.tanh(total.astype(np.float64) ** 3)) * gate),
}
# Largest error, relative to the largest magnitude of a result.
BOUNDS = {"bias": 0, "relu": 0, "gelu": 4e-7, "cube": 2e-6}
assert not BIAS.is_long and not RELU.is_long and GELU.is_long and CUBE.is_long


def kernel(unit, name, sizes, real=None, **tile):
    """A kernel with the epilogue `name`, and the sizes that it is run with."""
    stored, isa = STORED["f32"], tiles.ISAS[unit]
    chosen = dataclasses.replace(tiles.choose(isa, *sizes, 1), **tile)
    epilogue = EPILOGUES[name][0]
    found = AdditiveMatmul(*sizes, False, chosen, addition(), stored, True, epilogue=epilogue)
    return name, found, [real or sizes]


def kernels_of(unit):
    """Sizes that are whole tiles or not, one block of K or several, known or not."""
    lanes = tiles.ISAS[unit].lanes
    dynamic = (None, None, None, None)
    several = [(1, 1, 1, 1), (2, 7, 3 * lanes + 1, 5), (1, 13, 70, 2 * lanes + 3), (1, 2, 9, 0)]
    found = {
        "whole": kernel(unit, "bias", (1, 12, 8 * lanes, 2 * lanes)),
        "odd": kernel(unit, "bias", (2, 7, 2 * lanes + 3, 19)),
        "blocks": kernel(unit, "bias", (1, 7, 2 * lanes + 3, 5 * lanes + 1), k_block=2 * lanes),
        "relu": kernel(unit, "relu", (1, 9, 37, 30)),
        "relu of blocks": kernel(unit, "relu", (2, 3, 37, 3 * lanes), k_block=lanes),
        "one row": kernel(unit, "gelu", (1, 1, 70, 33)),
        "gelu": kernel(unit, "gelu", (2, 9, 4 * lanes, 33)),
        "gelu of blocks": kernel(unit, "gelu", (2, 9, 4 * lanes + 1, 2 * lanes), k_block=lanes),
        "cube": kernel(unit, "cube", (1, 5, 43, 3)),
    }
    for name in EPILOGUES:
        label, open_, _ = kernel(unit, name, dynamic, k_block=lanes, row_chunk=12, panels=2)
        found[f"{name}, dynamic"] = (label, open_, several)
    return found


NAMES = list(kernels_of("portable"))


@pytest.fixture(scope="module", params=units.FLOAT_UNITS)
def compiled(request, tmp_path_factory):
    unit = request.param
    target = units.target(unit)
    kernels = [kernel for _, kernel, _ in kernels_of(unit).values()]
    folder = tmp_path_factory.mktemp(unit)
    path = compile_kernels(kernels, target, folder)
    return unit, Loaded(path, kernels)


def extras(rng, epilogue, sizes, strange):
    """Random inputs of an epilogue."""
    batch, m, n, _ = sizes
    shapes = {"columns": (n,), "full": (batch, m, n), "scalar": (1,)}
    dtypes = {"f32": np.float32, "bf16": ml_dtypes.bfloat16}
    found = []
    for given in epilogue.inputs:
        values = rng.standard_normal(shapes[given.kind])
        if strange and given.kind == "full":
            values.flat[::3] = rng.choice([np.nan, np.inf, -np.inf, 0.0], values.flat[::3].size)
        found.append(values.astype(dtypes[given.element]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("strange", [False, True], ids=["random", "extremes"])
def test_epilogues(compiled, name, strange):
    unit, loaded = compiled
    cases = kernels_of(unit)
    what, kernel, runs = cases[name]
    for sizes in runs:
        batch, m, n, k = sizes
        rng = np.random.default_rng([7, *sizes])
        a = rng.standard_normal((batch, m, k)).astype(np.float32)
        b = rng.standard_normal((1, k, n)).astype(np.float32)
        if strange:
            flat = a.reshape(-1)
            flat[::5] = rng.choice(np.float32([np.nan, np.inf, -1e30, 0]), flat[::5].size)
        more = extras(rng, kernel.epilogue, sizes, strange)
        left, panels = operands(kernel, a, b)
        found = loaded(list(cases).index(name), left, panels, n, *more)
        with np.errstate(all="ignore"):
            wanted = EPILOGUES[what][1](expected(kernel, a, b), *more)
        close(found, wanted.astype(np.float32), BOUNDS[what])


def close(found, wanted, bound):
    """Equal, NaN and infinities in their places; within `bound` of the largest magnitude."""
    assert found.shape == wanted.shape and found.dtype == np.float32
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(found[~finite], wanted[~finite])
    largest = np.abs(wanted[finite]).max(initial=1)
    error = np.abs(found[finite].astype(np.float64) - wanted[finite]) / largest
    assert error.max(initial=0) <= bound


def test_names_tell_kernels_apart():
    kernels = [kernel for unit in units.FLOAT_UNITS for _, kernel, _ in kernels_of(unit).values()]
    named = {kernel.name: kernel for kernel in kernels}
    assert len(named) == len(kernels)
    _, plain, _ = kernel("avx512", "bias", (1, 5, 40, 32))
    assert dataclasses.replace(plain, epilogue=None).name != plain.name
    assert plain.describe().endswith("sums in registers, + bias")
