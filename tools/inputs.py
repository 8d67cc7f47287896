"""Inputs on the command line: ``.npy`` files, and IREE's text form ``2x3xf32=1 2 3 4 5 6``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ..errors import UserError, nearest
from ..runtime.manifest import Leaf

ELEMENT_TYPES: dict[str, Any] = {
    "f64": np.float64, "f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16,
    "f8E4M3FN": ml_dtypes.float8_e4m3fn, "f8E5M2": ml_dtypes.float8_e5m2,
    "i64": np.int64, "i32": np.int32, "i16": np.int16, "i8": np.int8,
    "si64": np.int64, "si32": np.int32, "si16": np.int16, "si8": np.int8,
    "ui64": np.uint64, "ui32": np.uint32, "ui16": np.uint16, "ui8": np.uint8, "i1": np.bool_,
}  # fmt: skip

MAX_ELEMENTS = 1 << 32  # of an input written as text, so that a typing error takes no memory
_TENSOR = re.compile(r"((?:\d+x)*)([a-z]+\d\w*)(?:=(.*))?", re.DOTALL)
_HINT = "write FILE.npy, 2x3xf32=1.5, 2x3xf32=1 2 3 4 5 6, or NAME=one of these"


@dataclass(frozen=True)
class Input:
    """An input as it was given; ``name`` is None when its place says which one it is."""

    name: str | None
    value: np.ndarray[Any, Any]


def read_input(text: str) -> Input:
    """Read one ``--input``.

    Raises
    ------
    UserError
        Unknown type, wrong number of values, a file that is no ``.npy`` or needs a pickle.
    """
    if _looks_like_tensor(text):
        return Input(None, read_tensor(text))
    name, equals, rest = text.partition("=")
    if equals and _looks_like_tensor(rest):
        return Input(name, read_tensor(rest))
    return Input(name, read_npy(rest)) if equals else Input(None, read_npy(text))


def _looks_like_tensor(text: str) -> bool:
    match = _TENSOR.fullmatch(text)
    # A name such as x1=a.npy looks like a scalar of the type x1: only a known type, or a shape
    # in front, makes it a tensor.
    return match is not None and bool(match[1] or match[2] in ELEMENT_TYPES)


def read_tensor(text: str) -> np.ndarray[Any, Any]:
    """Read ``2x3xf32=1 2 3 4 5 6``; one value fills the tensor, none means zeros."""
    match = _TENSOR.fullmatch(text)
    if match is None:
        raise UserError("this is no tensor", where=text[:80], hint=_HINT)
    where = f"input '{text[:80]}'"
    if match[2] not in ELEMENT_TYPES:
        hint = nearest(match[2], ELEMENT_TYPES)
        raise UserError(f"the element type '{match[2]}' is unknown", where=where, hint=hint)
    dtype = np.dtype(ELEMENT_TYPES[match[2]])
    shape = tuple(int(size) for size in match[1].split("x") if size)
    count = 1
    for size in shape:
        count *= size
    if count > MAX_ELEMENTS:
        raise UserError(f"{count} elements are too many to write as text", where=where)
    words = re.sub(r"[\[\],]", " ", match[3] or "").split()
    if len(words) not in (0, 1, count):
        raise UserError(
            f"{len(words)} values were given, {'x'.join(map(str, shape))} needs {count} or one",
            where=where,
        )
    values = [_number(word, dtype, where) for word in words]
    if len(values) == 1:
        return np.full(shape, values[0], dtype)
    return np.array(values, dtype).reshape(shape) if values else np.zeros(shape, dtype)


def _number(word: str, dtype: np.dtype[Any], where: str) -> Any:
    kind = {"i": "integer", "u": "integer", "b": "truth value (0, 1)"}.get(dtype.kind, "number")
    try:
        if dtype.kind == "b":
            return {"0": False, "1": True, "false": False, "true": True}[word]
        if dtype.kind not in "iu":
            return float(word)
        value, limits = int(word, 0), np.iinfo(dtype)
    except (ValueError, KeyError):
        raise UserError(f"'{word}' is no {kind}", where=where) from None
    if not limits.min <= value <= limits.max:
        raise UserError(f"{word} does not fit into {dtype}", where=where)
    return value


def read_npy(text: str) -> np.ndarray[Any, Any]:
    """Read a ``.npy`` file (``a.npy`` or, as IREE writes it, ``@a.npy``); never a pickle."""
    path = Path(text.removeprefix("@"))
    try:
        with path.open("rb") as file:
            array: np.ndarray[Any, Any] = np.lib.format.read_array(file, allow_pickle=False)
            return array
    except FileNotFoundError:
        raise UserError("the file does not exist", where=str(path), hint=_HINT) from None
    except (ValueError, EOFError, MemoryError, SyntaxError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"this is no .npy file of plain numbers ({said})", where=str(path),
            hint="write one with numpy.save(path, array)",
        ) from error  # fmt: skip
    except OSError as error:
        raise UserError(f"the file cannot be read ({error.strerror})", where=str(path)) from error


def bind(given: Sequence[Input], leaves: Sequence[Leaf]) -> list[Any]:
    """Return one value per leaf: named inputs by name, the others in order, literals as they are.

    Raises
    ------
    UserError
        An unknown name, a name twice, too many inputs or too few.
    """
    wanted = [leaf.name for leaf in leaves if not leaf.literal]
    values: dict[str, np.ndarray[Any, Any]] = {}
    for one in given:
        if one.name is None:
            continue
        if one.name not in wanted:
            raise UserError(f"the model has no input '{one.name}'", hint=nearest(one.name, wanted))
        if one.name in values:
            raise UserError("the input is given twice", where=f"input '{one.name}'")
        values[one.name] = one.value
    unnamed = [one.value for one in given if one.name is None]
    places = [name for name in wanted if name not in values]
    if len(unnamed) != len(places):
        raise UserError(
            f"the model takes {len(wanted)} inputs, {len(given)} were given",
            hint="it takes " + ", ".join(str(leaf) for leaf in leaves if not leaf.literal),
        )
    values.update(zip(places, unnamed, strict=True))
    return [leaf.value if leaf.literal else values[leaf.name] for leaf in leaves]
