"""`/v1/estimate`: what it says of modules, and what it does with texts that break their reader."""

from __future__ import annotations

import pytest
from lowc.compiler.analysis import analyse
from lowc.compiler.frontend import model_of_module, parse_module
from lowc.tools.serve.reading import EXAMPLE
from serving.server import Server

WEIGHT = """
util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<64x128xf32>
func.func @main(%x: tensor<16x128xf32>) -> tensor<16x64xf32> {
  %w = util.global.load @w : tensor<64x128xf32>
  %c = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<16x64xf32>
  %f = linalg.fill ins(%c : f32) outs(%e : tensor<16x64xf32>) -> tensor<16x64xf32>
  %t0 = tensor.empty() : tensor<128x64xf32>
  %t = linalg.transpose ins(%w : tensor<64x128xf32>) outs(%t0 : tensor<128x64xf32>) permutation = [1, 0]
  %r = linalg.matmul ins(%x, %t : tensor<16x128xf32>, tensor<128x64xf32>)
       outs(%f : tensor<16x64xf32>) -> tensor<16x64xf32>
  return %r : tensor<16x64xf32>
}
"""


@pytest.mark.parametrize("recipe", ["f32", "lmul", "w4a8"])
def test_it_is_the_compiler_s_own_report(server: Server, recipe: str) -> None:
    status, found, _ = server.ask("/v1/estimate", {"mlir": WEIGHT, "recipe": recipe})
    assert status == 200, found
    report = analyse(model_of_module(parse_module(WEIGHT, "")), recipe)
    (row,), (wanted,) = found["matmuls"], report["matmuls"]
    assert (row["shape"], row["form"]) == ("16x64x128", wanted["form"])
    assert row["energy_picojoules"] == wanted["energy_picojoules"]
    assert row["energy_exact_picojoules"] == wanted["energy_exact_picojoules"]
    assert found["energy"]["arithmetic"] == report["energy"]["picojoules"]["arithmetic"]
    assert found["weight_bytes"] == report["energy"]["weight_bits"] / 8
    if recipe == "lmul":
        assert row["energy_picojoules"] < row["energy_exact_picojoules"] / 2


@pytest.mark.parametrize(
    ("recipe", "form"),
    [
        ("f32", "f32"), ("lmul", "lmul"), ("pam", "pam"), ("w4a16", "w4a16"), ("w8a16", "w8a16"),
        ("w4a8", "w4a8"), ("w8a8", "w8a8"), ("shiftadd-2", "shift-add"), ("lut-2", "lut"),
        ("ternary", "ternary"),
    ],
)  # fmt: skip
def test_forms_are_those_of_recipes(server: Server, recipe: str, form: str) -> None:
    """A form by its short name is the product that the compiler makes with the recipe."""
    status, found, _ = server.ask("/v1/estimate", {"mlir": WEIGHT, "recipe": recipe})
    assert status == 200, found
    asked = {"matmuls": [{"form": form, "shape": [16, 64, 128]}]}
    (chosen,) = server.ask("/v1/choose-tiles", asked)[1]["matmuls"]
    (row,) = found["matmuls"]
    assert (row["tile"], row["seconds"]) == (chosen["tile"], chosen["seconds"])
    assert found["seconds"] == row["seconds"] > 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("func.func @main(", "this is not valid MLIR"),
        ("module {}", "the module has 0 public functions"),
        ("module {" * 200_000, "made its reader crash (SIGSEGV)"),
        ("func.func private @f() attributes {a = " + "[" * 500_000, "made its reader crash"),
    ],
    ids=["cut off", "no function", "nested modules", "nested arrays"],
)
def test_texts_that_are_no_good(server: Server, text: str, said: str) -> None:
    status, found, _ = server.ask("/v1/estimate", {"mlir": text})
    assert status == 400
    assert said in found["error"]
    assert server.ask("/v1/estimate", EXAMPLE)[0] == 200


@pytest.mark.parametrize(("old", "new"), [("<4x", "<0x"), ("8xf32", "0xf32")])
def test_products_of_size_0_take_no_time(server: Server, old: str, new: str) -> None:
    text = EXAMPLE["mlir"].replace(old, new).replace("<8x16", "<0x16" if "8" in old else "<8x16")
    status, found, _ = server.ask("/v1/estimate", {**EXAMPLE, "mlir": text})
    assert status == 200, found
    (row,) = found["matmuls"]
    assert "0" in row["shape"].split("x")
    assert row["seconds"] == found["seconds"] == 0


def test_names_are_no_paths(server: Server, tmp_path) -> None:
    (tmp_path / "mine.toml").write_text('[[rules]]\nmatch = "*"\nform = "exact"\n')
    given = {**EXAMPLE, "recipe": str(tmp_path / "mine.toml")}
    status, found, _ = server.ask("/v1/estimate", given)
    assert (status, found["error"][:21]) == (400, "there is no recipe '/")
    status, found, _ = server.ask("/v1/estimate", {**EXAMPLE, "target": "cpu:x"})
    assert (status, found["error"][:20]) == (400, "there is no target '")


def test_too_long(server: Server) -> None:
    status, found, _ = server.ask("/v1/estimate", {"mlir": " " * ((4 << 20) + 1)})
    assert (status, found) == (413, {"error": "MLIR has at most 4194304 bytes"})
