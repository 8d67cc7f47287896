"""``lowc bench model`` on a tiny model: contenders, errors against PyTorch, refusals."""

import json
import sys

import numpy as np
import pytest
from lowc.compiler import api
from lowc.compiler.frontend import open_model
from lowc.errors import UserError
from lowc.runtime.manifest import Leaf, Manifest
from lowc.tools.bench import inputs, opponents
from lowc.tools.bench.model import compare
from lowc.tools.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import torch

    class Tiny(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(10, 32)
            self.fc = torch.nn.Linear(32, 16)

        def forward(self, ids, scale):
            return {"y": self.fc(self.embed(ids)) * scale, "ids": ids}

    torch.manual_seed(0)
    rows = torch.export.Dim("rows", min=2, max=64)
    inputs_ = (torch.ones(4, 3, dtype=torch.int64), torch.ones(4, 1, 1))
    exported = torch.export.export(Tiny(), inputs_, dynamic_shapes=({0: rows}, {0: rows}))
    path = tmp_path_factory.mktemp("bench") / "tiny.pt2"
    torch.export.save(exported, path)
    return path


@pytest.mark.slow
def test_recipes_beside_opponents(model, capsys, tmp_path):
    arguments = [
        "bench", "model", str(model), "--recipe", "f32", "--recipe", "w8a16", "--against",
        "torch,iree", "--blocks", "2", "--json", "--keep", str(tmp_path),
    ]  # fmt: skip
    assert main(arguments) == 0
    record = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in record["rows"]}
    assert {"lowc:f32", "lowc:w8a16", "torch", "iree:default"} <= set(rows)
    assert rows["lowc:f32"]["ratio"] == 1
    assert rows["lowc:f32"]["max_abs_error"] < 1e-5
    assert 1e-5 < rows["lowc:w8a16"]["max_abs_error"] < 0.1
    assert all(row["median_ms"] > 0 for row in rows.values())
    assert record["best_stock_iree"].startswith("iree:")
    assert "8x3 int64" in record["inputs"]
    (kept,) = tmp_path.glob("model-tiny-*.json")
    assert json.loads(kept.read_text()) == record
    assert record["machine"]["cpu"] and record["machine"]["versions"]["lowc"]


def test_stock_iree_has_no_kernels_of_ours(model, tmp_path, monkeypatch):
    rows, real = [], api.compile

    def compile_(*args, **options):
        rows.extend(real(*args, **options).report["matmuls"])
        raise UserError("seen")

    monkeypatch.setattr(api, "compile", compile_)
    with open_model(model) as opened:
        assert dict(opponents.iree_artifacts(opened, tmp_path))["iree:default"] == "seen"
    assert len(rows) == len(opponents.STOCK_FLAG_SETS)
    assert {row["lowering"] for row in rows if "kernels are off" not in row["lowering"]} == set()


@pytest.mark.slow
def test_opponents_that_read_onnx(model, capsys):
    opponents = "torch,onnxruntime,onnxruntime-int8,openvino,openvino-int8"
    arguments = ["bench", "model", str(model), "--against", opponents, "--blocks", "1", "--json"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.err.count("exporting the model as ONNX") == 1
    record = json.loads(captured.out)
    errors = {row["name"]: row["max_abs_error"] for row in record["rows"]}
    assert not record["skipped"]
    for library in ("onnxruntime", "openvino"):
        assert errors[library] < 1e-5
        # Signed weights may saturate, by as much as the results themselves.
        assert 1e-5 < errors[f"{library}:int8"] < 2 and 1e-5 < errors[f"{library}:uint8"] < 0.2


@pytest.mark.slow
def test_opponents_that_cannot_take_the_model_are_skipped(model, capsys, tmp_path, monkeypatch):
    arguments = ["bench", "model", str(model), "--blocks", "1", "--json"]
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"garbage")
    against = ["--against", "onnxruntime,onnxruntime-int8,openvino"]
    assert main([*arguments, *against, "--onnx", str(garbage)]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in record["rows"]] == ["lowc:f32"]
    assert record["skipped"]["onnxruntime"].startswith("ONNX Runtime cannot load the model (")
    assert record["skipped"]["onnxruntime:int8"].startswith("ONNX Runtime cannot quantise")
    assert record["skipped"]["openvino"].startswith("OpenVINO cannot load the model (")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main([*arguments, "--against", "openvino"]) == 0
    skipped = json.loads(capsys.readouterr().out)["skipped"]
    assert skipped == {"openvino": "onnxscript is not installed"}


@pytest.mark.slow
def test_state_is_compared_at_the_first_call(capsys, tmp_path):
    import torch

    class Counter(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(3))

        def forward(self, x):
            self.seen.add_(x)
            return self.seen * 1

    path = tmp_path / "counter.pt2"
    torch.export.save(torch.export.export(Counter(), (torch.ones(3),)), path)
    arguments = ["bench", "model", str(path), "--against", "torch", "--blocks", "2", "--json"]
    assert main(arguments) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["max_abs_error"] for row in rows] == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--against", "tourch"], "there is no opponent 'tourch'\n  hint: did you mean 'torch'?"),
        (["--recipe", "f3"], "there is no recipe 'f3'"),
        (["--dim", "rows"], "'rows' is not of the form NAME=int"),
        (["--blocks", "0"], "0 is not in the range"),
        (["--input", "ids=pyproject.toml"], "this is no .npy file"),
        (["--onnx", "missing.onnx"], "missing.onnx: the file does not exist"),
    ],
)
def test_wrong_arguments(model, capsys, arguments, what):
    assert main(["bench", "model", str(model), *arguments]) == 2
    assert what in capsys.readouterr().err


MANIFEST = Manifest(
    inputs=(
        Leaf("ids", ("s0", 4), "int64"),
        Leaf("attention_mask", ("2*s0",), "bool"),
        Leaf("x", (3,), "bfloat16"),
        Leaf("flag", literal=True, value=True),
    ),
    outputs=(),
    args_tree={"type": "tuple", "children": ["*"] * 4},
    kwargs_tree={"type": "dict", "children": [], "keys": []},
    out_tree={"type": "tuple", "children": []},
    argument_names=("ids", "attention_mask", "x", "flag"),
    ranges={"s0": (2, 6)},
)


def test_sizes_and_inputs():
    assert inputs.symbol_sizes(MANIFEST, {}) == {"s0": 6}
    values = inputs.make_inputs(MANIFEST, inputs.symbol_sizes(MANIFEST, {"s0": 3}))
    assert [value.shape for value in values] == [(3, 4), (6,), (3,)]
    assert values[1].all() and values[0].max() <= 1
    assert str(values[2].dtype) == "bfloat16"


@pytest.mark.parametrize("given", [{"s0": 7}, {"s0": 1}, {"s1": 3}])
def test_wrong_sizes(given):
    with pytest.raises(UserError):
        inputs.symbol_sizes(MANIFEST, given)


def test_compare_finds_the_worst_output():
    a = [np.array([1.0, 2.0]), np.array([3])]
    b = [np.array([1.0, 2.5]), np.array([4])]
    error, cosine = compare(a, b)
    assert error == 0.5 and 0.99 < cosine < 1
    assert compare([np.array([1])], [np.array([2])]) == (None, None)
