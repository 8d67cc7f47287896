"""PyTorch's names of data types, as NumPy and IREE know them."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from iree.runtime import HalElementType as Element

from ..errors import UserError


class DataType(NamedTuple):
    """``numpy`` is what users see, ``carrier`` a type of the same width that buffers can carry."""

    numpy: np.dtype[Any]
    carrier: np.dtype[Any]
    element: int


def _type(name: str, element: Element) -> DataType:
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    # NumPy's buffers cannot carry booleans as bytes, nor types that are not its own.
    is_foreign = hasattr(ml_dtypes, name) or name == "bool"
    carrier = np.dtype(f"u{dtype.itemsize}") if is_foreign else dtype
    return DataType(dtype, carrier, int(element))


TYPES = {
    name: _type(name, element)
    for name, element in {
        "bool": Element.BOOL_8,
        "int8": Element.SINT_8, "int16": Element.SINT_16,
        "int32": Element.SINT_32, "int64": Element.SINT_64,
        "uint8": Element.UINT_8, "uint16": Element.UINT_16,
        "uint32": Element.UINT_32, "uint64": Element.UINT_64,
        "float8_e4m3fn": Element.FLOAT_8_E4M3_FN, "float8_e4m3fnuz": Element.FLOAT_8_E4M3_FNUZ,
        "float8_e5m2": Element.FLOAT_8_E5M2, "float8_e5m2fnuz": Element.FLOAT_8_E5M2_FNUZ,
        "float16": Element.FLOAT_16, "bfloat16": Element.BFLOAT_16,
        "float32": Element.FLOAT_32, "float64": Element.FLOAT_64,
        "complex64": Element.COMPLEX_64, "complex128": Element.COMPLEX_128,
    }.items()
}  # fmt: skip
_NAMES = {entry.numpy: name for name, entry in TYPES.items()}


def data_type(name: str, where: str) -> DataType:
    """Return the entry of `name`.

    Raises
    ------
    UserError
        When the runtime has no such type.
    """
    if name not in TYPES:
        raise UserError(f"the data type '{name}' is not one that the runtime handles", where=where)
    return TYPES[name]


def name_of(dtype: np.dtype[Any]) -> str:
    """Return PyTorch's name of a NumPy type, or NumPy's own when PyTorch has none."""
    return _NAMES.get(dtype, str(dtype))


def kind_of(name: str) -> str:
    """Return ``bool``, ``int``, ``uint``, ``float``, ``complex``, or "" for another word."""
    kinds = {"bool": "bool", "uint": "uint", "int": "int", "complex": "complex"}
    kinds |= {"float": "float", "bfloat": "float"}
    return next((kind for start, kind in kinds.items() if name.startswith(start)), "")
