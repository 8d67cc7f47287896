"""Tensors of requests and answers: JSON lists and the protocol's binary form, to NumPy and back.

Nothing that a client declares is believed: shapes are bounded before anything is allocated, and
what comes must have as many elements as they say.  Numbers must be finite.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from .datatypes import BYTES, DATATYPES
from .faults import Fault, short

MOST_DIMENSIONS = 8
_FEW = 16
_INTEGERS: set[type] = {int}
_NUMBERS: set[type] = {int, float}
_LENGTH = struct.Struct("<I")


def checked_datatype(name: Any, where: str) -> str:
    """Return `name` if it is that of a data type.

    Raises
    ------
    Fault
        400, when there is none.
    """
    if not isinstance(name, str) or name not in DATATYPES:
        raise Fault(400, f"{where}: there is no datatype {short(name)}")
    return name


def checked_shape(shape: Any, where: str, most: int) -> tuple[int, ...]:
    """Return `shape` if it is one of at most `most` elements.

    Raises
    ------
    Fault
        400 for what is no shape, and for too many elements.
    """
    if not isinstance(shape, Sequence) or isinstance(shape, (str, bytes)):
        raise Fault(400, f"{where}: a shape is a list of sizes")
    if not 1 <= len(shape) <= MOST_DIMENSIONS:
        raise Fault(400, f"{where}: a shape has 1 to {MOST_DIMENSIONS} sizes, not {len(shape)}")
    for size in shape:
        if type(size) is not int or size < 0:
            raise Fault(400, f"{where}: {short(size)} is no size")
    if (count := math.prod(shape)) > most:
        raise Fault(400, f"{where}: {count} elements are more than the {most} allowed")
    return tuple(shape)


def from_json(data: Any, shape: tuple[int, ...], name: str, where: str) -> np.ndarray:
    """Return a JSON list, flat or nested as `shape` is, as an array of data type `name`.

    Raises
    ------
    Fault
        400, when the elements are not those that shape and data type declare.
    """
    if not isinstance(data, list):
        raise Fault(400, f"{where}: data must be a list")
    flat = _flat(data, shape, where)
    if len(flat) != math.prod(shape):
        raise Fault(400, f"{where}: {len(flat)} elements where {math.prod(shape)} are declared")
    if name == BYTES:
        return _texts(flat, shape, where)
    _check_kinds(flat, name, where)
    try:
        made = np.array(flat, DATATYPES[name].dtype)
    except OverflowError:
        raise Fault(400, f"{where}: an element does not fit into {name}") from None
    return finite(made, where).reshape(shape)


def _flat(data: list[Any], shape: tuple[int, ...], where: str) -> list[Any]:
    if len(shape) == 1 or not data or type(data[0]) is not list:
        return data
    for depth, size in enumerate(shape[1:], 1):
        if any(type(part) is not list or len(part) != size for part in data):
            raise Fault(400, f"{where}: level {depth} of data is not made of lists of {size}")
        data = list(chain.from_iterable(data))
    return data


def _check_kinds(flat: list[Any], name: str, where: str) -> None:
    kinds = set(map(type, flat))
    if name == "BOOL":
        allowed: set[type] = {bool}
    else:
        allowed = _NUMBERS if name.startswith("FP") else _INTEGERS
    if not kinds <= allowed:
        odd = next(value for value in flat if type(value) not in allowed)
        raise Fault(400, f"{where}: {short(odd)} is no {name}")


def _texts(flat: list[Any], shape: tuple[int, ...], where: str) -> np.ndarray:
    made = np.empty(len(flat), object)
    for index, value in enumerate(flat):
        if type(value) is not str:
            raise Fault(400, f"{where}: {short(value)} is no text")
        made[index] = value.encode()
    return made.reshape(shape)


def finite(made: np.ndarray, where: str) -> np.ndarray:
    """Return `made` if no element is infinite or no number.

    Raises
    ------
    Fault
        400, when one is.
    """
    if made.dtype.kind == "f" and not _is_finite(made):
        raise Fault(400, f"{where}: an element is infinite or not a number")
    return made


def _is_finite(made: np.ndarray) -> bool:
    # Of a few numbers Python is done before NumPy begins.
    if made.size <= _FEW:
        return all(map(math.isfinite, made.reshape(-1).tolist()))
    return bool(np.isfinite(made).all())


def from_binary(raw: memoryview, shape: tuple[int, ...], name: str, where: str) -> np.ndarray:
    """Return the protocol's binary form as an array of data type `name`.

    Raises
    ------
    Fault
        400, when there are not as many bytes as shape and data type need.
    """
    if name == BYTES:
        return _from_lengths(raw, shape, where)
    dtype = DATATYPES[name].dtype
    needed = math.prod(shape) * dtype.itemsize
    if len(raw) != needed:
        raise Fault(400, f"{where}: {len(raw)} bytes where shape and datatype need {needed}")
    if name == "BOOL":
        return (np.frombuffer(raw, np.uint8) != 0).reshape(shape)
    return finite(np.frombuffer(raw, dtype), where).reshape(shape)


def _from_lengths(raw: memoryview, shape: tuple[int, ...], where: str) -> np.ndarray:
    count, at = math.prod(shape), 0
    # Each element has a length of four bytes: no array is made for what cannot be there.
    if len(raw) < count * _LENGTH.size:
        raise Fault(400, f"{where}: {len(raw)} bytes cannot hold {count} texts with their lengths")
    made = np.empty(count, object)
    for index in range(count):
        if at + _LENGTH.size > len(raw):
            raise Fault(400, f"{where}: text {index} of {count} is missing")
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        if length > len(raw) - at:
            raise Fault(400, f"{where}: text {index} says that it has {length} bytes")
        made[index] = bytes(raw[at : at + length])
        at += length
    if at != len(raw):
        raise Fault(400, f"{where}: {len(raw) - at} bytes follow the last text")
    return made.reshape(shape)


def to_json(array: np.ndarray) -> list[Any]:
    """Return an array as a flat list, row by row; texts must be UTF-8."""
    if array.dtype == object:
        return [bytes(value).decode("utf-8", "replace") for value in array.reshape(-1)]
    return array.reshape(-1).tolist()


def to_binary(array: np.ndarray) -> bytes:
    """Return an array in the protocol's binary form."""
    if array.dtype != object:
        return np.ascontiguousarray(array).tobytes()
    return b"".join(_LENGTH.pack(len(value)) + value for value in map(bytes, array.reshape(-1)))
