"""Stacked inputs from files: how they are cut into calls, and what is refused in which words."""

import numpy as np
import pytest
from lowc.compiler.calibration import read_calibration
from lowc.errors import UserError
from lowc.runtime.manifest import Leaf, Manifest


def manifest(*leaves, **ranges):
    return Manifest(
        inputs=leaves, outputs=(), args_tree={"type": "tuple", "children": ["*"] * len(leaves)},
        kwargs_tree={"type": "dict", "keys": [], "children": []},
        out_tree={"type": "tuple", "children": []},
        argument_names=tuple(leaf.name for leaf in leaves), ranges=ranges,
    )  # fmt: skip


IDS = Leaf("ids", (1, 4), "int64")
MASK = Leaf("mask", (1, 4), "bool")
FLAG = Leaf("flag", literal=True, value=True)
TEXT = manifest(MASK, FLAG, IDS)


def npz(folder, **arrays):
    path = folder / "inputs.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_samples_become_calls_in_the_order_of_the_model(tmp_path, suffix):
    arrays = {"ids": np.arange(12).reshape(3, 4), "mask": np.eye(3, 4, dtype=bool)}
    path = tmp_path / f"inputs{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)
    else:
        from safetensors.numpy import save_file

        save_file(arrays, path)
    calls = read_calibration(path, TEXT)
    assert len(calls) == 3
    for index, (mask, ids) in enumerate(calls):
        assert mask.dtype == bool and (mask == arrays["mask"][index : index + 1]).all()
        assert ids.dtype == np.int64 and (ids == arrays["ids"][index : index + 1]).all()


def test_batches_of_the_models_size(tmp_path):
    path = npz(tmp_path, x=np.arange(24, dtype=np.float32).reshape(8, 3))
    calls = read_calibration(path, manifest(Leaf("x", (4, 3), "float32")))
    assert [call[0].shape for call in calls] == [(4, 3), (4, 3)]
    assert calls[1][0][0, 0] == 12


def test_a_dynamic_batch_is_the_smallest_that_the_model_takes(tmp_path):
    path = npz(tmp_path, x=np.zeros((6, 3), np.float32))
    leaf = Leaf("x", ("s0", 3), "float32")
    assert len(read_calibration(path, manifest(leaf))) == 6
    assert len(read_calibration(path, manifest(leaf, s0=(2, 8)))) == 3


def test_whole_inputs_one_after_another(tmp_path):
    leaves = Leaf("image", (2, 3), "float32"), Leaf("scale", (), "float32")
    scale = np.array([1, 2, 3, 4], np.float32)
    path = npz(tmp_path, image=np.zeros((4, 2, 3), np.float32), scale=scale)
    calls = read_calibration(path, manifest(*leaves))
    assert [image.shape for image, _ in calls] == [(2, 3)] * 4
    assert [float(value) for _, value in calls] == [1, 2, 3, 4]
    assert calls[0][1].shape == ()


def test_narrower_types_of_the_same_kind_are_taken(tmp_path):
    path = npz(tmp_path, ids=np.ones((1, 4), np.int32), mask=np.ones((1, 4), bool))
    assert read_calibration(path, TEXT)[0][1].dtype == np.int64


GOOD = {"ids": np.zeros((2, 4), np.int64), "mask": np.ones((2, 4), bool)}


@pytest.mark.parametrize(
    ("change", "what", "hint"),
    [
        ({"idz": GOOD["ids"]}, "the model has no input 'idz'", "did you mean 'ids'?"),
        ({"mask": None}, "no array is called 'mask', which the model needs", "mask: bool[1, 4]"),
        ({"flag": np.ones(2)}, "the model has no input 'flag'", "known: ids, mask"),
        ({"ids": np.zeros((2, 4), np.float32)}, "expected int64, got float32", "convert it"),
        ({"ids": np.zeros((2, 5), np.int64)}, "dimension 1 is 5, not 4", "counts samples"),
        ({"ids": np.zeros(8, np.int64)}, "the array has 1 dimensions, stacked inputs have 2 or 3", ""),
        ({"ids": np.zeros((3, 4), np.int64)}, "differ in their number of calls: 'mask' 2, 'ids' 3", ""),
        ({"ids": np.array([{}, {}])}, "this is no .npz file of plain numbers", "numpy.savez"),
    ],
)  # fmt: skip
def test_what_does_not_fit(tmp_path, change, what, hint):
    arrays = {name: array for name, array in (GOOD | change).items() if array is not None}
    path = npz(tmp_path, **arrays)
    with pytest.raises(UserError) as caught:
        read_calibration(path, TEXT)
    assert what in caught.value.what
    assert hint in caught.value.hint
    assert str(path) in caught.value.where


def test_what_does_not_fill_a_batch(tmp_path):
    path = npz(tmp_path, x=np.zeros((7, 3), np.float32))
    with pytest.raises(UserError, match="7 samples are no whole number of batches of 4"):
        read_calibration(path, manifest(Leaf("x", (4, 3), "float32")))


def test_no_samples(tmp_path):
    path = npz(tmp_path, x=np.zeros((0, 3), np.float32))
    with pytest.raises(UserError, match="the arrays hold no sample"):
        read_calibration(path, manifest(Leaf("x", (1, 3), "float32")))


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("inputs.pkl", b"", "inputs are read from .npz and .safetensors files"),
        ("inputs.npz", b"PK\x03\x04 and no more", "this is no .npz file of plain numbers"),
        ("inputs.npz", b"", "this is no .npz file of plain numbers"),
        ("inputs.safetensors", b"\xff" * 40, "this is no .safetensors file"),
        ("inputs.safetensors", b"", "this is no .safetensors file"),
        ("inputs.npz", None, "the file does not exist"),
    ],
)
def test_no_file_of_arrays(tmp_path, name, content, what):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_calibration(path, TEXT)
    assert what in caught.value.what and caught.value.where == str(path)


def test_one_array_without_a_name(tmp_path):
    path = tmp_path / "inputs.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match="it holds one array without a name"):
        read_calibration(path, TEXT)
