"""The wheel: built from a copy of the sources, installed into a clean environment, tried there.

The environment has the wheel and, behind it on the path, this environment's dependencies; it sees
neither the checkout nor an editable install.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
from layout import ROOT, package_files, pyproject

pytestmark = pytest.mark.wheel

VERSION = pyproject()["project"]["version"]
NOT_COPIED = shutil.ignore_patterns(
    ".*", "build", "dist", "*.egg-info", "__pycache__", "benchmarks"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: building in the checkout would pack what earlier builds left in build/.
    shutil.copytree(ROOT, folder / "sources", ignore=NOT_COPIED)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder]
    _run(sys.executable, "-m", "pip", "-q", "wheel", *options, folder / "sources")
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the ``bin`` of a clean environment with the wheel in it."""
    folder = tmp_path_factory.mktemp("clean") / "env"
    _run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "-q", "--disable-pip-version-check"]
    _run(*pip, "install", "--no-index", "--no-deps", wheel)
    site = Path(
        _run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    )
    # Only a folder on the path: the .pth files in it, editable installs among them, are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def _run(*command: str | Path, cwd: Path | None = None, code: int = 0) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    ran = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, timeout=600)
    said = f"{command}: exit code {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    assert ran.returncode == code, said
    return ran.stdout


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    kinds = (".py", ".toml", ".proto", ".html", ".js", ".css")
    ours = {*package_files(*kinds), Path("py.typed")} - {Path("pyproject.toml")}
    meta = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt")
    ours |= {path.relative_to(ROOT) for path in (ROOT / "passes/tiling/models").glob("*/*")}
    expected = {f"lowc/{path.as_posix()}" for path in ours}
    expected |= {f"lowc-{VERSION}.dist-info/{name}" for name in meta}
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) == expected


def test_its_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read(f"lowc-{VERSION}.dist-info/METADATA").decode().splitlines()
        licence = archive.read(f"lowc-{VERSION}.dist-info/licenses/LICENSE").decode()
    assert wheel.name == f"lowc-{VERSION}-py3-none-any.whl"
    assert "License-Expression: Apache-2.0 WITH LLVM-exception" in lines
    assert "Requires-Python: >=3.11" in lines
    needed = [line for line in lines if line.startswith("Requires-Dist:")]
    assert not [line for line in needed if "torch" in line and "extra ==" not in line]
    assert "LLVM Exceptions to the Apache 2.0 License" in licence


def test_every_module_imports(clean: Path, tmp_path: Path) -> None:
    modules = sorted(
        ".".join(("lowc", *path.with_suffix("").parts)).removesuffix(".__init__")
        for path in package_files(".py")
    )
    code = (
        "import importlib, json, sys\n"
        f"found = {{name: importlib.import_module(name).__file__ for name in {modules}}}\n"
        "print(json.dumps(found))"
    )
    found = json.loads(_run(clean / "python", "-c", code, cwd=tmp_path))
    assert set(found) == set(modules)
    outside = [file for file in found.values() if not file.startswith(str(clean.parent))]
    assert not outside, "imported from somewhere else than the wheel"


def test_data_files_are_found(clean: Path, tmp_path: Path) -> None:
    code = (
        "import json\n"
        "from lowc.compiler import recipe, target\n"
        "names = recipe.built_in_names()\n"
        "assert all(recipe.load_recipe(name).rules for name in names)\n"
        "print(json.dumps([names, sorted(target.target_names())]))"
    )
    recipes, targets = json.loads(_run(clean / "python", "-c", code, cwd=tmp_path))
    in_tree = (ROOT / "compiler" / "recipes").glob("*.toml")
    assert recipes == sorted(path.stem for path in in_tree)
    assert targets == ["cpu", "cuda", "vulkan"]


def test_command_line(clean: Path, tmp_path: Path) -> None:
    lowc = clean / "lowc"
    assert "compile" in _run(lowc, "--help", cwd=tmp_path)
    assert _run(lowc, "--version", cwd=tmp_path).split() == ["lowc", VERSION]
    assert "lowc-name-matmuls" in _run(lowc, "passes", cwd=tmp_path)
    for command in ("compile", "run", "opt", "passes", "bench", "serve", "doctor"):
        assert command in _run(lowc, command, "--help", cwd=tmp_path)
    _run(lowc, "compiel", cwd=tmp_path, code=2)


def test_compile_and_run_mlir(clean: Path, tmp_path: Path) -> None:
    (tmp_path / "double.mlir").write_text(
        "func.func @main(%x: tensor<2x3xf32>) -> tensor<2x3xf32> {\n"
        "  %y = arith.addf %x, %x : tensor<2x3xf32>\n  return %y : tensor<2x3xf32>\n}\n"
    )
    _run(clean / "lowc", "compile", "double.mlir", "-o", "double.vmfb", cwd=tmp_path)
    given = ["--input", "2x3xf32=1.5", "--output", "out.npy"]
    _run(clean / "lowc", "run", "double.vmfb", *given, cwd=tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), np.full((2, 3), 3, np.float32))


def test_compile_and_run_pt2(clean: Path, tmp_path: Path) -> None:
    """The importer is a process of its own, which must find the wheel's modules too."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(64, 32), torch.randn(4, 64)
    torch.export.save(torch.export.export(layer, (x,)), tmp_path / "layer.pt2")
    np.save(tmp_path / "x.npy", x.numpy())
    wanted = layer(x).detach().numpy()
    for recipe, tolerance in (("f32", 1e-5), ("w8a16", 0.05)):
        _run(clean / "lowc", "compile", "layer.pt2", "--recipe", recipe, cwd=tmp_path)
        files = ["--input", "x.npy", "--output", "y.npy"]
        _run(clean / "lowc", "run", "layer.vmfb", *files, cwd=tmp_path)
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), wanted, atol=tolerance)
