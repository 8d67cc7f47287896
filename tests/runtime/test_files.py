"""Files that are missing, foreign, truncated, damaged, changed, or that do not fit each other."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lowc.errors import InternalError, UserError
from lowc.runtime.manifest import Leaf, Manifest
from lowc.runtime.module import load
from lowc.runtime.vmfb import check_file
from tiny.artifacts import archive, build, manifest
from tiny.sources import SCALE, WEIGHTS

LEAF = Leaf("x", (4,), "float32")
TWO = [Leaf("0", (4,), "float32"), Leaf("1", (4,), "float32")]


def refusal(path: Path, **keywords) -> str:
    with pytest.raises(UserError) as caught:
        load(path, **keywords)
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(str(path.parent))
    return str(caught.value)


def test_missing(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.vmfb") == f"{tmp_path / 'no.vmfb'}: the file does not exist"
    assert "the file cannot be read (Is a directory)" in refusal(tmp_path / ".")


@pytest.mark.parametrize("content", [b"hello", b"\x7fELF" + bytes(99), bytes(4096), b"PK"])
def test_foreign(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.vmfb"
    path.write_bytes(content)
    text = refusal(path)
    assert "this is not a compiled module" in text
    assert "hint: expected a .vmfb that lowc compiled" in text


def test_empty(tmp_path: Path) -> None:
    path = tmp_path / "x.vmfb"
    path.touch()
    assert "the file is empty" in refusal(path)


def test_foreign_zip(tmp_path: Path) -> None:
    path = tmp_path / "x.vmfb"
    np.savez(tmp_path / "x.npz", a=np.ones(3))
    shutil.move(tmp_path / "x.npz", path)
    assert "this is not a compiled module" in refusal(path)
    with zipfile.ZipFile(path, "w"):
        pass
    assert "this is not a compiled module" in refusal(path)


def test_right_zip_with_wrong_content(tmp_path: Path) -> None:
    path = tmp_path / "x.vmfb"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("module.fb", bytes(500))
    assert "IREE refuses the module" in refusal(path)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
def test_truncated(add: Path, tmp_path: Path, share: float) -> None:
    path = tmp_path / "x.vmfb"
    data = add.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert "the module is truncated or damaged" in refusal(path)


def test_damaged(add: Path, tmp_path: Path) -> None:
    """A flipped bit is found by the checksum; IREE itself crashes on some."""
    path = tmp_path / "x.vmfb"
    data = add.read_bytes()
    with zipfile.ZipFile(add) as file:
        entries = file.infolist()
    generator = random.Random(0)
    for entry in entries:
        end = next(
            (e.header_offset for e in entries if e.header_offset > entry.header_offset), None
        )
        first = data.index(b"IREE" if entry is entries[0] else b"\x7fELF", entry.header_offset)
        for _ in range(20):
            position = generator.randrange(first, end or first + entry.file_size)
            if position >= first + entry.file_size:
                continue
            broken = bytearray(data)
            broken[position] ^= 1 << generator.randrange(8)
            path.write_bytes(broken)
            with pytest.raises(UserError, match=r"fails its checksum|truncated or damaged"):
                check_file(path)


def test_no_manifest(folder: Path) -> None:
    source = "func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> { return %x : tensor<4xf32> }"
    path = build(folder / "foreign.vmfb", source, "")
    text = refusal(path)
    assert "the module has no lowc manifest" in text
    assert "run others with iree-run-module" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "the module's manifest is damaged (JSONDecodeError"),
        ("[]", "the module's manifest is damaged"),
        ('{"format": 99}', "the module's manifest has format 99, this lowc reads 1"),
        ('{"format": 1}', "the module's manifest is damaged (KeyError: 'inputs')"),
    ],
)
def test_bad_manifest(folder: Path, text: str, expected: str) -> None:
    source = (
        "func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> @MANIFEST {"
        " return %x : tensor<4xf32> }"
    )
    name = hashlib.sha256(text.encode()).hexdigest()[:8]
    assert expected in refusal(build(folder / f"{name}.vmfb", source, text))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        *(({"ranges": {"n": ends}}, "manifest is damaged") for ends in (
            [2], ["a"], [2, 3, 4], ["", 0], [0, ""], [1, []], [1, -4], [5, 4], [True, 2], [0.5, 1],
            None,
        )),
        *(({"shape": [size]}, "manifest is damaged") for size in (-4, True, 4.0, None, [4])),
        ({"dtype": "float33"}, "'float33' is not one that the runtime handles"),
        ({"dtype": ["float32"]}, "manifest is damaged"),
    ],
)  # fmt: skip
def test_sizes_and_types_of_a_manifest_are_checked(change: dict[str, Any], expected: str) -> None:
    about = json.loads(manifest([LEAF], TWO).to_json())
    assert Manifest.from_json(json.dumps(about), "x.vmfb").inputs == (LEAF,)
    (about if "ranges" in change else about["inputs"][0]).update(change)
    with pytest.raises(UserError, match=expected):
        Manifest.from_json(json.dumps(about), "x.vmfb")


def test_hostile_manifest_leaves_the_folder_alone(folder: Path) -> None:
    parameters = archive(folder / "hostile.irpa", WEIGHTS)
    about = json.loads(manifest([LEAF], TWO, parameters=parameters).to_json())
    about["parameters"]["file"] = "../../etc/passwd"
    path = build(folder / "hostile.vmfb", SCALE, json.dumps(about))
    assert "the parameter file is not beside the module" in refusal(path)


@pytest.fixture
def pair(scale: Path, tmp_path: Path) -> tuple[Path, Path]:
    module, parameters = tmp_path / scale.name, tmp_path / "scale.irpa"
    shutil.copy(scale, module)
    shutil.copy(scale.with_suffix(".irpa"), parameters)
    return module, parameters


def test_missing_parameters(pair: tuple[Path, Path]) -> None:
    module, parameters = pair
    parameters.unlink()
    text = refusal(module)
    assert text.startswith(f"{parameters}: the parameter archive is missing")
    assert "hint: keep the .vmfb and its .irpa together, or compile the model again" in text


@pytest.mark.parametrize("verify", [True, False])
def test_parameters_of_another_size(pair: tuple[Path, Path], verify: bool) -> None:
    module, parameters = pair
    size = parameters.stat().st_size
    with parameters.open("ab") as file:
        file.write(b"x")
    assert f"the parameter archive is too long: {size + 1} bytes" in refusal(module, verify=verify)
    os.truncate(parameters, size - 4)
    assert (
        f"the parameter archive is too short: {size - 4} bytes, the module was compiled with {size}"
        in refusal(module, verify=verify)
    )


def test_changed_parameters(pair: tuple[Path, Path]) -> None:
    module, parameters = pair
    data = bytearray(parameters.read_bytes())
    data[-1] ^= 1
    parameters.write_bytes(data)
    assert "the parameter archive has changed since the module was compiled" in refusal(module)
    # Without the hash nobody can know; the module still loads.
    assert load(module, verify=False)(np.ones(4, np.float32))[0].shape == (4,)


def test_garbage_parameters(pair: tuple[Path, Path]) -> None:
    module, parameters = pair
    parameters.write_bytes(bytes(parameters.stat().st_size))
    assert "this is not a parameter archive" in refusal(module, verify=False)


def test_parameters_that_lack_a_key(folder: Path) -> None:
    fewer = archive(folder / "fewer.irpa", {"layer.weight": WEIGHTS["layer.weight"]})
    path = build(folder / "fewer.vmfb", SCALE, manifest([LEAF], TWO, parameters=fewer))
    text = refusal(path)
    assert "the module needs the parameter 'layer.bias', which 'fewer.irpa' lacks" in text
    small = {**WEIGHTS, "layer.bias": np.zeros(2, np.float32)}
    smaller = archive(folder / "smaller.irpa", small)
    path = build(folder / "smaller.vmfb", SCALE, manifest([LEAF], TWO, parameters=smaller))
    assert "the parameter 'layer.bias' has 8 bytes in 'smaller.irpa', needed are 16" in refusal(
        path
    )
    path = build(folder / "unnamed.vmfb", SCALE, manifest([LEAF], TWO))
    assert "the module needs parameters, but its manifest names no archive" in refusal(path)


def test_manifest_that_does_not_fit_the_code(folder: Path) -> None:
    """That is our compiler's fault: an InternalError, and never a crash."""
    source = """
    func.func @main(%x: tensor<4xf32>, %y: tensor<4xf32>) -> tensor<4xf32> @MANIFEST {
      %0 = arith.addf %x, %y : tensor<4xf32>
      return %0 : tensor<4xf32>
    }"""
    x = np.ones(4, np.float32)
    right = manifest([LEAF, replace(LEAF, name="y")], TWO[:1])
    fewer = manifest([LEAF], TWO[:1])
    more = manifest([LEAF, replace(LEAF, name="y")], TWO)
    wider = manifest([LEAF, replace(LEAF, name="y")], [replace(TWO[0], dtype="float64")])
    named = replace(right, has_state=True)
    cases = [
        (fewer, (x,), InternalError, "expected 2 arguments but passed 1"),
        (more, (x, x), InternalError, "the module gave 1 results, its manifest names 2"),
        (wider, (x, x), InternalError, "has 16 bytes, float64 needs 32"),
        (named, (x, x), UserError, "the module has no function 'reset'"),
    ]
    for number, (about, args, kind, text) in enumerate(cases):
        path = build(folder / f"unfit{number}.vmfb", source, about)
        with pytest.raises(kind) as caught:
            load(path)(*args)
        assert text in str(caught.value)


def test_running_needs_neither_torch_nor_the_compiler(add: Path) -> None:
    script = (
        "import sys, numpy as np, lowc\n"
        "out = lowc.load(sys.argv[1])(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32))\n"
        "heavy = ('torch', 'iree.compiler', 'torch_mlir', 'lowc.compiler', 'lowc.tools')\n"
        "print(float(out.sum()), [name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, add], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "12.0 []\n"
    assert done.stderr == ""
