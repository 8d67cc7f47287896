"""A ``.pt2`` that would run code, leave its folder or unpack to more than it is, is refused."""

from __future__ import annotations

import io
import os
import pickle  # noqa: TID251  (payloads)
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest
from hostile import archives as hostile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lowc.compiler import archive as archive_module
from lowc.compiler import container, pickles
from lowc.compiler.archive import Archive
from lowc.compiler.program import read_program
from lowc.errors import UserError

# Loads and calls every archive, one after another, in one process; prints nothing.
LOAD_ALL = """
import sys, torch
for path in sys.argv[1:]:
    try:
        torch.export.load(path).module()(torch.ones(2, 4))
    except Exception:
        pass
"""


@pytest.fixture(scope="session")
def attacks(plain_pt2: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return _build(plain_pt2, tmp_path_factory.mktemp("attacks"), hostile.ATTACKS)


def _build(genuine: Path, folder: Path, names: Iterable[str]) -> dict[str, Path]:
    paths = {name: folder / f"{name}.pt2" for name in names}
    for name, path in paths.items():
        hostile.ATTACKS[name].build(genuine, path, _marker(path))
        assert not _marker(path).exists(), f"building {name} ran its payload"
    return paths


def _marker(path: Path) -> Path:
    return path.with_suffix(".marker")


@pytest.mark.parametrize("name", hostile.ATTACKS)
def test_refuses_and_runs_nothing(name: str, attacks: dict[str, Path]) -> None:
    attack, path = hostile.ATTACKS[name], attacks[name]
    with pytest.raises(UserError) as caught:
        read_program(Archive(path))
    assert attack.reason in str(caught.value)
    assert attack.blames in caught.value.where
    assert str(path) in caught.value.where
    assert not _marker(path).exists()


def test_the_attacks_are_real(plain_pt2: Path, tmp_path: Path) -> None:
    """PyTorch runs the payloads that lowc refuses."""
    paths = _build(plain_pt2, tmp_path, hostile.PROVEN)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environment.pop("TORCH_FORCE_WEIGHTS_ONLY_LOAD", None)
    command = [sys.executable, "-W", "ignore", "-c", LOAD_ALL, *map(str, paths.values())]
    subprocess.run(command, env=environment, capture_output=True, check=False, timeout=300)
    ran = {name for name, path in paths.items() if _marker(path).exists()}
    assert ran == hostile.PROVEN


# -- archives that must be taken -------------------------------------------------------------------


def test_reads_what_torch_saved(plain_pt2: Path) -> None:
    found = Archive(plain_pt2)
    assert found.model_name == "model"
    assert set(found.weights) == {"fc.weight", "fc.bias"}
    assert set(found.constants) == {"scale", "shift"}
    path_name = found.constants["scale"]["path_name"]
    assert found.read(f"data/constants/{path_name}") == struct.pack("<3f", 1, 2, 3)
    assert found.entries["data/sample_inputs/model.pt"].size > 0


def test_reads_an_archive_that_another_zip_writer_wrote(plain_pt2: Path, tmp_path: Path) -> None:
    copy = hostile.rewrite(plain_pt2, tmp_path / "copy.pt2", {"extra/notes.txt": "Größe".encode()})
    assert Archive(copy).read("extra/notes.txt").decode() == "Größe"


def test_example_inputs_of_every_type_are_taken(tmp_path: Path) -> None:
    import torch

    names = (
        "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool "
        "complex64 complex128 float8_e4m3fn float8_e5m2"
    )
    tensors = {name: torch.zeros(2, 3).to(getattr(torch, name)) for name in names.split()}
    odd = {
        "view": torch.zeros(4, 4)[:, 1:3].t(),
        "channels last": torch.zeros(1, 3, 4, 4).to(memory_format=torch.channels_last),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3.0),
        "parameter": torch.nn.Parameter(torch.zeros(2)),
        "needs a gradient": torch.zeros(2, requires_grad=True),
        "values": [1, 2.5, True, None, "text", (1, {"deep": [torch.zeros(1)]}), 1 << 80, -1],
        "bytes": b"abc",
        "size": torch.Size([1, 2]),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
    }
    buffer = io.BytesIO()
    torch.save(((tensors,), odd), buffer)
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)  # noqa: TID251  (torch agrees)
    with zipfile.ZipFile(buffer) as archive:
        assert pickles.unsafe_part(archive.read("archive/data.pkl")) is None


def test_what_torch_would_not_load_as_weights_is_refused(tmp_path: Path) -> None:
    unsafe = pickles.unsafe_part(pickle.dumps(Path("x"), 2))
    assert unsafe is not None
    assert "pathlib" in unsafe


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=60))
def test_any_bytes_can_be_scanned(data: bytes) -> None:
    assert pickles.unsafe_part(data) is None or isinstance(pickles.unsafe_part(data), str)


# -- the container ---------------------------------------------------------------------------------


def _refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_program(Archive(path))
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "m/../../evil",
        "../evil",
        "/etc/evil",
        "m/..",
        "m\\..\\evil",
        "C:/evil",
    ],
)
def test_a_path_that_leaves_the_archive(name: str, plain_pt2: Path, tmp_path: Path) -> None:
    path = hostile.rewrite(plain_pt2, tmp_path / "x.pt2", {})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    message = _refusal(path)
    assert "the path leaves the archive" in message
    assert "evil" in message or ".." in message


def _change_tables(path: Path, entry: str, change) -> Path:
    """Change the central directory's record of one entry: a list of its 17 fields."""
    data = bytearray(path.read_bytes())
    layout = struct.Struct("<4s6H3I5H2I")
    at = data.rfind(b"PK\x05\x06")
    position = struct.unpack_from("<I", data, at + 16)[0]
    while data[position : position + 4] == b"PK\x01\x02":
        fields = list(layout.unpack_from(data, position))
        name = bytes(data[position + 46 : position + 46 + fields[10]]).decode()
        if name.endswith(entry):
            change(fields)
            layout.pack_into(data, position, *fields)
        position += 46 + sum(struct.unpack_from("<3H", data, position + 28))
    path.write_bytes(data)
    return path


def _set(index: int, value: int):
    def change(fields: list) -> None:
        fields[index] = value

    return change


CHANGES = {
    "encrypted": (_set(3, 1), "the entry is encrypted"),
    "strongly encrypted": (_set(3, 0x40), "the entry is encrypted"),
    "a symbolic link": (_set(15, 0o120777 << 16), "the entry is a symbolic link"),
    "larger than it is stored": (_set(9, 1 << 30), "the entry is compressed"),
    "said to be compressed": (_set(4, 8), "the entry is compressed"),
    "of an unknown method": (_set(4, 93), "the entry is compressed"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_odd_entry(name: str, plain_pt2: Path, tmp_path: Path) -> None:
    change, reason = CHANGES[name]
    path = hostile.rewrite(plain_pt2, tmp_path / "x.pt2", {})
    message = _refusal(_change_tables(path, hostile.PROGRAM, change))
    assert reason in message
    assert "models/model.json" in message


def test_a_deflated_bomb(plain_pt2: Path, tmp_path: Path) -> None:
    path = hostile.rewrite(plain_pt2, tmp_path / "x.pt2", {})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data/weights/weight_9", bytes(64 << 20))
    assert path.stat().st_size < 1 << 20
    message = _refusal(path)
    assert "data/weights/weight_9" in message
    assert "zip bomb" in message


def test_a_bomb_of_overlapping_entries(plain_pt2: Path, tmp_path: Path) -> None:
    """Many entries of the directory share one range of the file."""
    kernel = bytes(1 << 20)
    entries = hostile.read_entries(plain_pt2)
    path = hostile.write_entries(tmp_path / "x.pt2", entries | {"extra/a": kernel, "extra/b": b""})

    def enlarge(fields: list) -> None:  # a now covers b's header too
        fields[8] = fields[9] = len(kernel) + 20

    message = _refusal(_change_tables(path, "extra/a", enlarge))
    assert "overlaps another one (a zip bomb)" in message
    assert "extra/b" in message


def test_entries_that_share_one_header(plain_pt2: Path, tmp_path: Path) -> None:
    path = hostile.rewrite(plain_pt2, tmp_path / "x.pt2", {"extra/a": b"1", "extra/b": b"2"})
    offsets = []
    _change_tables(path, "extra/a", lambda fields: offsets.append(fields[16]))
    message = _refusal(_change_tables(path, "extra/b", _set(16, offsets[0])))
    assert "two different names" in message


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["m/models/model.json", "m/models/Model.json"])
def test_an_entry_that_is_there_twice(name: str, plain_pt2: Path, tmp_path: Path) -> None:
    path = hostile.rewrite(plain_pt2, tmp_path / "x.pt2", {})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"{}")
    assert "twice" in _refusal(path)


def test_a_second_top_level_folder(plain_pt2: Path, tmp_path: Path) -> None:
    path = hostile.rewrite(plain_pt2, tmp_path / "x.pt2", {})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/models/model.json", b"{}")
    assert "2 top-level folders" in _refusal(path)


def test_a_comment(plain_pt2: Path, tmp_path: Path) -> None:
    path = hostile.rewrite(plain_pt2, tmp_path / "x.pt2", {})
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"PK\x05\x06"
    assert "comment" in _refusal(path) or "damaged" in _refusal(path)


def test_too_many_entries(plain_pt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_ENTRIES", 5)
    assert "entries" in _refusal(plain_pt2)


def test_a_directory_that_would_fill_the_memory(
    plain_pt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "MAX_DIRECTORY_BYTES", 200)
    assert "its directory has" in _refusal(plain_pt2)


def test_names_reach_the_terminal_without_control_characters(
    plain_pt2: Path, tmp_path: Path
) -> None:
    path = hostile.rewrite(plain_pt2, tmp_path / "x.pt2", {})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("m/\x1b[2Jevil\n/..", b"x")
    message = _refusal(path)
    assert "\x1b" not in message
    assert "\\x1b[2Jevil\\n" in message


def test_a_truncated_file_is_refused_wherever_it_is_cut(plain_pt2: Path, tmp_path: Path) -> None:
    data = plain_pt2.read_bytes()
    path = tmp_path / "cut.pt2"
    for size in sorted({*range(0, len(data), 97), len(data) - 1, len(data) - 21, 1, 2, 3, 4, 22}):
        path.write_bytes(data[:size])
        message = _refusal(path)
        assert str(path) in message, size


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), tail=st.booleans())
def test_a_flipped_byte_is_taken_or_refused(
    position: float, value: int, tail: bool, plain_pt2: Path, tmp_path: Path
) -> None:
    data = bytearray(plain_pt2.read_bytes())
    start = len(data) - 1500 if tail else 0  # the directory is where the damage is interesting
    data[start + int(position * (len(data) - start))] = value
    path = tmp_path / "flipped.pt2"
    path.write_bytes(data)
    try:
        read_program(Archive(path))
    except UserError as error:
        assert str(path) in error.where


FOREIGN = {
    "a PNG": (b"\x89PNG\r\n\x1a\n" + zlib.compress(b"x"), "not a .pt2 archive"),
    "text": (b"# a note\n", "not a .pt2 archive"),
    "empty": (b"", "the file is empty"),
    "a pickle of protocol 4": (pickle.dumps([1], 4), "bare pickle"),
    "zip magic only": (b"PK\x03\x04", "damaged or truncated"),
    "an empty zip": (b"PK\x05\x06" + bytes(18), "the archive is empty"),
    "safetensors": (struct.pack("<Q", 2) + b"{}", "not a .pt2 archive"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file(name: str, tmp_path: Path) -> None:
    data, reason = FOREIGN[name]
    path = tmp_path / "foreign.pt2"
    path.write_bytes(data)
    message = _refusal(path)
    assert reason in message
    assert str(path) in message


def test_a_zip_of_other_things(tmp_path: Path) -> None:
    path = hostile.write_entries(tmp_path / "x.pt2", {"readme.txt": b"hello"})
    assert "holds no exported program" in _refusal(path)


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    assert "this is not a file" in _refusal(tmp_path)
    assert "the file does not exist" in _refusal(tmp_path / "none.pt2")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission(plain_pt2: Path, tmp_path: Path) -> None:
    path = hostile.rewrite(plain_pt2, tmp_path / "x.pt2", {})
    path.chmod(0)
    assert "cannot be read" in _refusal(path)


# -- JSON ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", [hostile.PROGRAM, *hostile.CONFIGS.values()])
@pytest.mark.parametrize(
    "text",
    [b"", b"nonsense", b"\xff\xfe", b"[" * 100_000, b'{"config":' * 50_000, b"1" * 5_000, b"null"],
    ids=["empty", "no JSON", "no UTF-8", "nested", "nested tables", "a long number", "null"],
)
def test_broken_json(entry: str, text: bytes, plain_pt2: Path, tmp_path: Path) -> None:
    path = hostile.rewrite(plain_pt2, tmp_path / "x.pt2", {entry: text})
    message = _refusal(path)
    assert entry in message


def test_json_of_too_many_values(
    plain_pt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "MAX_JSON_VALUES", 1000)
    path = hostile.rewrite(plain_pt2, tmp_path / "x.pt2", {hostile.PROGRAM: b"[" + b"[]," * 900})
    assert "values, more than 1000" in _refusal(path)


def test_a_missing_entry(plain_pt2: Path, tmp_path: Path) -> None:
    for entry in hostile.CONFIGS.values():
        path = hostile.rewrite(plain_pt2, tmp_path / "x.pt2", {entry: None})
        assert f"'{entry}': the entry is missing" in _refusal(path)


def test_a_missing_weight(plain_pt2: Path, tmp_path: Path) -> None:
    path = hostile.rewrite(plain_pt2, tmp_path / "x.pt2", {"data/weights/weight_0": None})
    assert "its data entry 'weight_0' is missing" in _refusal(path)


def test_big_endian_weights(plain_pt2: Path, tmp_path: Path) -> None:
    path = hostile.rewrite(plain_pt2, tmp_path / "x.pt2", {"byteorder": b"big"})
    assert "little-endian" in _refusal(path)


@pytest.mark.parametrize("path_name", ["../../models/model.json", "..", ".\\x", "custom_obj_1"])
def test_a_payload_path_that_leaves_its_folder(
    path_name: str, plain_pt2: Path, tmp_path: Path
) -> None:
    def change(config) -> None:
        config["config"]["fc.bias"]["path_name"] = path_name

    path = hostile.edit_json(plain_pt2, tmp_path / "x.pt2", hostile.CONFIGS["weights"], change)
    assert "fc.bias" in _refusal(path)
