"""``lowc report accuracy`` on a tiny model: text, JSON, figure, refusals."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from lowc.compiler.accuracy import LayerError, OutputErrors
from lowc.tools.cli import main
from lowc.tools.report import accuracy_figure
from lowc.tools.report.accuracy import Result

pytest.importorskip("matplotlib", reason="the extra 'report' is missing")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import torch

    class Tiny(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(50, 64)
            self.up = torch.nn.Linear(64, 96)
            self.down = torch.nn.Linear(96, 32)

        def forward(self, ids):
            return {"y": self.down(self.up(self.embed(ids)).relu().mean(1)), "ids": ids}

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("accuracy") / "tiny.pt2"
    torch.export.save(torch.export.export(Tiny(), (torch.ones(1, 6, dtype=torch.int64),)), path)
    np.savez(path.with_suffix(".npz"), ids=np.arange(30).reshape(5, 6))
    return path


def report(model, capsys, *arguments):
    assert main(["report", "accuracy", str(model), *arguments]) == 0
    return capsys.readouterr()


@pytest.mark.slow
def test_recipes_from_good_to_bad(model, capsys, tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text('[[rules]]\nmatch = "up"\nform = "dequant"\nweights = "i4"\n')
    figure = tmp_path / "figure.svg"
    said = report(
        model, capsys, "--recipe", "f32", "--recipe", "w8a16", "--recipe", "w4a16", "--recipe",
        str(mine), "--inputs", str(model.with_suffix(".npz")), "--json", "--plot", str(figure),
    )  # fmt: skip
    record = json.loads(said.out)
    assert record["inputs"] == {
        "calls": 5, "random": False, "file": "tiny.npz", "text": "5 calls from tiny.npz",
    }  # fmt: skip
    assert record["against"] == "f32" and record["machine"]["cpu"]
    exact, eight, four, partly = record["recipes"]
    assert [entry["recipe"] for entry in record["recipes"]] == ["f32", "w8a16", "w4a16", "mine"]
    assert exact["layers"] == []
    assert exact["outputs"] == {
        "rows": 5, "max_abs": 0, "relative_l2": 0, "mean_cosine": pytest.approx(1),
        "min_cosine": pytest.approx(1), "rank_correlation": pytest.approx(1),
    }  # fmt: skip
    assert 0 < eight["outputs"]["relative_l2"] < four["outputs"]["relative_l2"] / 4 < 0.1
    assert 0.9 < four["outputs"]["rank_correlation"] < 1
    for entry in (eight, four):
        assert {layer["name"] for layer in entry["layers"]} == {"up", "down"}
        errors = [layer["relative_rms"] for layer in entry["layers"]]
        assert errors == sorted(errors, reverse=True) and errors[-1] > 1e-4
    assert [layer["name"] for layer in partly["layers"]] == ["up"]
    assert "w4a16: compiling with each layer measured" in said.err
    assert "f32: compiling with each layer measured" not in said.err
    ElementTree.parse(figure)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.toml", "figure.svg"}


@pytest.mark.slow
def test_text_against_pytorch_on_random_inputs(model, capsys):
    said = report(model, capsys, "--recipe", "w4a16", "--against", "torch", "--top", "1")
    assert "tiny.pt2, 4 calls of random inputs, errors against torch" in said.out
    assert "errors on real inputs (--inputs FILE.npz) may be others" in said.err
    assert "w4a16: 1 of 2 layers, each alone on exact inputs, worst first" in said.out
    (row,) = (line.split() for line in said.out.splitlines() if "dequant" in line)
    assert row[0] in ("up", "down") and row[1] in ("6x96x64", "1x32x96")
    assert 0.01 < float(row[3]) < 0.2
    (row,) = (line.split() for line in said.out.splitlines() if line.startswith("w4a16  "))
    assert 0.9 < float(row[1]) < 0.99999 and float(row[2]) <= float(row[1])
    assert 1e-3 < float(row[4]) < 0.3


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--recipe", "w4a61"], "ends in .toml; did you mean 'w4a16'?"),
        (["--plot", "figure.bmp"], "figure.bmp: a plot cannot be written as '.bmp'"),
        (["--against", "onnx"], "'onnx' is not one of 'f32', 'torch'"),
        (["--inputs", "inputs.txt"], "inputs are read from .npz and .safetensors files"),
        (["--top", "-1"], "-1 is not in the range"),
    ],
)
def test_wrong_arguments(tmp_path, capsys, arguments, what):
    source = tmp_path / "double.mlir"
    source.write_text(
        "func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {\n"
        "  %y = arith.addf %x, %x : tensor<4xf32>\n  return %y : tensor<4xf32>\n}\n"
    )
    assert main(["report", "accuracy", str(source), *arguments]) == 2
    assert what in capsys.readouterr().err


def test_sizes_that_only_inputs_can_tell(tmp_path, capsys):
    source = tmp_path / "double.mlir"
    source.write_text(
        "func.func @main(%x: tensor<?x4xf32>) -> tensor<?x4xf32> {\n"
        "  %y = arith.addf %x, %x : tensor<?x4xf32>\n  return %y : tensor<?x4xf32>\n}\n"
    )
    assert main(["report", "accuracy", str(source), "--recipe", "w4a16"]) == 2
    assert "hint: give inputs with --inputs FILE.npz" in capsys.readouterr().err
    np.savez(tmp_path / "x.npz", arg0=np.ones((3, 4), np.float32))
    said = report(source, capsys, "--recipe", "w4a16", "--inputs", str(tmp_path / "x.npz"))
    assert "double.mlir, 3 calls from x.npz, errors against f32" in said.out
    assert "w4a16: no layer has another form than exact" in said.out
    assert "0.00e+00" in said.out


def a_layer(name, error):
    return LayerError(name, "weight", "1x2x3", "lmul", error, 1.0, error)


def outputs(error):
    return OutputErrors(4, error, error, 1.0, 1.0, None)


def figure_of(results):
    from matplotlib.figure import Figure

    figure = Figure()
    accuracy_figure.fill(figure, results, "f32")
    figure.canvas.draw()
    return figure.axes


def test_the_figure_shows_the_worst_layers_first():
    one = [a_layer(f"model.block.{i}.fc", 0.01 * (i + 1)) for i in range(60)]
    two = [a_layer("model.block.0.fc", float("nan"))]
    results = [Result("one", outputs(0.5), one), Result("two", outputs(float("inf")), two)]
    bars, layers = figure_of(results)
    assert [text.get_text() for text in bars.get_xticklabels()] == ["one", "two"]
    labels = [text.get_text() for text in layers.get_yticklabels()]
    assert labels[:3] == ["0.fc", "59.fc", "58.fc"] and len(labels) == 48
    assert "48 of 60 layers" in layers.get_title() and "below model.block" in layers.get_title()
    assert [line.get_label() for line in layers.lines] == ["one", "two"]
    assert list(layers.lines[0].get_xdata()[:2]) == [0.01, 0.6]


def test_the_figure_without_errors():
    (bars,) = figure_of([Result("f32", outputs(0.0), []), Result("ids", None, [])])
    assert [text.get_text() for text in bars.texts] == ["0", "0"]


def test_a_layer_without_error_has_no_marker():
    _, layers = figure_of([Result("w", outputs(0.1), [a_layer("a", 0.2), a_layer("b", 0.0)])])
    assert list(layers.lines[0].get_xdata()) == [0.2]
    assert len(layers.get_yticklabels()) == 2
