"""Make the bytes of derived parameters, a block of rows at a time.

A derivation (see ``passes/parameters.py``) names a source tensor, a layout, and a method with its
numbers; its parts (codes, scales, zeros) are separate parameters that are calculated together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InternalError, UserError
from ..passes.formats import integer

BLOCK_ELEMENTS = 1 << 22  # 16 MiB of f32 at a time


@dataclass(frozen=True)
class Derivation:
    """What one group of derived parameters follows from; the fields of ``lowc.derivation``."""

    kind: str
    source: str
    layout: str
    bits: int
    group: int
    symmetric: bool
    zero_bytes: int = 1

    @classmethod
    def from_attribute(cls, values: dict[str, Any]) -> tuple[Derivation, str]:
        """Split the attribute of a global into its derivation and its part."""
        values = dict(values)
        part = values.pop("part")
        return cls(**values), part

    @property
    def format(self) -> integer.GroupedInteger:
        """The number format of the result."""
        return integer.GroupedInteger(self.bits, self.group, self.symmetric)


Part = tuple[str, NDArray[np.uint8]]


def apply_layout(tensor: NDArray[Any], steps: list[list[Any]]) -> NDArray[Any]:
    """Repeat on stored values what the model does to a weight before it multiplies by it."""
    for name, *arguments in steps:
        if name == "transpose":
            tensor = tensor.transpose(arguments[0])
        elif name == "reshape":
            tensor = tensor.reshape(arguments[0])
        elif name == "slice":
            offsets, sizes, strides = arguments
            tensor = tensor[
                tuple(
                    slice(offset, offset + (size - 1) * stride + 1, stride)
                    for offset, size, stride in zip(offsets, sizes, strides, strict=True)
                )
            ]
        elif name == "cast":
            tensor = tensor.astype(_CASTS[arguments[0]])
        else:
            raise InternalError(f"the layout step '{name}' is unknown")
    return tensor


def _bfloat16() -> Any:
    import ml_dtypes

    return ml_dtypes.bfloat16


_CASTS: dict[str, Any] = {
    "f64": np.float64, "f32": np.float32, "f16": np.float16, "bf16": _bfloat16(),
}  # fmt: skip


def _rtn(rows: NDArray[np.float32], derivation: Derivation) -> Iterator[Part]:
    quantized = integer.quantize(rows, derivation.format)
    yield "codes", integer.pack(quantized.codes, derivation.bits)
    yield "scales", quantized.scales.reshape(-1).view(np.uint8)
    if quantized.zeros is not None:
        yield (
            "zeros",
            quantized.zeros.reshape(-1).astype(f"<u{derivation.zero_bytes}").view(np.uint8),
        )


METHODS: dict[str, Callable[[NDArray[np.float32], Derivation], Iterator[Part]]] = {"rtn": _rtn}


def derive(tensor: NDArray[Any], derivation: Derivation) -> Iterator[Part]:
    """Yield ``(part, bytes)`` pairs; the blocks of one part follow each other in memory order.

    Parameters
    ----------
    tensor : ndarray
        The source as it is stored; may be memory-mapped, any float type.

    Raises
    ------
    UserError
        When the weight cannot be quantised (NaN or infinity in it).
    """
    if derivation.kind not in METHODS:
        raise InternalError(f"the derivation '{derivation.kind}' is unknown")
    laid_out = apply_layout(tensor, json.loads(derivation.layout))
    k = laid_out.shape[-1]
    rows = laid_out.reshape(-1, k)
    step = max(1, BLOCK_ELEMENTS // k)
    for start in range(0, len(rows), step):
        block = np.ascontiguousarray(rows[start : start + step], dtype=np.float32)
        try:
            yield from METHODS[derivation.kind](block, derivation)
        except ValueError as error:
            raise UserError(
                f"the weight cannot be quantised: {error}", where=f"parameter '{derivation.source}'"
            ) from error
