"""Which parameters are tables that a call looks into: by what reads them, not by their names."""

from __future__ import annotations

import pytest
from iree.compiler import ir
from lowc.compiler.looked_up import looked_up

TEXT = """
util.global private @table = #flow.parameter.named<"model"::"table"> : tensor<100x8xf32>
util.global private @weight = #flow.parameter.named<"model"::"weight"> : tensor<100x8xf32>
util.global private @both = #flow.parameter.named<"model"::"both"> : tensor<100x8xf32>
util.global private @unread = #flow.parameter.named<"model"::"unread"> : tensor<100x8xf32>
func.func @main(%i: index) -> (f32, f32, tensor<100x8xf32>, tensor<100x8xf32>, f32) {
  %c0 = arith.constant 0 : index
  %table = util.global.load @table : tensor<100x8xf32>
  %a = tensor.extract %table[%i, %c0] : tensor<100x8xf32>
  %cut = tensor.expand_shape %table [[0], [1, 2]] output_shape [100, 2, 4]
      : tensor<100x8xf32> into tensor<100x2x4xf32>
  %b = tensor.extract %cut[%i, %c0, %c0] : tensor<100x2x4xf32>
  %weight = util.global.load @weight : tensor<100x8xf32>
  %both = util.global.load @both : tensor<100x8xf32>
  %again = util.global.load @both : tensor<100x8xf32>
  %c = tensor.extract %again[%i, %c0] : tensor<100x8xf32>
  return %a, %b, %weight, %both, %c : f32, f32, tensor<100x8xf32>, tensor<100x8xf32>, f32
}
"""


@pytest.fixture
def module() -> ir.Module:
    with ir.Context():
        yield ir.Module.parse(TEXT)


def test_tables_are_found(module: ir.Module) -> None:
    assert looked_up(module) == ("table",)
