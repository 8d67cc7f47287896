"""Inputs of ``lowc run`` as text and files."""

from __future__ import annotations

import pickle  # noqa: TID251  (to write what must be refused)
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from lowc.errors import UserError
from lowc.runtime.manifest import Leaf
from lowc.tools.inputs import Input, bind, read_input


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2x3xf32=1 2 3 4 5 6", np.array([[1, 2, 3], [4, 5, 6]], np.float32)),
        ("2x3xf32=[[1 2 3][4,5,6]]", np.array([[1, 2, 3], [4, 5, 6]], np.float32)),
        ("2x3xf32=1.5", np.full((2, 3), 1.5, np.float32)),
        ("2x3xf32", np.zeros((2, 3), np.float32)),
        ("f64=-2.5e3", np.array(-2500.0)),
        ("f32", np.zeros((), np.float32)),
        ("3xi8=-128 0 127", np.array([-128, 0, 127], np.int8)),
        ("2xui8=0xff 1", np.array([255, 1], np.uint8)),
        ("2xi1=1 false", np.array([True, False])),
        ("2xbf16=1 3.5", np.array([1, 3.5], ml_dtypes.bfloat16)),
        ("2xf8E4M3FN=1 448", np.array([1, 448], ml_dtypes.float8_e4m3fn)),
        ("2xf32=nan -inf", np.array([np.nan, -np.inf], np.float32)),
        ("0x4xf32=", np.zeros((0, 4), np.float32)),
        ("0x4xf32=7", np.zeros((0, 4), np.float32)),
    ],
)
def test_text(text: str, expected: np.ndarray[Any, Any]) -> None:
    found = read_input(text)
    assert found.name is None
    assert found.value.dtype == expected.dtype
    assert found.value.shape == expected.shape
    np.testing.assert_array_equal(found.value, expected)


@given(arrays.arrays(np.float32, arrays.array_shapes(min_dims=0, max_side=4)))
def test_any_array_survives_as_text(array: np.ndarray[Any, Any]) -> None:
    shape = "".join(f"{size}x" for size in array.shape)
    values = " ".join(repr(float(value)) for value in array.ravel())
    np.testing.assert_array_equal(read_input(f"{shape}f32={values}").value, array)


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    if "/" in text or "\0" in text:
        return
    try:
        read_input(text)
    except UserError as error:
        assert error.what


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("mask=2xi64=1", "mask"),
        ("past.0.key=2xf32", "past.0.key"),
        ("x1=f32=3", "x1"),
        ("f32=3", None),
    ],
)
def test_names(text: str, name: str | None) -> None:
    assert read_input(text).name == name


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("2x3xf32=1 2", "2 values were given, 2x3 needs 6 or one", ""),
        ("2xf23=1", "the element type 'f23' is unknown", "did you mean 'f32'?"),
        ("2xi8=300 1", "300 does not fit into int8", ""),
        ("2xui8=-1", "-1 does not fit into uint8", ""),
        ("2xi32=1.5", "'1.5' is no integer", ""),
        ("2xi1=2", "'2' is no truth value", ""),
        ("2xf32=one", "'one' is no number", ""),
        ("99999999x99999999xf32=1", "too many to write as text", ""),
        ("none.npy", "the file does not exist", "write FILE.npy"),
        ("@none.npy", "the file does not exist", ""),
        ("x=none.npy", "the file does not exist", ""),
    ],
)
def test_refusals(text: str, what: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        read_input(text)
    assert what in caught.value.what
    assert hint in caught.value.hint


def test_npy_files(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    np.save(tmp_path / "a.npy", array)
    for text in (f"{tmp_path}/a.npy", f"@{tmp_path}/a.npy", f"x={tmp_path}/a.npy"):
        np.testing.assert_array_equal(read_input(text).value, array)


class Payload:
    """Writes a marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    np.save(tmp_path / "object.npy", np.array([Payload(marker)], object), allow_pickle=True)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Payload(marker)))
    for name in ("object.npy", "bare.npy"):
        with pytest.raises(UserError, match="file of plain numbers"):
            read_input(str(tmp_path / name))
    assert not marker.exists()


@pytest.mark.parametrize("kept", [0, 5, 40, 130])
def test_truncated_files(kept: int, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(100))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[:kept])
    with pytest.raises(UserError, match="file of plain numbers"):
        read_input(str(tmp_path / "a.npy"))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Is a directory"):
        read_input(str(tmp_path))


LEAVES = [
    Leaf("ids", (2,), "int64"),
    Leaf("flag", literal=True, value=True),
    Leaf("mask", (2,), "int64"),
    Leaf("scale", (), "float32"),
]
A, B, C = (np.full(2, value) for value in (1, 2, 3))


@pytest.mark.parametrize(
    ("given_inputs", "bound"),
    [
        ([(None, A), (None, B), (None, C)], [A, True, B, C]),
        ([("mask", A), (None, B), (None, C)], [B, True, A, C]),
        ([("scale", A), ("ids", B), ("mask", C)], [B, True, C, A]),
    ],
)
def test_bind(given_inputs: list[tuple[str | None, Any]], bound: list[Any]) -> None:
    result = bind([Input(name, value) for name, value in given_inputs], LEAVES)
    assert all(found is wanted for found, wanted in zip(result, bound, strict=True))


@pytest.mark.parametrize(
    ("names", "what", "hint"),
    [
        (["msak", None, None], "the model has no input 'msak'", "did you mean 'mask'?"),
        (["flag", None, None], "the model has no input 'flag'", ""),
        (["ids", "ids", None], "the input is given twice", ""),
        ([None], "the model takes 3 inputs, 1 were given", "it takes ids: "),
        ([None] * 4, "the model takes 3 inputs, 4 were given", ""),
        (["ids"], "the model takes 3 inputs, 1 were given", ""),
    ],
)
def test_bind_refuses(names: list[str | None], what: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        bind([Input(name, A) for name in names], LEAVES)
    assert what in caught.value.what
    assert hint in caught.value.hint
