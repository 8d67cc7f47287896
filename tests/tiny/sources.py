"""MLIR of the tiny modules, and what goes with it."""

from __future__ import annotations

import numpy as np
from lowc.runtime.manifest import Leaf

ADD = """
func.func @main(%x: tensor<2x3xf32>, %y: tensor<2x3xf32>) -> tensor<2x3xf32> @MANIFEST {
  %0 = arith.addf %x, %y : tensor<2x3xf32>
  return %0 : tensor<2x3xf32>
}
"""
ADD_INPUTS = [Leaf("x", (2, 3), "float32"), Leaf("y", (2, 3), "float32")]

SCALE = """
util.global private @w = #flow.parameter.named<"model"::"layer.weight"> : tensor<4xf32>
util.global private @b = #flow.parameter.named<"model"::"layer.bias"> : tensor<4xf32>
func.func @main(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) @MANIFEST {
  %w = util.global.load @w : tensor<4xf32>
  %b = util.global.load @b : tensor<4xf32>
  %0 = arith.mulf %x, %w : tensor<4xf32>
  %1 = arith.addf %0, %b : tensor<4xf32>
  return %1, %w : tensor<4xf32>, tensor<4xf32>
}
"""
WEIGHTS = {
    "layer.weight": np.array([1, 2, 3, 4], np.float32),
    "layer.bias": np.array([10, 20, 30, 40], np.float32),
}

COUNTER = """
util.global private mutable @total = dense<5.0> : tensor<4xf32>
func.func @main(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) @MANIFEST {
  %old = util.global.load @total : tensor<4xf32>
  %new = arith.addf %old, %x : tensor<4xf32>
  util.global.store %new, @total : tensor<4xf32>
  return %old, %new : tensor<4xf32>, tensor<4xf32>
}
func.func @reset() {
  %0 = arith.constant dense<5.0> : tensor<4xf32>
  util.global.store %0, @total : tensor<4xf32>
  return
}
"""

DYNAMIC = """
func.func @main(%ids: tensor<?x?xi64>, %mask: tensor<?x?xi64>, %wide: tensor<?xf32>)
    -> tensor<?x?xi64> @MANIFEST {
  %0 = arith.muli %ids, %mask : tensor<?x?xi64>
  return %0 : tensor<?x?xi64>
}
"""

NESTED = """
func.func @main(%a: tensor<2xf32>, %b: tensor<2xf32>, %c: tensor<2xf32>, %d: tensor<2xf32>)
    -> (tensor<2xf32>, tensor<2xf32>, tensor<2xf32>) @MANIFEST {
  %0 = arith.addf %a, %b : tensor<2xf32>
  %1 = arith.subf %c, %d : tensor<2xf32>
  %2 = arith.mulf %a, %d : tensor<2xf32>
  return %0, %1, %2 : tensor<2xf32>, tensor<2xf32>, tensor<2xf32>
}
"""
