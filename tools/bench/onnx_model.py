"""A model as an ONNX file, for the opponents that read those: exported, and in 8 bits."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import UserError

# What speaks up during an export, about what it cannot fold and what is not installed.
_TALKATIVE = ("torch.onnx", "onnxscript", "onnx_ir", "root")
_HINT = "pip install 'lowc[bench]'"


def export(model: Path, folder: Path) -> Path:
    """Write the program of a ``.pt2`` as ONNX, by PyTorch's exporter; weights lie beside it.

    Raises
    ------
    UserError
        When a package is missing, or PyTorch cannot express the model.
    """
    from ...compiler.reference import load_program

    program = load_program(model)
    path = folder / "model.onnx"
    try:
        import onnxscript  # noqa: F401  (what the exporter needs)
        import torch
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed", hint=_HINT) from error
    with _quiet():
        try:
            exported = torch.onnx.export(program, dynamo=True, verbose=False)
            exported.save(path, external_data=True)
        except Exception as error:  # a class for every step
            raise _failed("PyTorch cannot export the model as ONNX", error) from error
    return path


def quantise(model: Path, folder: Path, kind: str) -> Path:
    """Write `model` with 8-bit weights, activations rounded at run time: ``int8`` or ``uint8``.

    By ONNX Runtime's own tool: one scale per weight and per activation.  Its signed weights meet
    unsigned activations in sums of two products, which saturate where the processor has no 8-bit
    dot product; unsigned ones do not.

    Raises
    ------
    UserError
        When a package is missing, or the tool fails.
    """
    path = folder / f"model-{kind}.onnx"
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed", hint=_HINT) from error
    weights = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}[kind]
    with _quiet():
        try:
            quantize_dynamic(model, path, weight_type=weights, use_external_data_format=True)
        except Exception as error:
            raise _failed("ONNX Runtime cannot quantise the model", error) from error
    return path


def _failed(what: str, error: Exception) -> UserError:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return UserError(f"{what} ({lines[0] if lines else type(error).__name__})")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings and progress of other packages from stderr."""
    loggers: list[Any] = [logging.getLogger(None if n == "root" else n) for n in _TALKATIVE]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
