"""Look into a ``.pt2`` archive before anything else reads it.

``torch.export.load`` unpickles in several places, so a ``.pt2`` from a stranger can run code.  lowc
never calls it.  A ``.pt2`` is a zip of stored (uncompressed) entries: JSON that describes the graph
and raw little-endian tensor bytes.  This module reads only those two, and refuses every archive
that would need a pickle, leave its own folder, unpack to more than it is, or run native code.

Source: ``torch/export/pt2_archive`` of PyTorch 2.13 for the names of the entries.
"""

from __future__ import annotations

import io
import json
import os
import pickletools
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..errors import UserError

MAX_ENTRIES = 200_000
MAX_JSON_BYTES = 512 << 20
MAX_EXAMPLE_BYTES = 64 << 20
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")

# What a pickle of plain tensors names.  Anything else in the example inputs could run code when
# torch falls back to a full unpickle, so the archive is refused although lowc would not read it.
_TENSOR_PICKLE_GLOBALS = frozenset(
    {
        "collections OrderedDict",
        "torch Size",
        "torch device",
        "torch.serialization _get_layout",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        "torch._tensor _rebuild_from_type_v2",
    }
    | {
        f"torch {kind}Storage"
        for kind in "Float Double Half BFloat16 Long Int Short Char Byte Bool".split()
    }
    | {"torch.storage UntypedStorage"}
)


@dataclass(frozen=True)
class Entry:
    """Where the bytes of one stored entry lie in the archive file."""

    name: str
    offset: int
    size: int


class Archive:
    """A checked ``.pt2``: a map of entry name (without the root folder) to its place in the file.

    Raises
    ------
    UserError
        For everything that :meth:`_check` refuses; the message names the entry.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.entries: dict[str, Entry] = {}
        self.root = ""
        with _opened(self.path) as archive:
            self._check(archive)
            self.model_name = self._model_name()
            self._check_contents(archive)

    # -- reading ---------------------------------------------------------------------------------

    def read(self, name: str, limit: int = MAX_JSON_BYTES) -> bytes:
        """Return the bytes of entry `name`; refuse one larger than `limit`."""
        entry = self.entries.get(name)
        if entry is None:
            self._refuse(name, "the entry is missing", "save the model again with torch.export.save")
        if entry.size > limit:
            self._refuse(name, f"the entry is {entry.size} bytes, more than the limit of {limit}")
        with self.path.open("rb") as file:
            file.seek(entry.offset)
            return file.read(entry.size)

    def read_json(self, name: str) -> Any:
        """Return entry `name` decoded from JSON, whatever it nests."""
        try:
            return json.loads(self.read(name))
        except (ValueError, RecursionError) as error:
            self._refuse(name, f"the entry is not valid JSON ({error})")

    def _refuse(self, entry: str, what: str, hint: str = "") -> NoReturn:
        raise UserError(what, where=f"{self.path}, entry '{entry}'", hint=hint)

    # -- the container ---------------------------------------------------------------------------

    def _check(self, archive: zipfile.ZipFile) -> None:
        infos = archive.infolist()
        if not infos:
            raise UserError("the archive is empty", where=str(self.path))
        if len(infos) > MAX_ENTRIES:
            raise UserError(f"the archive has {len(infos)} entries", where=str(self.path))
        roots = {info.filename.split("/", 1)[0] for info in infos}
        for info in infos:
            self._check_name(info)
        if len(roots) != 1:
            raise UserError(
                f"the archive has {len(roots)} top-level folders, a .pt2 has one",
                where=str(self.path),
                hint="save the model again with torch.export.save",
            )
        self.root = roots.pop() + "/"
        spans = sorted(
            (self._place(archive, info) for info in infos), key=lambda entry: entry.offset
        )
        end = 0
        for entry in spans:
            if entry.offset < end:
                self._refuse(entry.name, "the entry overlaps another one (a zip bomb)")
            end = entry.offset + entry.size
            if entry.name in self.entries:
                self._refuse(entry.name, "the entry is in the archive twice")
            self.entries[entry.name] = entry
        if end > self.path.stat().st_size:
            self._refuse(spans[-1].name, "the entry reaches past the end of the file (truncated)")

    def _check_name(self, info: zipfile.ZipInfo) -> None:
        name = info.filename
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0] or "\0" in name:
            self._refuse(name, "the path leaves the archive")
        if stat.S_ISLNK(info.external_attr >> 16):
            self._refuse(name, "the entry is a symbolic link")
        if info.flag_bits & 1:
            self._refuse(name, "the entry is encrypted")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            self._refuse(
                name,
                f"the entry is compressed ({info.compress_size} to {info.file_size} bytes); "
                "torch.export.save stores entries as they are, and a zip bomb does not",
                "save the model again with torch.export.save",
            )

    def _place(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Entry:
        file = archive.fp
        if file is None:
            raise ValueError("the archive was closed while it was checked")
        file.seek(info.header_offset)
        raw = file.read(_LOCAL_HEADER.size)
        if len(raw) != _LOCAL_HEADER.size or raw[:4] != b"PK\x03\x04":
            self._refuse(info.filename, "the entry has no local header (damaged archive)")
        header = _LOCAL_HEADER.unpack(raw)
        name_length, extra_length = header[-2:]
        local_name = file.read(name_length)
        if local_name != info.orig_filename.encode("utf-8") and local_name != (
            info.orig_filename.encode("cp437", "replace")
        ):
            self._refuse(info.filename, "the entry has two different names (damaged archive)")
        offset = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        return Entry(info.filename.split("/", 1)[-1], offset, info.file_size)

    # -- what is in it ---------------------------------------------------------------------------

    def _model_name(self) -> str:
        models = [
            name.removeprefix("models/").removesuffix(".json")
            for name in self.entries
            if name.startswith("models/") and name.endswith(".json")
        ]
        if len(models) == 1:
            return models[0]
        if len(models) > 1:
            raise UserError(
                f"the archive holds {len(models)} programs ({', '.join(sorted(models))})",
                where=str(self.path),
                hint="save one program per archive",
            )
        legacy = {"serialized_exported_program.json", "data.pkl", "constants.pkl", "model.json"}
        for name in self.entries:
            if name in legacy or name.endswith(".pkl"):
                self._refuse(
                    name,
                    "this is a legacy or TorchScript archive, which only a pickle can load",
                    "load it where you trust it and save it with torch.export.save of PyTorch 2.13",
                )
        raise UserError(
            "the archive holds no exported program (no models/*.json)",
            where=str(self.path),
            hint="save the model with torch.export.save(torch.export.export(...), path)",
        )

    def _check_contents(self, archive: zipfile.ZipFile) -> None:
        model = self.model_name
        pickled = "lowc never loads a pickle"
        for name in self.entries:
            base = name.rsplit("/", 1)[-1]
            if name.startswith("data/aotinductor/"):
                self._refuse(name, "the archive holds native code, lowc compiles exported programs")
            if base.startswith(("custom_obj_", "CUSTOM_OBJ_")):
                self._refuse(name, f"a TorchScript object is stored as a pickle; {pickled}")
            if base.startswith(("opaque_obj_", "OPAQUE_OBJ_")):
                self._refuse(name, f"an opaque object is stored as a pickle; {pickled}")
            if name in (f"data/weights/{model}.pt", f"data/constants/{model}.pt"):
                self._refuse(name, f"legacy weights are stored as a pickle; {pickled}")
        if self.entries.get("byteorder") and self.read("byteorder", 64) != b"little":
            self._refuse("byteorder", "only little-endian archives can be read")
        self.weights = self._payload("weights")
        self.constants = self._payload("constants")
        self._check_examples(archive)

    def _payload(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the checked table of tensor name to where and how its bytes are stored."""
        config_name = f"data/{kind}/{self.model_name}_{kind}_config.json"
        config = self.read_json(config_name)
        table = config.get("config") if isinstance(config, dict) else None
        if not isinstance(table, dict):
            self._refuse(config_name, "the entry has no 'config' table")
        for key, value in table.items():
            where = f"{config_name}' at '{key}"
            if not isinstance(value, dict) or not isinstance(value.get("path_name"), str):
                self._refuse(where, "the tensor has no path_name")
            path_name = value["path_name"]
            if value.get("use_pickle"):
                self._refuse(
                    where,
                    "the tensor is stored as a pickle (use_pickle); lowc never loads a pickle",
                    "save a plain, dense tensor: tensor subclasses and sparse layouts are pickled",
                )
            if "/" in path_name or "\\" in path_name or path_name.startswith("."):
                self._refuse(where, f"the path '{path_name}' leaves the archive")
            if not path_name.startswith(("weight_", "tensor_")):
                self._refuse(
                    where, f"'{path_name}' is not a tensor, so loading it would need a pickle"
                )
            if f"data/{kind}/{path_name}" not in self.entries:
                self._refuse(where, f"its data entry '{path_name}' is missing")
        return table

    def _check_examples(self, archive: zipfile.ZipFile) -> None:
        """Refuse example inputs that torch would unpickle fully; lowc itself never reads them."""
        name = f"data/sample_inputs/{self.model_name}.pt"
        entry = self.entries.get(name)
        if entry is None or entry.size == 0:
            return
        hint = "set `exported.example_inputs = None` before torch.export.save"
        try:
            with zipfile.ZipFile(io.BytesIO(self.read(name))) as nested:
                pickles = [info for info in nested.infolist() if info.filename.endswith(".pkl")]
                if len(pickles) != 1 or pickles[0].file_size > MAX_EXAMPLE_BYTES:
                    self._refuse(name, "the example inputs are no plain tensors", hint)
                payload = nested.read(pickles[0])
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError) as error:
            self._refuse(name, f"the example inputs would need a full unpickle ({error})", hint)
        for found in _pickle_globals(payload):
            if found not in _TENSOR_PICKLE_GLOBALS:
                self._refuse(
                    name,
                    f"the example inputs name '{found}', which torch would import and call",
                    hint,
                )


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    if not path.exists():
        raise UserError("the file does not exist", where=str(path))
    if not path.is_file():
        raise UserError("this is not a file", where=str(path))
    hint = "lowc compiles what torch.export.save wrote (.pt2), or MLIR (.mlir, .mlirbc)"
    with path.open("rb") as file:
        magic = file.read(4)
    if magic[:2] == b"\x80\x02" or magic[:1] == b"\x80":
        raise UserError("this is a bare pickle, lowc never loads one", where=str(path), hint=hint)
    if magic[:2] != b"PK":
        raise UserError("this is not a .pt2 archive", where=str(path), hint=hint)
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error) as error:
        raise UserError(
            f"the archive is damaged or truncated ({error})",
            where=str(path),
            hint="copy or save the file again",
        ) from error


def _pickle_globals(payload: bytes) -> Iterator[str]:
    """Yield every global that unpickling `payload` would look up, without unpickling it."""
    try:
        for opcode, argument, _ in pickletools.genops(payload):
            if opcode.name == "GLOBAL":
                yield str(argument)
            elif opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"):
                yield f"a computed global ({opcode.name})"
    except ValueError as error:
        yield f"an unreadable pickle ({error})"
