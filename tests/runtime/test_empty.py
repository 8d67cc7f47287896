"""Inputs without elements: a CPU takes them, a GPU is not asked to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lowc import UserError, load
from lowc.runtime.manifest import Leaf
from tiny.artifacts import build, manifest

TOTAL = """
util.global private mutable @total = dense<5.0> : tensor<4xf32>
func.func @main(%x: tensor<?x4xf32>, %none: tensor<0xf32>) -> tensor<4xf32> @MANIFEST {
  %old = util.global.load @total : tensor<4xf32>
  %new = linalg.reduce ins(%x : tensor<?x4xf32>) outs(%old : tensor<4xf32>) dimensions = [0]
    (%a: f32, %b: f32) {
      %sum = arith.addf %a, %b : f32
      linalg.yield %sum : f32
    }
  util.global.store %new, @total : tensor<4xf32>
  return %new : tensor<4xf32>
}
func.func @reset() {
  %0 = arith.constant dense<5.0> : tensor<4xf32>
  util.global.store %0, @total : tensor<4xf32>
  return
}
"""
INPUTS = [Leaf("x", ("rows", 4), "float32"), Leaf("none", (0,), "float32")]
NOTHING, ONES, NONE = np.zeros((0, 4), np.float32), np.ones((3, 4), np.float32), np.empty(0, "f4")


def compiled(folder: Path, target: str) -> Path:
    device = target.partition("-")[0]
    about = manifest(INPUTS, [Leaf("", (4,), "float32")], has_state=True, device=device)
    return build(folder / f"total.{target}.vmfb", TOTAL, about, target=target)


def test_a_cpu_takes_them(folder: Path):
    module = load(compiled(folder, "cpu"))
    assert (module(NOTHING, NONE) == 5).all()
    assert (module(ONES, NONE) == 8).all()


@pytest.mark.vulkan
@pytest.mark.parametrize("target", ["vulkan", "vulkan-fences"])
def test_a_gpu_refuses_them_and_goes_on(folder: Path, target: str):
    path = compiled(folder, target)
    for _ in range(2):  # a module that is loaded after the refusal runs too
        module = load(path)
        assert (module(ONES, NONE) == 8).all()
        for call in (module, module.start, module.bound):
            with pytest.raises(UserError) as caught:
                call(NOTHING, NONE)
            assert caught.value.where == "input 'x'"
            assert caught.value.what.startswith("'rows' is 0 (dimension 0), and 'vulkan://")
            assert caught.value.hint == (
                "leave out calls without elements, or compile the model for a CPU, which takes them"
            )
        assert (module(ONES, NONE) == 11).all()  # the state is what the last good call left
        module.reset()
        assert (module(module.to_device(ONES), NONE) == 8).all()
