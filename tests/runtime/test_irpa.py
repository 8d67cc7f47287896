"""Damaged tables of a parameter archive: never a crash, and one error if they cannot be right."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import iree.runtime as rt
import numpy as np
import pytest
from lowc.errors import UserError
from lowc.runtime.irpa import check_tables
from lowc.runtime.parameters import parameters_module

# Opens every damaged archive that it is told of, as a module does, and reads what is in it.
READER = """
import sys
import iree.runtime as rt, numpy as np
from pathlib import Path
from lowc.errors import UserError
from lowc.runtime import huge_pages
from lowc.runtime.parameters import parameters_module

path, tables, huge_pages.LEAST = Path(sys.argv[1]), int(sys.argv[2]), 0
whole, instance, errors = path.read_bytes(), rt.VmInstance(), 0

def read(data):
    path.write_bytes(data)
    parameters_module(path, instance, in_place=True)
    index = rt.ParameterIndex()
    index.load(str(path), format="irpa", mmap=True)
    for key, entry in index.items():
        if entry.is_file:
            handle, offset = entry.file_storage
            data = np.frombuffer(handle.host_allocation, np.uint8)[offset : offset + entry.length]
            assert data.sum() >= 0 and len(data) == entry.length, key

damaged = [whole[:size] for size in range(tables + 1)]
for at in range(tables):
    for value in {0, 0xFF, whole[at] ^ 0xFF, whole[at] ^ 1, whole[at] ^ 0x10} - {whole[at]}:
        damaged.append(whole[:at] + bytes([value]) + whole[at + 1 :])
read(whole)
for data in damaged:
    try:
        read(data)
    except UserError:
        errors += 1
print(len(damaged), errors)
"""


@pytest.fixture
def written(tmp_path: Path) -> Path:
    index = rt.ParameterIndex()
    index.add_splat("caches", b"\0\0\x80\x3f", 1 << 20)
    index.add_buffer("w", np.arange(100, dtype=np.uint8))
    index.add_buffer("layer.bias", np.arange(300, dtype=np.uint8))
    path = tmp_path / "x.irpa"
    index.create_archive_file(str(path))
    return path


def test_what_iree_writes_is_right(written: Path) -> None:
    check_tables(written)
    rt.ParameterIndex().create_archive_file(str(written.with_name("empty.irpa")))
    check_tables(written.with_name("empty.irpa"))


def test_no_damage_ends_the_process(written: Path) -> None:
    (tables,) = struct.unpack_from("<Q", written.read_bytes(), 72)
    done = subprocess.run(
        [sys.executable, "-c", READER, str(written), str(tables)],
        capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, (signal.Signals(-done.returncode).name, done.stderr[-2000:])
    count, errors = map(int, done.stdout.split())
    assert count > errors > count // 2


def test_a_table_takes_no_more_memory_than_one_may_have(written: Path) -> None:
    data = bytearray(written.read_bytes())
    end = 88 + (1 << 35)
    data[40:88] = struct.pack("<6Q", 88, 1 << 35, end, 8, end + 8, 64)
    written.write_bytes(data)
    os.truncate(written, 1 << 36)  # nearly all of it takes no room
    with pytest.raises(UserError, match="damaged one") as caught:
        parameters_module(written, rt.VmInstance())
    assert "its table has more than 64 MiB" in str(caught.value)


@pytest.mark.parametrize(
    ("at", "value", "expected"),
    [
        (0, b"irpa", "it does not begin with IRPA"),
        (4, b"\1", "version 1.0"),
        (8, b"\x57", "87 bytes"),
        (16, b"\x60", "goes on in another header"),
        (32, b"\xff", "its table is too short for 255 entries"),
        (40, b"\xff" * 8, "its table ends behind the file"),
        (56, b"\xff" * 8, "its text ends behind the file"),
        (72, b"\xff" * 8, "its storage ends behind the file"),
        (72, b"\0", "its storage begins before its tables end"),
        (0x60, b"\xff\xff", "its entry 0 ends behind the table"),
        (0x68, b"\3", "its entry 0 is of kind 3"),
        (0x60 + 84, b"\3", "its entry 0 repeats 3 bytes"),
        (0xC0 + 20, b"\xff\xff", "its entry 1 has a name outside the text"),
        (0xC0 + 44, b"\xff\xff", "its entry 1 has metadata outside the text"),
        (0xC0 + 60, b"\1", "its entry 1 begins at no multiple of 64 bytes"),
        (0xC0 + 68, b"\xff\xff", "its entry 1 ends behind the storage"),
    ],
)
def test_what_is_damaged_is_said(written: Path, at: int, value: bytes, expected: str) -> None:
    data = bytearray(written.read_bytes())
    data[at : at + len(value)] = value
    written.write_bytes(data)
    with pytest.raises(UserError, match="not a parameter archive, or a damaged one") as caught:
        parameters_module(written, rt.VmInstance())
    assert expected in str(caught.value)
    assert caught.value.exit_code == 2
