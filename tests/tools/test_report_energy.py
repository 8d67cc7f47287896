"""``lowc report energy``: the arithmetic alone, models by recipe, compiled modules, tables, plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lowc.tools.cli import main

# Two matmuls, of which a recipe can tell one; a softmax-like exp that has no price.
SOURCE = """
func.func @main(%x: tensor<2x4xf32>, %y: tensor<4x8xf32>, %o: tensor<2x8xf32>) -> tensor<2x8xf32> {
  %r = linalg.matmul ins(%x, %y : tensor<2x4xf32>, tensor<4x8xf32>)
      outs(%o : tensor<2x8xf32>) -> tensor<2x8xf32> loc("layer.fc")
  %e = math.exp %r : tensor<2x8xf32>
  return %e : tensor<2x8xf32>
}
"""
TABLE = """
description = "a table"
[memory]
picojoules-per-bit = 1
source = "a guess"
[[prices]]
kinds = ["mulf.f32", "math.exp.*"]
picojoules = 100
part = "core"
source = "a guess"
[[prices]]
kinds = ["addf.f32"]
picojoules = 1
part = "guard"
source = "a guess"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, the module compiled from it, and a table."""
    path = tmp_path_factory.mktemp("energy")
    (path / "m.mlir").write_text(SOURCE)
    (path / "dynamic.mlir").write_text(SOURCE.replace("2x", "?x"))
    (path / "mine.toml").write_text(TABLE)
    assert main(["compile", str(path / "m.mlir"), "-o", str(path / "m.vmfb")]) == 0
    return path


def report(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    capsys.readouterr()
    assert main(["report", "energy", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_arithmetic_is_what_the_paper_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "energy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for start, ending in (
        ("f16 multiplication → i16 addition", "-95.5 %"),
        ("f32 multiplication → i32 addition", "-97.3 %"),
        ("f32 dot product", "-78.3 %"),
        ("f16 dot product", "-70.0 %"),
    ):
        assert [line for line in lines if line.startswith(start) and line.endswith(ending)], start


def test_a_table_without_a_price_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "energy", "--table", str(folder / "mine.toml")]) == 0
    assert capsys.readouterr().out.count("no price") == 4


def test_a_model_by_recipe(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = report(capsys, folder / "m.mlir", "--recipe", "w4a16", "--recipe", "f32")
    assert data["model"] == "m.mlir"
    assert [one["recipe"] for one in data["recipes"]] == ["f32", "w4a16"]
    found = data["recipes"][0]["energy"]
    assert found["operations"] == {"addf.f32": 64, "math.exp.f32": 16, "mulf.f32": 64}
    assert found["picojoules"]["arithmetic"] == pytest.approx(64 * 4.6)
    assert found["saving"] == 0
    assert found["unpriced"] == {"math.exp.f32": 16}
    assert data["recipes"][0]["matmuls"][0]["name"] == "layer.fc:0"


def test_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "energy", str(folder / "m.mlir")]) == 0
    out = capsys.readouterr().out
    assert "m.mlir, per call\n" in out
    assert "294 pJ" in out
    assert "without a price, and in no sum\n  math.exp.f32\n    functions and divisions" in out
    assert "layer.fc:0" in out
    assert main(["report", "energy", str(folder / "dynamic.mlir")]) == 0
    assert "per unit of the dynamic sizes" in capsys.readouterr().out


def test_what_nothing_is_known_of_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    softmax = "linalg.softmax dimension(1) ins(%r : tensor<2x8xf32>) outs(%o : tensor<2x8xf32>) -> tensor<2x8xf32>"
    (tmp_path / "m.mlir").write_text(SOURCE.replace("math.exp %r : tensor<2x8xf32>", softmax))
    assert main(["report", "energy", str(tmp_path / "m.mlir")]) == 0
    assert "nothing is known of them: linalg.softmax\n" in capsys.readouterr().out


def test_a_module_is_priced_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compiled = report(capsys, folder / "m.vmfb")["recipes"]
    assert compiled == report(capsys, folder / "m.mlir")["recipes"]
    other = report(capsys, folder / "m.vmfb", "--table", folder / "mine.toml")["recipes"][0]
    assert other["energy"]["picojoules"]["arithmetic"] == 6400 + 1600
    assert other["energy"]["picojoules"]["guards"] == 64
    assert other["energy"]["unpriced"] == {}
    assert other["matmuls"][0]["energy_picojoules"] == 6464


def test_compile_says_what_the_arithmetic_costs(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    capsys.readouterr()
    arguments = ["compile", str(folder / "m.mlir"), "-o", str(tmp_path / "m.vmfb")]
    assert main(arguments) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        "arithmetic per call: 294 pJ, as exported 294 pJ (0.0 %); see lowc report energy"
    )


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_plots(
    suffix: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"energy.{suffix}"
    assert main(["report", "energy", str(folder / "m.vmfb"), "--plot", str(path)]) == 0
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["m.vmfb", "--recipe", "f32"], "m.vmfb: a compiled module has its one recipe"),
        (["m.mlir", "--recipe", "f23"], "did you mean 'f32'?"),
        (["m.mlir", "--target", "cpo"], "did you mean 'cpu'?"),
        (["none.mlir"], "none.mlir: the file does not exist"),
        (["none.vmfb"], "none.vmfb: the file does not exist"),
        (["m.mlir", "--table", "horowitz"], "there is no energy table 'horowitz'"),
        (["m.mlir", "--table", "none.toml"], "none.toml: the energy table does not exist"),
        (["m.mlir", "--plot", "a.bmp"], "a plot cannot be written as '.bmp'"),
        (["--plot", "a.png"], "there is nothing to plot"),
    ],
)
def test_refusals(
    arguments: list[str], what: str, folder: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    capsys.readouterr()
    assert main(["report", "energy", *arguments]) == 2
    shown = capsys.readouterr()
    assert what in shown.err
    assert shown.out == ""


def test_a_module_without_counts_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lowc.tools.report import energy

    older = {"recipe": "f32", "target": "cpu", "matmuls": []}
    monkeypatch.setattr(energy, "_of_module", lambda _path: [older])
    assert main(["report", "energy", str(folder / "m.vmfb")]) == 2
    shown = capsys.readouterr().err
    assert "m.vmfb: the report in the module has no count of operations" in shown
    assert "compile the model again" in shown
