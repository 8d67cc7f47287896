"""Writes docs/map.md, one line per file, from the first line of each file: ``make docs``."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

from layout import ROOT, files

HEAD = """\
# Map

One line per file, taken from the file's own first line by `make docs`.  A model goes through
`compiler/` from top to bottom: `frontend` reads it, `pipeline` says which `passes/` rewrite it,
`parameters` and `derivations` write its weights, `backend` generates code, `artifact` puts the
files into place.  `runtime/` runs the result and needs none of the above; `tools/` is the command
line.

What is no Python: `Makefile` (all that people do here), `.ci/` (what machines do: `run` everything,
`vulkan` installs a driver, `ptxas` an assembler, `browser` a browser, `lock` resolves the requirements), `requirements.lock`, `.pre-commit-config.yaml`;
[recipes.md](recipes.md), [passes.md](passes.md) (generated), [safety.md](safety.md), [serve.md](serve.md), [tiles.md](tiles.md),
[cost-models.md](cost-models.md), [quality.md](quality.md) (its tables by `make quality`),
`deploy/` (files for operators of the server), and
`CONTRIBUTING.md`, which shows how to write a pass.
"""

# In the order in which to read them, each with what the folder is and what it may know.
FOLDERS = {
    "": "the public API: `compile`, `load`, `Recipe`, `Target`, and the errors",
    "compiler": "from a model to an artifact; may use `passes` and the manifest of `runtime`",
    "compiler/energy": "what operations cost in energy, with sources",
    "compiler/recipes": "the built-in recipes; see [recipes.md](recipes.md)",
    "passes": "what rewrites the IR; knows MLIR, nothing of PyTorch or files",
    "passes/formats": "one NumPy definition per number format; no MLIR",
    "passes/kernels": "kernels that lowc generates itself, one meaning each, for a tile and a vector width",
    "passes/tiling": "which tiles a product can have, and models that rank them; see [tiles.md](tiles.md)",
    "runtime": "load and run; needs NumPy and `iree.runtime` only",
    "tools": "the command line, one file per subcommand (`compile`, `run`, `opt` …) and what they share",
    "tools/bench": "measuring beside named opponents",
    "tools/tune": "measuring tiles, and fitting cost models to what was measured",
    "tools/report": "what a form or a recipe costs and saves: text, JSON, plots",
    "tools/serve": "the cost-model server: protocol, limits, workers, endpoints, page",
    "tests": "mirrors the folders; `tests/filecheck/passes/` has one IR test per pass, run by lit",
}


def render() -> str:
    """Return the map.

    Raises
    ------
    ValueError
        When a file does not begin with what it is for.
    """
    groups: dict[str, list[Path]] = {folder: [] for folder in FOLDERS}
    for path in files(".py", ".toml"):
        if path.name == "__init__.py" and not first_line(path):
            raise ValueError(f"{path} does not begin with what it is for")
        groups.setdefault("" if path.parent == Path() else path.parent.as_posix(), []).append(path)
    return "\n".join(
        [HEAD, *(_section(folder, paths) for folder, paths in groups.items() if paths)]
    )


def _section(folder: str, paths: list[Path]) -> str:
    title = f"`{folder}/`" if folder else "The root"
    text = f": {FOLDERS[folder]}" if folder in FOLDERS else ""
    lines = [f"- `{path.name}` {first_line(path)}" for path in paths]
    return "\n".join([f"## {title}{text}\n", *lines, ""])


def first_line(path: Path) -> str:
    """Return what a file says it is for: the docstring's first line, or a TOML's description."""
    text = (ROOT / path).read_text(encoding="utf-8")
    said = _of_python(text) if path.suffix == ".py" else _of_toml(text)
    if not said:
        raise ValueError(f"{path} does not begin with what it is for")
    return re.sub(r"``(.*?)``|:\w+:`(.*?)`", r"`\1\2`", said).rstrip(".")


def _of_python(text: str) -> str:
    docstring = ast.get_docstring(ast.parse(text)) or ""
    return " ".join(docstring.partition("\n\n")[0].split())


def _of_toml(text: str) -> str:
    described = tomllib.loads(text).get("description", "")
    comment = text.partition("\n")[0].removeprefix("# ") if text.startswith("#") else ""
    return str(described) or re.split(r"\.(?:\s|$)", comment)[0]


if __name__ == "__main__":
    sys.stdout.write(render())
