"""Who a compiled model is measured against."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import UserError, nearest
from . import onnx_sessions

if TYPE_CHECKING:
    from ...compiler.frontend import Model

Runner = Callable[[], Any]

# What people switch on in stock IREE for a CPU; each is measured, the best is the opponent.
STOCK_FLAG_SETS: dict[str, tuple[str, ...]] = {
    "iree:default": (),
    "iree:O3": ("--iree-opt-level=O3",),
    "iree:data-tiling": ("--iree-opt-level=O2", "--iree-opt-data-tiling=true"),
    "iree:no-data-tiling": ("--iree-opt-level=O3", "--iree-opt-data-tiling=false"),
    "iree:inner-tiled": (
        "--iree-opt-level=O3", "--iree-opt-data-tiling=true", "--iree-llvmcpu-enable-inner-tiled",
    ),
    "iree:ukernels": (
        "--iree-opt-level=O3", "--iree-opt-data-tiling=true", "--iree-llvmcpu-enable-ukernels=all",
    ),
    "iree:reassociation": (
        "--iree-opt-level=O3", "--iree-global-opt-enable-quantized-matmul-reassociation",
    ),
}  # fmt: skip
# Those of ``-int8`` run the model as ONNX Runtime quantises it.
NAMES = ("torch", "iree", "onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8")


def check_names(names: tuple[str, ...], known: tuple[str, ...] = NAMES) -> None:
    """Raise a UserError for an opponent that does not exist."""
    for name in names:
        if name not in known:
            raise UserError(f"there is no opponent '{name}'", hint=nearest(name, known))


def torch_runner(model: Path, inputs: list[Any], threads: int) -> Runner:
    """Run the program itself in PyTorch; returns flat NumPy results."""
    from ...compiler.reference import load_reference

    call = load_reference(model)
    import torch

    torch.set_num_threads(threads)
    tensors = [torch.as_tensor(value) for value in inputs]
    return lambda: [_numpy(value) for value in call(*tensors)]


def _numpy(value: Any) -> Any:
    if not hasattr(value, "detach"):
        return value
    return value.detach().float().numpy() if value.is_floating_point() else value.numpy()


def iree_artifacts(model: Model, folder: Path) -> Iterator[tuple[str, Path | str]]:
    """Compile `model` with every stock flag set; yield name and path, or why it failed."""
    from ...compiler.api import compile as compile_model
    from ...compiler.target import Target
    from ...errors import LowcError

    base = (
        "--iree-hal-target-device=local",
        "--iree-hal-local-target-device-backends=llvm-cpu",
        "--iree-llvmcpu-target-cpu=host",
        # Without it models with an embedding and a LayerNorm do not compile at all.
        "--iree-llvmcpu-stack-allocation-limit=131072",
    )
    for name, flags in STOCK_FLAG_SETS.items():
        target = Target(name, "cpu", "cpu", base + flags)
        try:
            output = folder / f"{name.replace(':', '-')}.vmfb"
            artifact = compile_model(model.copy(), "f32", target, output=output, kernels=False)
            yield name, artifact.path
        except LowcError as error:
            yield name, error.what


def onnxruntime_runner(path: Path, inputs: list[Any], threads: int) -> Runner:
    """Run an ONNX file of the same model; inputs are given in their order."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise UserError("onnxruntime is not installed", hint="pip install onnxruntime") from error

    options = onnx_sessions.options(threads)
    try:
        session = onnxruntime.InferenceSession(
            os.fspath(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its errors have no common base
        raise _not_loaded("ONNX Runtime", path, error) from error
    feed = {node.name: np.asarray(v) for node, v in zip(session.get_inputs(), inputs, strict=True)}
    return lambda: session.run(None, feed)


def openvino_runner(path: Path, inputs: list[Any], threads: int) -> Runner:
    """Run an ONNX file of the same model in OpenVINO, in f32."""
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise UserError("openvino is not installed", hint="pip install openvino") from error

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    try:
        compiled = openvino.Core().compile_model(os.fspath(path), "CPU", settings)
    except Exception as error:
        raise _not_loaded("OpenVINO", path, error) from error
    request = compiled.create_infer_request()
    return lambda: list(request.infer(inputs).values())


def _not_loaded(name: str, path: Path, error: Exception) -> UserError:
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"{name} cannot load the model ({said})", where=str(path))
