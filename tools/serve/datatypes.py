"""The protocol's data types: their NumPy types, and where gRPC's typed contents keep them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BYTES = "BYTES"


@dataclass(frozen=True)
class Datatype:
    """One data type.

    Attributes
    ----------
    dtype : numpy.dtype
        Little-endian, as the protocol's binary form is.
    contents : str
        The field of ``InferTensorContents``; empty where there is none (FP16).
    """

    dtype: np.dtype
    contents: str


def _of(dtype: str, contents: str) -> Datatype:
    return Datatype(np.dtype(dtype), contents)


DATATYPES = {
    "BOOL": _of("?", "bool_contents"),
    "UINT8": _of("u1", "uint_contents"),
    "UINT16": _of("<u2", "uint_contents"),
    "UINT32": _of("<u4", "uint_contents"),
    "UINT64": _of("<u8", "uint64_contents"),
    "INT8": _of("i1", "int_contents"),
    "INT16": _of("<i2", "int_contents"),
    "INT32": _of("<i4", "int_contents"),
    "INT64": _of("<i8", "int64_contents"),
    "FP16": _of("<f2", ""),
    "FP32": _of("<f4", "fp32_contents"),
    "FP64": _of("<f8", "fp64_contents"),
    BYTES: _of("O", "bytes_contents"),
}
