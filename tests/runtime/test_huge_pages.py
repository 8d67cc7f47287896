"""Parameters in huge pages: the same bytes, tables stay in the file, and when nothing is copied."""

from __future__ import annotations

import os
from pathlib import Path

import iree.runtime as rt
import numpy as np
import pytest
from lowc.errors import UserError
from lowc.runtime import huge_pages
from lowc.runtime.manifest import Leaf
from lowc.runtime.module import load
from lowc.runtime.parameters import parameters_module
from tiny.artifacts import archive, build, manifest

ROWS = 1 << 16
SUM = f"""
util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<{ROWS}x64xf32>
util.global private @odd = #flow.parameter.named<"model"::"odd"> : tensor<3xf32>
func.func @main(%x: tensor<64xf32>) -> tensor<{ROWS}xf32> @MANIFEST {{
  %w = util.global.load @w : tensor<{ROWS}x64xf32>
  %odd = util.global.load @odd : tensor<3xf32>
  %c = arith.constant 2 : index
  %first = tensor.extract %odd[%c] : tensor<3xf32>
  %init = tensor.empty() : tensor<{ROWS}xf32>
  %start = linalg.fill ins(%first : f32) outs(%init : tensor<{ROWS}xf32>) -> tensor<{ROWS}xf32>
  %y = linalg.matvec ins(%w, %x : tensor<{ROWS}x64xf32>, tensor<64xf32>)
      outs(%start : tensor<{ROWS}xf32>) -> tensor<{ROWS}xf32>
  return %y : tensor<{ROWS}xf32>
}}
"""


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "odd": np.array([1, 2, 3], np.float32),
        "w": generator.integers(-9, 9, (ROWS, 64)).astype(np.float32),
        "table": generator.integers(0, 255, 5 << 20).astype(np.uint8),
    }


@pytest.fixture(scope="module")
def stored(tmp_path_factory, tensors) -> tuple[Path, rt.ParameterIndex]:
    path = tmp_path_factory.mktemp("huge") / "x.irpa"
    archive(path, tensors)
    index = rt.ParameterIndex()
    index.load(str(path), format="irpa", mmap=True)
    return path, index


def huge_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("AnonHuge"))


def offered() -> None:
    if not huge_pages.are_offered():
        pytest.skip("this kernel makes no huge pages (transparent_hugepage/enabled)")


def test_the_same_bytes_and_the_table_stays(stored, tensors) -> None:
    offered()
    path, mapped = stored
    index = huge_pages.read(path, mapped, ["table"])
    assert index is not mapped
    of = dict(index.items())
    assert set(of) == set(tensors)
    for key, array in tensors.items():
        assert of[key].length == array.nbytes
        handle, offset = of[key].file_storage
        data = np.frombuffer(handle.host_allocation, np.uint8)[offset : offset + array.nbytes]
        assert (data == array.view(np.uint8).reshape(-1)).all()
        assert data.ctypes.data % huge_pages.ALIGNMENT == 0
        in_file = np.shares_memory(data, np.frombuffer(handle_of(mapped, key), np.uint8))
        assert in_file == (key == "table")


def handle_of(index: rt.ParameterIndex, key: str):
    return dict(index.items())[key].file_storage[0].host_allocation


def test_a_model_reads_them(tmp_path: Path, tensors) -> None:
    offered()
    parameters = archive(tmp_path / "m.irpa", tensors)
    leaf, out = Leaf("x", (64,), "float32"), Leaf("0", (ROWS,), "float32")
    about = manifest([leaf], [out], parameters=parameters)
    path = build(tmp_path / "m.vmfb", SUM, about)
    before = huge_bytes()
    module = load(path)
    assert huge_bytes() - before >= 16 << 20
    (tmp_path / "m.irpa").unlink()  # what is read is not the file any more
    x = np.arange(64, dtype=np.float32)
    assert (module(x) == tensors["w"] @ x + 3).all()


def test_splats_stay_splats(tmp_path: Path, tensors) -> None:
    offered()
    index = rt.ParameterIndex()
    index.add_splat("caches", b"\0", 64 << 20)
    index.add_buffer("w", tensors["w"].view(np.uint8))
    path = tmp_path / "x.irpa"
    index.create_archive_file(str(path))
    mapped = rt.ParameterIndex()
    mapped.load(str(path), format="irpa", mmap=True)
    of = dict(huge_pages.read(path, mapped, ()).items())
    assert of["caches"].is_splat
    assert of["caches"].length == 64 << 20
    assert not of["w"].is_splat


def test_what_is_small_stays_mapped(stored) -> None:
    path, mapped = stored
    assert huge_pages.read(path, mapped, ["w"]) is mapped


@pytest.mark.parametrize(
    ("place", "text"),
    [("_ENABLED", "always madvise [never]\n"), ("_MEMORY", "MemAvailable:   30000 kB\n")],
)
def test_a_kernel_without_pages_or_memory(stored, tmp_path, monkeypatch, place, text) -> None:
    path, mapped = stored
    (tmp_path / "said").write_text(text)
    monkeypatch.setattr(huge_pages, place, tmp_path / "said")
    assert huge_pages.read(path, mapped, ()) is mapped
    monkeypatch.setattr(huge_pages, place, tmp_path / "absent")
    assert huge_pages.read(path, mapped, ()) is mapped


def test_a_container_without_memory(stored, monkeypatch) -> None:
    offered()
    path, mapped = stored
    monkeypatch.setattr(huge_pages, "memory_left", lambda: 30 << 20)
    assert huge_pages.read(path, mapped, ()) is mapped
    monkeypatch.setattr(huge_pages, "memory_left", lambda: 90 << 20)
    assert huge_pages.read(path, mapped, ()) is not mapped


def test_a_file_that_ends_early(tmp_path: Path, tensors) -> None:
    offered()
    path = tmp_path / "x.irpa"
    archive(path, tensors)
    index = rt.ParameterIndex()
    index.load(str(path), format="irpa", mmap=True)
    os.truncate(path, 1 << 20)
    with pytest.raises(OSError, match="ends before its parameters do"):
        huge_pages.read(path, index, ())


def test_an_archive_that_is_none_is_refused_as_before(tmp_path: Path) -> None:
    path = tmp_path / "x.irpa"
    path.write_bytes(bytes(100))
    with pytest.raises(UserError, match="not a parameter archive"):
        parameters_module(path, rt.VmInstance(), in_place=True)


def test_an_offset_that_no_file_has_is_refused(tmp_path: Path, tensors) -> None:
    offered()
    path = tmp_path / "x.irpa"
    archive(path, tensors)
    data = bytearray(path.read_bytes())
    data[72:80] = b"\xff" * 8  # where the header says that storage begins
    path.write_bytes(data)
    with pytest.raises(UserError):
        parameters_module(path, rt.VmInstance(), in_place=True)
