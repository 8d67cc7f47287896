"""``lowc compile`` and ``lowc run``, one after the other on small modules."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from lowc.tools.cli import main
from lowc.tools.run import write_npy

SOURCE = """
func.func @main(%x: tensor<2x4xf32>, %y: tensor<4x3xf32>) -> (tensor<2x3xf32>, tensor<2x3xbf16>) {
  %c = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<2x3xf32>
  %z = linalg.fill ins(%c : f32) outs(%e : tensor<2x3xf32>) -> tensor<2x3xf32>
  %r = linalg.matmul ins(%x, %y : tensor<2x4xf32>, tensor<4x3xf32>)
      outs(%z : tensor<2x3xf32>) -> tensor<2x3xf32> loc("layer.fc")
  %h = arith.truncf %r : tensor<2x3xf32> to tensor<2x3xbf16>
  return %r, %h : tensor<2x3xf32>, tensor<2x3xbf16>
}
"""
X = "2x4xf32=1 2 3 4 5 6 7 8"
Y = "4x3xf32=0.5"
EXPECTED = np.array([[5, 5, 5], [13, 13, 13]], np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source and its compiled module."""
    path = tmp_path_factory.mktemp("run")
    (path / "m.mlir").write_text(SOURCE)
    assert main(["compile", str(path / "m.mlir"), "-o", str(path / "m.vmfb")]) == 0
    return path


def test_compile_says_what_became_of_every_matmul(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = folder / "said.vmfb"
    assert main(["compile", str(folder / "m.mlir"), "-o", str(target)]) == 0
    shown = capsys.readouterr()
    assert "exact (rule '*')" in shown.out
    assert "layer.fc:0" in shown.out
    assert f"{target}  " in shown.out
    assert "generating code" in shown.err
    assert "generating code" not in shown.out
    assert main(["compile", str(folder / "m.mlir"), "-o", str(target), "-v"]) == 0
    assert "2x3x4" in capsys.readouterr().out


MANY = """
[[rules]]
match = "*:qk"
form = "lmul"

[[rules]]
match = "layer.*"
form = "exact"

[[rules]]
match = "layer.fc*"
form = "pam"

[[rules]]
match = "layer.cf"
form = "exact"

[[rules]]
match = "*:*"
form = "exact"

[[rules]]
match = "*"
form = "pam"
of = "elementwise"
"""
UNUSED = [
    "rule '*:qk': no matmul has such a name",
    "rule 'layer.fc*': earlier rules decide for all that it matches",
    "rule 'layer.cf': no matmul has such a name",
    "rule '*': no multiplication outside matmuls has such a name",
]


def test_rules_that_decide_nothing_are_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but those that are exact and all wildcards: they are for other models."""
    recipe, target = tmp_path / "many.toml", tmp_path / "many.vmfb"
    recipe.write_text(MANY)
    arguments = ["compile", str(folder / "m.mlir"), "-o", str(target), "--recipe", str(recipe)]
    assert main(arguments) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "rule" in line] == [f"note: {text}" for text in UNUSED]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["notes"] == UNUSED
    warnings = [row for row in report["remarks"] if row["kind"] == "warning"]
    assert [f"{row['subject']}: {row['message']}" for row in warnings] == UNUSED


@pytest.mark.parametrize(("recipe", "count"), [("lmul-attention", 2), ("f32", 0), ("w4a16", 1)])
def test_built_in_rules_that_decide_nothing(
    recipe: str, count: int, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "m.vmfb"
    assert main(["compile", str(folder / "m.mlir"), "-o", str(target), "--recipe", recipe]) == 0
    assert capsys.readouterr().err.count("note: rule ") == count


def test_compile_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = folder / "json.vmfb"
    assert main(["compile", str(folder / "m.mlir"), "-o", str(target), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["files"] == {str(target): target.stat().st_size}
    assert [row["name"] for row in data["matmuls"]] == ["layer.fc:0"]


def test_compile_names_its_output_after_the_model(
    folder: Path, capsys: pytest.CaptureFixture[str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["compile", str(folder / "m.mlir")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["m.vmfb"]
    assert "\nm.vmfb  " in capsys.readouterr().out


def test_save_temps(folder: Path, tmp_path: Path) -> None:
    target, temps = tmp_path / "m.vmfb", tmp_path / "temps"
    arguments = ["compile", str(folder / "m.mlir"), "-o", str(target), "--save-temps", str(temps)]
    assert main(arguments) == 0
    names = {path.name for path in temps.iterdir()}
    assert {"00-input.mlir", "01-lowc-name-matmuls.mlir", "module.mlir"} <= names


@pytest.mark.parametrize(
    ("options", "what", "hint"),
    [
        (["--recipe", "f23"], "there is no recipe 'f23'", "did you mean 'f32'?"),
        (["--target", "cpo"], "'cpo'", "did you mean 'cpu'?"),
        (["--calibration", "x.npz"], "no method that uses calibration", ""),
        (["--calibration", "x.npz", "--calibration", "y"], "one entry has one --calibration", ""),
        (["-o", "none/m.vmfb"], "none: cannot write here", ""),
        (["-o", "m.bin"], "the output must be called something.vmfb", ""),
    ],
)
def test_compile_refuses(
    options: list[str], what: str, hint: str, folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["compile", str(folder / "m.mlir"), *options]) == 2
    shown = capsys.readouterr()
    assert what in shown.err
    assert hint in shown.err
    assert shown.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "what", "hint"),
    [
        (["x.npz"], "'--calibration x.npz' does not say which entry it is for", "a=x.npz"),
        (["a=x.npz", "a=y.npz"], "the entry 'a' has two files of inputs", "a=y.npz"),
        (["c=x.npz"], "inputs of an entry 'c', which the model does not have", "known: a, b"),
        (["a=x.npz"], "x.npz", ""),
    ],
)
def test_compile_refuses_a_calibration_of_no_entry(
    options: list[str], what: str, hint: str, folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "gptq.toml"
    recipe.write_text('[[rules]]\nmatch = "*"\nform = "dequant"\nweights = "i4"\nmethod = "gptq"\n')
    given = [word for one in options for word in ("--calibration", one)]
    models = [f"{name}={folder / 'm.mlir'}" for name in "ab"]
    assert main(["compile", *models, "--recipe", str(recipe), "-o", "m.vmfb", *given]) == 2
    shown = capsys.readouterr()
    assert what in shown.err and hint in shown.err and shown.out == ""
    assert list(tmp_path.iterdir()) == [recipe]


# -- lowc run --------------------------------------------------------------------------------------


def test_run_prints_what_comes_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(folder / "m.vmfb"), "--input", X, "--input", Y]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0] == "0: 2x3xfloat32"
    assert "[[ 5.  5.  5.]" in shown.out
    assert "1: 2x3xbfloat16" in shown.out


def test_run_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--input", f"arg1={Y}", "--input", "arg0=2x4xf32=1 2 3 4 inf 0 0 0", "--json"]
    assert main(["run", str(folder / "m.vmfb"), *arguments]) == 0
    outputs = json.loads(capsys.readouterr().out)["outputs"]
    assert outputs[0]["values"] == [[5.0] * 3, ["inf"] * 3]
    assert (outputs[0]["min"], outputs[0]["max"]) == (5.0, "inf")
    assert outputs[1]["dtype"] == "bfloat16"


def test_run_reads_and_writes_files(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.arange(1, 9, dtype=np.float32).reshape(2, 4))
    first, second = tmp_path / "r.npy", tmp_path / "h.npy"
    first.write_bytes(b"an older result")
    arguments = ["--input", f"{tmp_path}/x.npy", "--input", Y]
    arguments += ["--output", str(first), "--output", str(second)]
    assert main(["run", str(folder / "m.vmfb"), *arguments]) == 0
    np.testing.assert_array_equal(np.load(first), EXPECTED)
    # NumPy's format has no bfloat16; float32 holds all of its values.
    np.testing.assert_array_equal(np.load(second), EXPECTED)
    assert np.load(second).dtype == np.float32
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h.npy", "r.npy", "x.npy"]
    assert f"0: 2x3xfloat32 → {first}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--input", X], "the model takes 2 inputs, 1 were given"),
        (["--input", X, "--input", "4x9xf32=1"], "arg1"),
        (["--input", X, "--input", "4x3xi32=1"], "arg1"),
        (["--input", X, "--input", "z=4x3xf32"], "the model has no input 'z'"),
        (["--input", X, "--input", Y, "--device", "cpo"], "unknown device 'cpo'"),
        (["--input", X, "--input", Y, *["--output", "a.npy"] * 3], "the model has 2 outputs"),
        (["--input", X, "--input", Y, "--output", "none/a.npy"], "none/a.npy"),
    ],
)
def test_run_refuses(
    arguments: list[str], what: str, folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(folder / "m.vmfb"), *arguments]) == 2
    shown = capsys.readouterr()
    assert what in shown.err
    assert shown.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_file_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(folder / "m.mlir"), "--input", X]) == 2
    assert "m.mlir" in capsys.readouterr().err


def test_a_full_disk_leaves_the_old_file(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "r.npy"
    kept.write_bytes(b"an older result")
    script = "import sys; from lowc.tools.cli import main; sys.exit(main())"
    arguments = ["run", folder / "m.vmfb", "--input", X, "--input", Y, "--output", kept]
    ran = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64)), timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 2, ran.stderr
    assert f"{kept}: the file cannot be written (File too large)" in ran.stderr
    assert kept.read_bytes() == b"an older result"
    assert [path.name for path in tmp_path.iterdir()] == ["r.npy"]


def test_write_npy_keeps_to_the_umask(tmp_path: Path) -> None:
    write_npy(tmp_path / "a.npy", np.zeros(3, ml_dtypes.float8_e5m2))
    (tmp_path / "b.npy").touch()
    assert (tmp_path / "a.npy").stat().st_mode == (tmp_path / "b.npy").stat().st_mode


def test_entries_are_checked_before_anything_is_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = folder / "m.mlir"
    for given, words in (
        ([f"a={model}", "b="], "the entry 'b' has no file"),
        ([f"a={model}", "b=no.mlir"], "no.mlir: the file of the entry 'b' does not exist"),
        ([f"a={model}", f"reset={model}"], "an entry cannot be called 'reset'"),
    ):
        assert main(["compile", *given]) == 2
        assert words in capsys.readouterr().err


def test_energy_is_of_a_call_of_each_entry(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, target = folder / "m.mlir", tmp_path / "two.vmfb"
    assert main(["compile", f"a={model}", f"b={model}", "-o", str(target)]) == 0
    lines = capsys.readouterr().out.splitlines()
    said = [line for line in lines if line.startswith("arithmetic per call of ")]
    assert [line[: len("arithmetic per call of a:")] for line in said] == [
        "arithmetic per call of a:", "arithmetic per call of b:",
    ]  # fmt: skip
    assert main(["report", "energy", str(target), "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)["recipes"]
    assert [report["entry"] for report in reports] == ["a", "b"]
    assert {report["energy"]["operations"]["mulf.f32"] for report in reports} == {24}
    assert main(["report", "energy", str(target)]) == 0
    assert "two.vmfb, b, per call" in capsys.readouterr().out
