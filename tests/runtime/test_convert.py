"""What may be passed as an input: data types, libraries, layouts, Python numbers."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from lowc.errors import UserError
from lowc.runtime.convert import to_array
from lowc.runtime.dtypes import TYPES
from lowc.runtime.manifest import Leaf
from lowc.runtime.module import Module, load
from tiny.artifacts import build, manifest

MLIR = {
    "bool": "i1", "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64",
    "uint8": "ui8", "uint16": "ui16", "float16": "f16", "bfloat16": "bf16", "float32": "f32",
    "float64": "f64", "float8_e4m3fn": "f8E4M3FN", "float8_e5m2": "f8E5M2",
}  # fmt: skip
# 8-bit floats and unsigned integers have no arithmetic in MLIR's arith; they are passed through.
MOVED_ONLY = {"float8_e4m3fn", "float8_e5m2", "uint8", "uint16"}


@pytest.fixture(scope="module")
def every_type(folder: Path) -> Module:
    """For each type T: x: T[n, 3] and s: T[] → x + x (x xor x for bool, or x), s."""
    body, arguments, results, types = [], [], [], []
    inputs, outputs = [], []
    for i, (name, t) in enumerate(MLIR.items()):
        matrix = f"tensor<?x3x{t}>"
        arguments += [f"%x{i}: {matrix}", f"%s{i}: tensor<{t}>"]
        operation = "arith.addf" if "float" in name else "arith.addi"
        if name in MOVED_ONLY:
            results.append(f"%x{i}")
        else:
            body.append(f"%y{i} = {operation} %x{i}, %x{i} : {matrix}")
            results.append(f"%y{i}")
        results.append(f"%s{i}")
        types += [matrix, f"tensor<{t}>"]
        inputs += [Leaf(f"x_{name}", ("n", 3), name), Leaf(f"s_{name}", (), name)]
        outputs += [Leaf(f"y_{name}", ("n", 3), name), Leaf(f"t_{name}", (), name)]
    source = (
        f"func.func @main({', '.join(arguments)}) -> ({', '.join(types)}) @MANIFEST {{\n"
        + "\n".join(body)
        + f"\nreturn {', '.join(results)} : {', '.join(types)}\n}}"
    )
    return load(build(folder / "types.vmfb", source, manifest(inputs, outputs)))


@pytest.mark.parametrize("rows", [0, 1, 50])
def test_every_type_goes_in_and_out(every_type: Module, rows: int) -> None:
    generator = np.random.default_rng(rows)
    inputs = []
    for name in MLIR:
        x = generator.integers(0, 2 if name == "bool" else 8, (rows, 3)).astype(TYPES[name].numpy)
        inputs += [x, np.ones((), TYPES[name].numpy)]
    outputs = every_type(*inputs)
    for i, name in enumerate(MLIR):
        x, y, scalar = inputs[2 * i], outputs[2 * i], outputs[2 * i + 1]
        expected = x ^ x if name == "bool" else x if name in MOVED_ONLY else x + x
        assert y.dtype == scalar.dtype == TYPES[name].numpy, name
        assert y.shape == (rows, 3)
        assert scalar.shape == ()
        assert (y == expected).all(), name
        assert scalar == 1


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (3, "int64", np.int64(3)),
        (3, "float32", np.float32(3)),
        (-1.5, "bfloat16", ml_dtypes.bfloat16(-1.5)),
        (2, "float8_e4m3fn", ml_dtypes.float8_e4m3fn(2)),
        (True, "bool", np.True_),
        ([[1, 2], [3, 4]], "uint8", np.array([[1, 2], [3, 4]], np.uint8)),
        ([1, 2.5], "float16", np.array([1, 2.5], np.float16)),
        ((), "float32", np.empty(0, np.float32)),
        (2**63 - 1, "int64", np.int64(2**63 - 1)),
        (np.int32([1, -2]), "int64", np.int64([1, -2])),
        (np.float16([0.5]), "float32", np.float32([0.5])),
        (np.array([0.5], ml_dtypes.bfloat16), "float32", np.float32([0.5])),
        (np.uint8(7), "uint16", np.uint16(7)),
    ],
)
def test_converts_what_loses_nothing(value, dtype: str, expected) -> None:
    array = to_array(value, dtype, "input 'x'")
    assert array.dtype == TYPES[dtype].numpy
    assert array.shape == np.shape(expected)
    assert (array == expected).all()


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (1.5, "int64", "input 'x': expected int64, got the float 1.5"),
        (True, "int64", "expected int64, got the bool True"),
        (1, "bool", "expected bool, got the int 1"),
        (300, "uint8", "300 does not fit uint8, which holds 0 to 255"),
        (2**63, "int64", f"{2**63} does not fit int64"),
        ([[1, 2], [3]], "int64", "these nested lists are no array"),
        (["a"], "int64", "expected int64, got a list with a str in it"),
        ("abc", "float32", "expected an array of float32, got a str"),
        (None, "float32", "expected an array of float32, got None"),
        ({"a": 1}, "float32", "expected an array of float32, got a dict"),
        (np.float64([1]), "float32", "expected float32, got float64"),
        (np.int64([1]), "int32", "expected int32, got int64"),
        (np.int32([1]), "float32", "expected float32, got int32"),
        (np.int32([1]), "float64", "expected float64, got int32"),
        (np.uint8([1]), "int32", "expected int32, got uint8"),
        (np.bool_([1]), "int8", "expected int8, got bool"),
        (np.float16([1]), "bfloat16", "expected bfloat16, got float16"),
        (np.array(["a"]), "float32", "expected float32, got <U1"),
        (np.array([object()]), "float32", "expected float32, got object"),
        (1.0, "float4", "the data type 'float4' is not one that the runtime handles"),
    ],
)
def test_refuses_what_loses_something(value, dtype: str, text: str) -> None:
    with pytest.raises(UserError) as caught:
        to_array(value, dtype, "input 'x'")
    assert text in str(caught.value)
    assert str(caught.value).startswith("input 'x': ")


def test_any_layout() -> None:
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    for view in (base.T, base[::2, 1::2], base[::-1], np.asfortranarray(base), base[1, 2]):
        array = to_array(view, "float32", "x")
        assert array.flags.c_contiguous
        assert array.shape == view.shape
        assert (array == view).all()
    assert np.shares_memory(to_array(base, "float32", "x"), base)
    base.flags.writeable = False
    assert (to_array(base, "float32", "x") == base).all()


def test_layouts_reach_the_device(add: Path) -> None:
    module = load(add)
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    x, y = base.T[:2], base[::2, ::-1][:, :3]
    assert (module(x, y) == x + y).all()
    big_endian = base[:2, :3].astype(">f4")
    assert (module(big_endian, big_endian) == 2 * base[:2, :3]).all()


def test_protocols() -> None:
    class OnlyArray:
        def __array__(self, dtype=None, copy=None):
            return np.float32([1, 2])

    class OnlyDlpack:
        def __dlpack__(self, **keywords):
            return np.float32([1, 2]).__dlpack__(**keywords)

        def __dlpack_device__(self):
            return (1, 0)

    class Broken:
        def __dlpack__(self, **keywords):
            raise BufferError("it lies on a GPU")

        def __dlpack_device__(self):
            return (2, 0)

    for value in (OnlyArray(), OnlyDlpack()):
        assert (to_array(value, "float32", "x") == [1, 2]).all()
    with pytest.raises(UserError, match=r"got a Broken that gives no array \(.*it lies on a GPU"):
        to_array(Broken(), "float32", "x")


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(12.0).reshape(3, 4)
    parameter = torch.nn.Parameter(base.clone())
    cases = [
        (base, "float32"),
        (base.T, "float32"),
        (base[:, ::2].requires_grad_(False), "float32"),
        (parameter, "float32"),
        (base.to(torch.bfloat16), "bfloat16"),
        (base.to(torch.bfloat16).T, "bfloat16"),
        (base.to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (base.to(torch.float8_e5m2)[1:, ::2], "float8_e5m2"),
        (base.half(), "float16"),
        (base.long(), "int64"),
        (base > 3, "bool"),
        (torch.tensor(2.0, dtype=torch.bfloat16), "bfloat16"),
        (torch.tensor(2.0, dtype=torch.float8_e5m2), "float8_e5m2"),
        (torch._neg_view(base), "float32"),
    ]
    for tensor, dtype in cases:
        array = to_array(tensor, dtype, "x")
        assert array.dtype == TYPES[dtype].numpy
        assert array.shape == tuple(tensor.shape)
        assert array.flags.c_contiguous
        assert (array.astype(np.float64) == tensor.detach().double().numpy()).all()
    for tensor in (base.to_sparse(), base.to("meta")):
        with pytest.raises(UserError, match="got a Tensor that gives no array"):
            to_array(tensor, "float32", "x")
    with pytest.raises(UserError, match="expected float16, got bfloat16"):
        to_array(base.to(torch.bfloat16), "float16", "x")
