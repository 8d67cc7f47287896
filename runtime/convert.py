"""Make NumPy arrays of what callers pass, in exactly the data type that the model takes."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ..errors import UserError
from .dtypes import DataType, data_type, kind_of, name_of
from .manifest import Leaf

_PYTHON_KINDS = {bool: "bool", int: "int", float: "float", complex: "complex"}
# What a Python number may stand for: 3 for 3.0, never 3.5 for 3 nor True for 1.
_STANDS_FOR = {
    "bool": {"bool"},
    "int": {"int", "uint", "float", "complex"},
    "float": {"float", "complex"},
    "complex": {"complex"},
}


def to_array(value: Any, dtype: str, where: str) -> np.ndarray:
    """Return `value` as a C-contiguous array of type `dtype` (PyTorch's name).

    Python numbers and nested lists of them are converted when their kind fits; arrays and tensors
    must have the type, or a narrower one of the same kind, whose every value it holds (int32 for
    int64, float16 for float32).  No copy is made of an array that fits as it is.

    Parameters
    ----------
    value : object
        An array, anything with ``__array__`` or ``__dlpack__``, a PyTorch tensor, or numbers.
    where : str
        Names the input in errors.

    Raises
    ------
    UserError
        When the value is no array, or of another type.
    """
    wanted = data_type(dtype, where)
    if isinstance(value, (bool, int, float, complex, list, tuple)) and not isinstance(
        value, np.generic
    ):
        return _from_numbers(value, dtype, wanted, where)
    array = _from_array_like(value, dtype, where)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype != wanted.numpy:
        array = _widen(array, dtype, wanted, where)
    # `ascontiguousarray` would turn rank 0 into rank 1.
    return np.asarray(array, order="C")


def array_of(value: Any, where: str) -> np.ndarray:
    """Return `value`, an array or tensor of any type, as a C-contiguous array.

    Raises
    ------
    UserError
        When the value is no array, or of a type that devices do not hold.
    """
    array = _from_array_like(value, "any type", where)
    data_type(name_of(array.dtype), where)
    return np.asarray(array, order="C")


def _from_numbers(value: Any, dtype: str, wanted: DataType, where: str) -> np.ndarray:
    numbers = list(_numbers(value, dtype, where))
    kind = kind_of(dtype)
    for number in numbers:
        given = _PYTHON_KINDS.get(type(number), "")
        if kind not in _STANDS_FOR.get(given, ()):
            got = f"the {type(number).__name__} {number!r}"
            raise UserError(f"expected {dtype}, got {got}", where=where)
        if kind in ("int", "uint"):
            limits = np.iinfo(wanted.numpy)
            if not limits.min <= number <= limits.max:
                raise UserError(
                    f"{number} does not fit {dtype}, which holds {limits.min} to {limits.max}",
                    where=where,
                )
    try:
        # Through float64, because some small types do not convert from Python's numbers.
        array = np.asarray(value, dtype=np.float64 if kind == "float" else wanted.numpy)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"these nested lists are no array ({error})", where=where) from error
    return array.astype(wanted.numpy, copy=False)


def _numbers(value: Any, dtype: str, where: str) -> Any:
    if not isinstance(value, (list, tuple)):
        if type(value) not in _PYTHON_KINDS:
            raise UserError(
                f"expected {dtype}, got a list with a {type(value).__name__} in it",
                where=where,
                hint="stack the parts into one array",
            )
        yield value
        return
    for item in value:
        yield from _numbers(item, dtype, where)


def _from_array_like(value: Any, dtype: str, where: str) -> np.ndarray:
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value)
    try:
        if type(value).__module__.partition(".")[0] == "torch" or _is_tensor(value):
            return _from_torch(value)
        if hasattr(value, "__array__"):
            return np.asarray(value)
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
    except (TypeError, ValueError, RuntimeError, BufferError, NotImplementedError) as error:
        raise UserError(
            f"expected {dtype}, got a {type(value).__name__} that gives no array "
            f"({(str(error).splitlines() or ['?'])[0][:200]})",
            where=where,
            hint="pass a dense tensor that lies in the CPU's memory",
        ) from error
    got = "None" if value is None else f"a {type(value).__name__}"
    raise UserError(f"expected an array of {dtype}, got {got}", where=where)


def _is_tensor(value: Any) -> bool:
    """Whether `value` is of a subclass of PyTorch's tensor; a tensor means that torch is there."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, getattr(torch, "Tensor", ()))


def _from_torch(value: Any) -> np.ndarray:
    """Return a tensor's values; NumPy lacks some of PyTorch's types, so those go by their bits."""
    torch = sys.modules["torch"]
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{type(value).__name__} is no tensor")
    tensor = value.detach().cpu().resolve_conj().resolve_neg()
    name = str(tensor.dtype).removeprefix("torch.")
    if not name.startswith(("bfloat", "float8")):
        return np.asarray(tensor)
    bits = np.asarray(tensor.view(torch.int16 if tensor.element_size() == 2 else torch.uint8))
    return bits.view(data_type(name, "").numpy)


def _widen(array: np.ndarray, dtype: str, wanted: DataType, where: str) -> np.ndarray:
    given = name_of(array.dtype)
    if kind_of(given) == kind_of(dtype) and np.can_cast(array.dtype, wanted.numpy, "safe"):
        return array.astype(wanted.numpy)
    raise UserError(
        f"expected {dtype}, got {given}",
        where=where,
        hint=f"convert it where you know that no value is lost, e.g. x.astype('{wanted.numpy}')",
    )


def check_bound(leaf: Leaf, array: np.ndarray) -> None:
    """Raise a UserError unless all of `array` are indices into a table of ``leaf.below`` rows."""
    if leaf.below is None or not array.size:
        return
    for value in (int(array.min()), int(array.max())):
        if not 0 <= value < leaf.below:
            raise UserError(
                f"the value {value} is not in [0, {leaf.below}), it indexes a table of that size",
                where=f"input '{leaf.name}'",
            )
