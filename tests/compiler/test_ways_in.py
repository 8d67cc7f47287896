"""A model is the same by each way in: a program, its file, MLIR text and bytecode."""

from __future__ import annotations

import lowc
import numpy as np
import pytest
import torch
from lowc import UserError
from torch import nn
from zoo.comparison import export

pytestmark = pytest.mark.slow

MODEL = nn.Sequential(nn.Linear(70, 32), nn.ReLU(), nn.Linear(32, 5)).eval().requires_grad_(False)


def test_a_program_and_its_file_become_the_same(tmp_path):
    model, x = MODEL, torch.randn(2, 70)
    program = export(model, (x,))
    torch.export.save(program, tmp_path / "model.pt2")
    one = lowc.compile(program, "w4a16", output=tmp_path / "one.vmfb")
    two = lowc.compile(tmp_path / "model.pt2", "w4a16", output=tmp_path / "two.vmfb")
    assert one.manifest.parameters.sha256 == two.manifest.parameters.sha256
    np.testing.assert_array_equal(lowc.load(one)(x.numpy()), lowc.load(two)(x.numpy()))
    assert program.example_inputs is not None  # the caller's program is as it was


MLIR = """
func.func @twice(%x: tensor<?x3xf32>) -> (tensor<?x2xf32>, tensor<2xi32>) {
  %w = arith.constant dense<[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]> : tensor<3x2xf32>
  %ids = arith.constant dense<[7, 9]> : tensor<2xi32>
  %zero = arith.constant 0.0 : f32
  %c0 = arith.constant 0 : index
  %rows = tensor.dim %x, %c0 : tensor<?x3xf32>
  %empty = tensor.empty(%rows) : tensor<?x2xf32>
  %init = linalg.fill ins(%zero : f32) outs(%empty : tensor<?x2xf32>) -> tensor<?x2xf32>
  %y = linalg.matmul ins(%x, %w : tensor<?x3xf32>, tensor<3x2xf32>)
                     outs(%init : tensor<?x2xf32>) -> tensor<?x2xf32>
  return %y, %ids : tensor<?x2xf32>, tensor<2xi32>
}
"""


@pytest.mark.parametrize("suffix", [".mlir", ".mlirbc"])
@pytest.mark.parametrize("recipe", ["f32", "w4a16"])
def test_mlir_and_bytecode(suffix, recipe, tmp_path):
    path = tmp_path / f"model{suffix}"
    if suffix == ".mlir":
        path.write_text(MLIR)
    else:
        from iree.compiler import ir

        with ir.Context(), path.open("wb") as file:
            ir.Module.parse(MLIR).operation.write_bytecode(file)
    artifact = lowc.compile(path, recipe)
    assert artifact.parameters_path is None
    # A constant in the text is no parameter, so there is nothing to store in fewer bits.
    assert [row["form"] for row in artifact.report["matmuls"]] == ["exact"]
    x = torch.randn(4, 3).numpy()
    product, ids = lowc.load(artifact)(x)
    np.testing.assert_allclose(
        product, x @ np.array([[1, 2], [3, 4], [5, 6]], np.float32), rtol=1e-5
    )
    assert ids.tolist() == [7, 9]


def test_a_module_that_was_not_exported_is_refused():
    with pytest.raises(UserError, match=r"torch\.export\.export\(model, args\)"):
        lowc.compile(MODEL)


def test_a_program_that_pytorch_cannot_save_is_refused():
    class Top(nn.Module):
        def forward(self, x):
            return torch.topk(x, 2)  # a class that torch.export.save does not know

    with pytest.raises(UserError, match="cannot save the program"):
        lowc.compile(export(Top(), (torch.randn(2, 5),)))
