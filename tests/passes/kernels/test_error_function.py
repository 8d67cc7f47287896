"""The error function of kernels against Python's own, on every vector unit that can be run."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from iree.compiler import ir
from lowc.passes import build
from lowc.passes.kernels import emit, executable, tiles
from lowc.passes.kernels.error_function import LARGEST, erf
from products import units
from products.modules import LoadedModule, add_function, compile_functions

COUNT = 1 << 14


@dataclass(frozen=True)
class Everywhere:
    """``y = erf(x)`` for :data:`COUNT` numbers, in one workgroup."""

    lanes: int
    translation = "#iree_codegen.translation_info<pipeline = #iree_cpu.pipeline<Default>>"

    @property
    def name(self):
        return f"erf_v{self.lanes}"

    def emit(self, interface):
        type_ = emit.buffer_type([COUNT], ir.F32Type.get())
        x = interface.buffer(0, type_, [], is_input=True)
        y = interface.buffer(1, type_, [], is_input=False)

        def step(i):
            emit.store(erf(emit.load(self.lanes, x, [i]), self.lanes), y, [i])

        emit.each(emit.index(0), emit.index(COUNT), self.lanes, step)


def add(module, name, kernel):
    type_ = build.tensor_type([COUNT], ir.F32Type.get())

    def value(x):
        executable.declare(module, kernel.name, [True, False], 0, kernel.translation, kernel.emit)
        grid = [emit.index(1)] * 3
        return executable.dispatch(kernel.name, grid, [], [x], type_, []).results[0]

    add_function(module, name, [type_], type_, value)


@pytest.fixture(scope="module", params=units.FLOAT_UNITS)
def compiled(request, tmp_path_factory):
    unit = request.param
    target = units.target(unit)
    kernels = [Everywhere(tiles.ISAS[unit].lanes)]
    folder = tmp_path_factory.mktemp(unit)
    return LoadedModule(compile_functions(kernels, add, target, folder), kernels)


def test_the_error_that_is_documented(compiled):
    x = np.linspace(-1.5 * LARGEST, 1.5 * LARGEST, COUNT, dtype=np.float32)
    found = compiled.run(0, x)
    exact = np.array([math.erf(one) for one in x.astype(float)])
    assert np.abs(found - exact).max() < 4e-7
    # It is odd to the bit, and never beyond one.
    np.testing.assert_array_equal(compiled.run(0, -x), -found)
    assert np.abs(found).max() == 1


def test_the_ends_and_what_is_no_number(compiled):
    x = np.zeros(COUNT, np.float32)
    x[:8] = [np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-40, -0.0, -1e10]
    found = compiled.run(0, x)
    np.testing.assert_array_equal(found[:5], np.array([1, -1, np.nan, 1, -1], np.float32))
    assert abs(found[5]) < 2e-40 and found[6] == 0 and found[7] == -1
    assert not found[8:].any()
