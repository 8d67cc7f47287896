"""Compile tiny modules with a manifest, as lowc's compiler would write them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import iree.runtime as rt
import numpy as np
from lowc.runtime.manifest import REFLECTION_KEY, Leaf, Manifest, Parameters

LEAF = "*"
NO_KEYWORDS = {"type": "dict", "keys": [], "children": []}

TARGETS = {
    "cpu": ["--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu"],
    "cuda": ["--iree-hal-target-device=cuda", "--iree-cuda-target=sm_80"],
    "vulkan": ["--iree-hal-target-device=vulkan", "--iree-vulkan-target=vp_android_baseline_2022"],
}
# As lowc compiles for GPUs: calls take fences.
TARGETS["vulkan-fences"] = [*TARGETS["vulkan"], "--iree-execution-model=async-external"]


def iree_compile() -> str:
    """The compiler beside the Python that runs the tests."""
    beside = Path(sys.executable).with_name("iree-compile")
    return str(beside) if beside.exists() else shutil.which("iree-compile") or "iree-compile"


def tuple_of(count: int) -> dict[str, Any]:
    return {"type": "tuple", "children": [LEAF] * count}


def manifest(inputs: list[Leaf], outputs: list[Leaf], **changes: Any) -> Manifest:
    """A manifest of flat positional inputs; `changes` replace any field."""
    fields: dict[str, Any] = {
        "inputs": tuple(inputs),
        "outputs": tuple(outputs),
        "args_tree": tuple_of(len(inputs)),
        "kwargs_tree": NO_KEYWORDS,
        "out_tree": LEAF if len(outputs) == 1 else tuple_of(len(outputs)),
        "argument_names": tuple(leaf.name for leaf in inputs),
        "device": "cpu",
    }
    return Manifest(**(fields | changes))


def reflection(text: str) -> str:
    """The attribute that carries the manifest; MLIR wants quotes and backslashes as hex."""
    escaped = text.replace("\\", "\\5C").replace('"', "\\22")
    return f'iree.reflection = {{"{REFLECTION_KEY}" = "{escaped}"}}'


def build(path: Path, source: str, about: Manifest | str, target: str = "cpu") -> Path:
    """Compile `source`, in which ``@MANIFEST`` stands for the entry function's attributes."""
    text = about if isinstance(about, str) else about.to_json()
    source = source.replace("@MANIFEST", f"attributes {{{reflection(text)}}}")
    command = [iree_compile(), "-", "-o", str(path), *TARGETS[target]]
    command.append("--iree-input-demote-f64-to-f32=false")
    if target == "cpu":
        command.append("--iree-llvmcpu-target-cpu=generic")
    subprocess.run(command, input=source, text=True, check=True, timeout=120)
    return path


def archive(path: Path, tensors: Mapping[str, np.ndarray]) -> Parameters:
    """Write a parameter archive; return what the manifest says of it."""
    index = rt.ParameterIndex()
    for name, array in tensors.items():
        index.add_buffer(name, np.ascontiguousarray(array).view(np.uint8))
    index.create_archive_file(str(path))
    data = path.read_bytes()
    return Parameters(path.name, len(data), hashlib.sha256(data).hexdigest())
