"""Look into a ``.pt2`` archive before anything else reads it.

``torch.export.load`` unpickles in several places, so a ``.pt2`` from a stranger can run code.  lowc
never calls it.  A ``.pt2`` is a zip of stored (uncompressed) entries: JSON that describes the graph
and raw little-endian tensor bytes.  This module reads only those two, and refuses every archive
that would need a pickle, leave its own folder, unpack to more than it is, or run native code.

Source: ``torch/export/pt2_archive`` of PyTorch 2.13 for the names of the entries.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn

from ..errors import UserError
from .container import SAVE_AGAIN, Container, Entry, Window, refuse_entry
from .pickles import MAX_PICKLE_BYTES, unsafe_part

__all__ = ["Archive", "Entry"]

MAX_JSON_BYTES = 512 << 20
# Each value costs about 60 bytes of memory once it is decoded, however short its text.
MAX_JSON_VALUES = 30_000_000
_NO_PICKLE = "lowc never loads a pickle"
_NO_EXAMPLES = "set `exported.example_inputs = None` before torch.export.save"
_OPEN_HINT = "lowc compiles what torch.export.save wrote (.pt2), or MLIR (.mlir, .mlirbc)"


class Archive:
    """A checked ``.pt2``.

    Attributes
    ----------
    path : Path
    entries : dict of str to Entry
        Name without the root folder to its place in the file.
    model_name : str
        The program is ``models/<model_name>.json``.
    weights, constants : dict
        Checked payload tables: tensor name to ``path_name``, ``is_param`` and ``tensor_meta``.

    Raises
    ------
    UserError
        For everything that is refused; the message names the entry.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        _check_kind(self.path)
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            container = Container(Window(file, 0, size), str(self.path))
            self._check_legacy(container.names)
            container.check()
            self.entries = container.strip_root()
            self.model_name = self._model_name()
            self._check_contents()
            self._check_examples(file)
        self.weights = self._payload("weights", "weight_")
        self.constants = self._payload("constants", "tensor_")

    # -- reading ---------------------------------------------------------------------------------

    def read(self, name: str, limit: int = MAX_JSON_BYTES) -> bytes:
        """Return the bytes of entry `name`; refuse one larger than `limit`."""
        entry = self.entries.get(name)
        if entry is None:
            self._refuse(name, "the entry is missing", SAVE_AGAIN)
        if entry.size > limit:
            self._refuse(name, f"the entry is {entry.size} bytes, more than the limit of {limit}")
        with self.path.open("rb") as file:
            file.seek(entry.offset)
            return file.read(entry.size)

    def read_json(self, name: str) -> Any:
        """Return entry `name` decoded from JSON, whatever it nests."""
        text = self.read(name)
        values = sum(text.count(mark) for mark in (b",", b"[", b"{"))
        if values > MAX_JSON_VALUES:
            self._refuse(name, f"the entry holds {values} values, more than {MAX_JSON_VALUES}")
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            self._refuse(name, f"the entry is not valid JSON ({error})")

    def _refuse(self, entry: str, what: str, hint: str = "") -> NoReturn:
        refuse_entry(str(self.path), entry, what, hint)

    # -- what is in it ---------------------------------------------------------------------------

    def _check_legacy(self, names: list[str]) -> None:
        """Say what an archive of another kind is, before its entries are found to be odd."""
        if any("/models/" in name and name.endswith(".json") for name in names):
            return
        for name in names:
            base = name.rsplit("/", 1)[-1]
            if base.startswith("serialized_") or base.endswith(".pkl") or base == "model.json":
                self._refuse(
                    name,
                    "this is a torch.save, TorchScript or old torch.export archive, which only a "
                    f"pickle can load; {_NO_PICKLE}",
                    "load it where you trust it and save it with torch.export.save of PyTorch 2.13",
                )

    def _model_name(self) -> str:
        models = [name for name in self.entries if name.startswith("models/")]
        if len(models) > 1:
            raise UserError(
                f"the archive holds {len(models)} programs ({', '.join(sorted(models)[:10])})",
                where=str(self.path),
                hint="save one program per archive",
            )
        if not models or not models[0].endswith(".json"):
            for name in self.entries:
                self._check_native(name)
            raise UserError(
                "the archive holds no exported program (no models/*.json)",
                where=str(self.path),
                hint="save the model with torch.export.save(torch.export.export(...), path)",
            )
        return models[0].removeprefix("models/").removesuffix(".json")

    def _check_contents(self) -> None:
        model = self.model_name
        for name in self.entries:
            base = name.rsplit("/", 1)[-1].lower()
            self._check_native(name)
            if base.startswith("custom_obj_"):
                self._refuse(name, f"a TorchScript object is stored as a pickle; {_NO_PICKLE}")
            if base.startswith("opaque_obj_"):
                self._refuse(name, f"an opaque object is stored as a pickle; {_NO_PICKLE}")
            if name in (f"data/weights/{model}.pt", f"data/constants/{model}.pt"):
                self._refuse(name, f"legacy weights are stored as a pickle; {_NO_PICKLE}")
        if "byteorder" in self.entries and self.read("byteorder", 64) != b"little":
            self._refuse("byteorder", "only little-endian archives can be read")

    def _check_native(self, name: str) -> None:
        if name.startswith("data/aotinductor/"):
            self._refuse(
                name,
                "the archive holds native code (AOTInductor), lowc compiles exported programs",
                SAVE_AGAIN,
            )

    def _payload(self, kind: str, prefix: str) -> dict[str, dict[str, Any]]:
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
            if value.get("use_pickle") is not False:
                self._refuse(
                    where,
                    f"the tensor is stored as a pickle (use_pickle); {_NO_PICKLE}",
                    "save a plain, dense tensor: tensor subclasses and sparse layouts are pickled",
                )
            if "/" in path_name or "\\" in path_name or path_name.startswith("."):
                self._refuse(where, f"the path '{path_name}' leaves the archive")
            if not path_name.startswith(prefix):
                self._refuse(
                    where, f"'{path_name}' is not a tensor, so loading it would need a pickle"
                )
            if f"data/{kind}/{path_name}" not in self.entries:
                self._refuse(where, f"its data entry '{path_name}' is missing")
        return table

    def _check_examples(self, file: Any) -> None:
        """Refuse example inputs that torch would unpickle fully; lowc itself never reads them."""
        name = f"data/sample_inputs/{self.model_name}.pt"
        entry = self.entries.get(name)
        if entry is None or entry.size == 0:
            return
        window = Window(file, entry.offset, entry.size)
        if window.read(2) != b"PK":
            self._refuse(name, f"the example inputs are a bare pickle; {_NO_PICKLE}", _NO_EXAMPLES)
        container = Container(window, f"{self.path}, entry '{name}'")
        container.check()
        nested = container.strip_root()
        data = nested.get("data.pkl")
        others = [key for key in nested if key.lower().endswith(".pkl") and key != "data.pkl"]
        if data is None or others or any(key.startswith("code/") for key in nested):
            self._refuse(name, "the example inputs are no plain tensors", _NO_EXAMPLES)
        if data.size > MAX_PICKLE_BYTES:
            self._refuse(name, f"the example inputs nest {data.size} bytes", _NO_EXAMPLES)
        window.seek(data.offset)
        unsafe = unsafe_part(window.read(data.size))
        if unsafe:
            self._refuse(
                name,
                f"the example inputs name {unsafe}, which torch would import and call",
                _NO_EXAMPLES,
            )


def _check_kind(path: Path) -> None:
    """Refuse what is no zip by its first bytes, with an error that says what it is."""
    where = str(path)
    if not path.exists():
        raise UserError("the file does not exist", where=where)
    if not path.is_file():
        raise UserError("this is not a file", where=where)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise UserError(f"the file cannot be read ({error.strerror})", where=where) from error
    if not magic:
        raise UserError("the file is empty", where=where, hint=_OPEN_HINT)
    if magic[:1] == b"\x80":
        raise UserError(f"this is a bare pickle; {_NO_PICKLE}", where=where, hint=_OPEN_HINT)
    if magic[:2] != b"PK":
        raise UserError("this is not a .pt2 archive", where=where, hint=_OPEN_HINT)
