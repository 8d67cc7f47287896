"""What a module asks of a GPU: no matrices of whole tiles where nothing can become a product of them."""

import pytest
from iree.compiler import ir
from lowc.compiler.frontend import parse_module
from lowc.compiler.gpu_needs import MATRICES, needs_of
from lowc.passes import gpus
from products.linear import linear_text

BYTES = """
func.func @main(%x: tensor<4x8xi8>, %w: tensor<8x4xi8>, %y: tensor<4x4xi32>) -> tensor<4x4xi32> {
  %r = linalg.matmul ins(%x, %w : tensor<4x8xi8>, tensor<8x4xi8>) outs(%y : tensor<4x4xi32>)
      -> tensor<4x4xi32>
  return %r : tensor<4x4xi32>
}
"""
TEXTS = {"f32": linear_text(4, 8, 16), "f16": linear_text(4, 8, 16, "f16"), "i8": BYTES}


@pytest.mark.parametrize(("element", "needed"), [("f32", False), ("f16", True), ("i8", True)])
def test_matrices_are_asked_for_where_they_may_be_used(element, needed):
    module = parse_module(TEXTS[element], "test")
    with module.context, ir.Location.unknown():
        ada = needs_of(module, gpus.families("vulkan")["ada"])
        rdna1 = needs_of(module, gpus.families("vulkan")["rdna1"])
    assert (MATRICES in ada["features"]) == needed
    assert "shaderIntegerDotProduct" in ada["features"] and ada["subgroups"] == [32]
    assert rdna1 == gpus.families("vulkan")["rdna1"].needs
