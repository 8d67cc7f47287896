"""lowc: compile PyTorch models to cheap arithmetic, and run them.

    artifact = lowc.compile("model.pt2", recipe="w4a16", output="model.vmfb")
    module = lowc.load("model.vmfb")
    out = module(*inputs)

Importing ``lowc`` is light: the compiler and PyTorch are loaded when they are needed, and running
an artifact needs neither.
"""

from __future__ import annotations

import importlib

from .errors import InternalError, LowcError, UserError

# Not typing's: until the command line has begun (tools/entry.py), Ctrl-C leaves a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .compiler.api import compile  # noqa: A004
    from .compiler.artifact import Artifact
    from .compiler.recipe import Recipe
    from .compiler.target import Target
    from .runtime.generation import generate
    from .runtime.module import Module, load
    from .runtime.program import Program
    from .runtime.sampling import Sampling

__version__ = "0.1.0"

_LAZY = {
    "Artifact": "compiler.artifact",
    "Module": "runtime.module",
    "Program": "runtime.program",
    "Recipe": "compiler.recipe",
    "Sampling": "runtime.sampling",
    "Target": "compiler.target",
    "compile": "compiler.api",
    "generate": "runtime.generation",
    "load": "runtime.module",
}

__all__ = [
    "Artifact", "InternalError", "LowcError", "Module", "Program", "Recipe", "Sampling", "Target",
    "UserError", "compile", "generate", "load",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'lowc' has no attribute '{name}'")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
