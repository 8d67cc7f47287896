"""Hostile ``.pt2`` archives, made by editing genuine ones.

Every builder takes a genuine archive, the path of the hostile one and the path of a marker file
that its payload writes when it runs.  ``PROVEN`` are those whose payload ``torch.export.load`` does
run; a test shows that, so that the refusals are refusals of something.
"""

from __future__ import annotations

import copy
import io
import json
import pickle  # noqa: TID251  (the payloads are pickles)
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIGS = {kind: f"data/{kind}/model_{kind}_config.json" for kind in ("weights", "constants")}
PROGRAM = "models/model.json"
EXAMPLES = "data/sample_inputs/model.pt"


class Payload:
    """An object whose pickle writes a marker file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return open, (self.marker, "w")


def evil_pickle(marker: Path, protocol: int = 2) -> bytes:
    return pickle.dumps((Payload(marker),), protocol)


def evil_torch_save(marker: Path) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(((torch.ones(1), Payload(marker)), {}), buffer)
    return buffer.getvalue()


# -- editing ---------------------------------------------------------------------------------------


def read_entries(source: Path) -> dict[str, bytes]:
    """Return the entries of an archive by their name below the root."""
    with zipfile.ZipFile(source) as archive:
        return {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}


def write_entries(target: Path, entries: dict[str, bytes], root: str = "m/") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in entries.items():
            archive.writestr(root + name, data)
    return target


def rewrite(source: Path, target: Path, changes: dict[str, bytes | None]) -> Path:
    """Copy an archive with entries changed, added or (None) left out."""
    entries = read_entries(source) | changes
    return write_entries(target, {name: data for name, data in entries.items() if data is not None})


def edit_json(source: Path, target: Path, entry: str, change: Callable[[Any], Any]) -> Path:
    """Copy an archive with one JSON entry changed in place, or by what `change` returns."""
    document = json.loads(read_entries(source)[entry])
    changed = change(document)
    document = document if changed is None else changed
    return rewrite(source, target, {entry: json.dumps(document).encode()})


def edit_program(source: Path, target: Path, change: Callable[[Any], Any]) -> Path:
    return edit_json(source, target, PROGRAM, change)


def graph_of(document: Any) -> Any:
    return document["graph_module"]["graph"]


def rename_value(document: Any, old: str, new: str) -> Any:
    """Rename a value everywhere in a program."""
    text = json.dumps(document)
    for pattern in ('{{"name": "{}"}}', '"{}": {{"dtype"', '{{"as_name": "{}"}}'):
        text = text.replace(pattern.format(old), pattern.format(json.dumps(new)[1:-1]))
    return json.loads(text)


def call_node(target: str, *strings: str) -> dict[str, Any]:
    """Return a graph node that calls `target` with strings, and has no result."""
    inputs = [{"name": "", "arg": {"as_string": text}, "kind": 1} for text in strings]
    return {
        "target": target, "inputs": inputs, "outputs": [{"as_none": True}], "metadata": {},
        "is_hop_single_tensor_return": None, "name": "called",
    }  # fmt: skip


# -- the ways in -----------------------------------------------------------------------------------

Builder = Callable[[Path, Path, Path], Any]


@dataclass(frozen=True)
class Attack:
    """A hostile archive, and what the refusal must say."""

    build: Builder
    blames: str
    reason: str
    proven: bool


ATTACKS: dict[str, Attack] = {}


def attack(blames: str, reason: str, *, proven: bool = True) -> Callable[[Builder], Builder]:
    def register(build: Builder) -> Builder:
        ATTACKS[build.__name__.replace("_", "-")] = Attack(build, blames, reason, proven)
        return build

    return register


def _pickled(source: Path, target: Path, marker: Path, kind: str) -> None:
    def change(config: Any) -> None:
        value = next(iter(config["config"].values()))
        value["use_pickle"] = True

    edit_json(source, target, CONFIGS[kind], change)
    table = json.loads(read_entries(target)[CONFIGS[kind]])["config"]
    path_name = next(iter(table.values()))["path_name"]
    rewrite(target, target, {f"data/{kind}/{path_name}": evil_pickle(marker)})


@attack("model_weights_config.json' at 'fc.weight'", "use_pickle")
def pickled_weight(source: Path, target: Path, marker: Path) -> None:
    _pickled(source, target, marker, "weights")


@attack("model_constants_config.json' at 'scale'", "use_pickle")
def pickled_constant(source: Path, target: Path, marker: Path) -> None:
    _pickled(source, target, marker, "constants")


def _object(source: Path, target: Path, marker: Path, path_name: str) -> None:
    def change(config: Any) -> None:
        value = {"is_param": False, "use_pickle": True, "tensor_meta": None}
        config["config"]["thing"] = value | {"path_name": path_name}

    edit_json(source, target, CONFIGS["constants"], change)
    rewrite(target, target, {f"data/constants/{path_name}": evil_pickle(marker)})


@attack("'data/constants/custom_obj_0'", "TorchScript object", proven=False)
def custom_object(source: Path, target: Path, marker: Path) -> None:
    _object(source, target, marker, "custom_obj_0")


@attack("'data/constants/opaque_obj_0'", "opaque object")
def opaque_object(source: Path, target: Path, marker: Path) -> None:
    _object(source, target, marker, "opaque_obj_0")


@attack("'data/sample_inputs/model.pt'", "bare pickle")
def bare_example_inputs(source: Path, target: Path, marker: Path) -> None:
    rewrite(source, target, {EXAMPLES: evil_pickle(marker)})


@attack("'data/sample_inputs/model.pt'", "'io open'")
def example_inputs(source: Path, target: Path, marker: Path) -> None:
    rewrite(source, target, {EXAMPLES: evil_torch_save(marker)})


def _examples(data: dict[str, bytes], root: str = "archive/") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in data.items():
            archive.writestr(root + name, content)
    return buffer.getvalue()


@attack("'data/sample_inputs/model.pt'", "a computed global (STACK_GLOBAL)")
def example_inputs_of_protocol_4(source: Path, target: Path, marker: Path) -> None:
    data = {"data.pkl": evil_pickle(marker, 4), "version": b"3\n", "byteorder": b"little"}
    rewrite(source, target, {EXAMPLES: _examples(data)})


@attack("'data/sample_inputs/model.pt'", "a computed global (INST)")
def example_inputs_of_protocol_0(source: Path, target: Path, marker: Path) -> None:
    text = f"(V{marker}\nVw\niio\nopen\n.".encode()
    data = {"data.pkl": text, "version": b"3\n", "byteorder": b"little"}
    rewrite(source, target, {EXAMPLES: _examples(data)})


@attack("'archive/DATA.PKL'", "in the archive twice", proven=False)
def example_inputs_in_capitals(source: Path, target: Path, marker: Path) -> None:
    data = {"data.pkl": pickle.dumps(((), {}), 2), "DATA.PKL": evil_pickle(marker)}
    rewrite(source, target, {EXAMPLES: _examples(data | {"version": b"3\n"})})


@attack("'data/sample_inputs/model.pt'", "no plain tensors", proven=False)
def example_inputs_that_are_torchscript(source: Path, target: Path, marker: Path) -> None:
    plain = pickle.dumps(((), {}), 2)
    data = {"data.pkl": plain, "constants.pkl": plain, "code/__torch__.py": b"", "version": b"3\n"}
    rewrite(source, target, {EXAMPLES: _examples(data)})


@attack("'data/weights/model.pt'", "legacy weights")
def legacy_weights(source: Path, target: Path, marker: Path) -> None:
    rewrite(source, target, {"data/weights/model.pt": evil_torch_save(marker)})


@attack("'data/constants/model.pt'", "legacy weights")
def legacy_constants(source: Path, target: Path, marker: Path) -> None:
    rewrite(source, target, {"data/constants/model.pt": evil_torch_save(marker)})


@attack("'serialized_", "old torch.export archive")
def legacy_archive(source: Path, target: Path, marker: Path) -> None:
    evil = evil_torch_save(marker)
    entries = {
        "version": b"8.20",
        "serialized_exported_program.json": read_entries(source)[PROGRAM],
        "serialized_state_dict.pt": evil,
        "serialized_constants.pt": evil,
        "serialized_example_inputs.pt": evil,
    }
    write_entries(target, entries, root="")


@attack("entry '", "only a pickle can load", proven=False)
def torchscript(source: Path, target: Path, marker: Path) -> None:
    import torch

    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(target))


@attack("data.pkl'", "torch.save", proven=False)
def torch_save(source: Path, target: Path, marker: Path) -> None:
    target.write_bytes(evil_torch_save(marker))


@attack("", "this is a bare pickle", proven=False)
def bare_pickle(source: Path, target: Path, marker: Path) -> None:
    target.write_bytes(evil_pickle(marker))


@attack("'models/model.json'", "is no identifier")
def code_in_an_input_name(source: Path, target: Path, marker: Path) -> None:
    code = f"x=open({str(marker)!r}, 'w')"
    edit_program(source, target, lambda document: rename_value(document, "x", code))


@attack("'models/model.json'", "is no identifier", proven=False)  # FX mends names of values
def code_in_a_value_name(source: Path, target: Path, marker: Path) -> None:
    code = f"pass\nopen({str(marker)!r}, 'w')\nunused"

    def change(document: Any) -> None:
        graph = graph_of(document)
        node = copy.deepcopy(graph["nodes"][0])
        node |= {"name": "unused", "outputs": [{"as_tensor": {"name": code}}]}
        graph["nodes"].insert(0, node)
        graph["tensor_values"][code] = graph["tensor_values"]["linear"]

    edit_program(source, target, change)


@attack("'models/model.json'", "symbolic size")
def code_in_a_size(source: Path, target: Path, marker: Path) -> None:
    def change(document: Any) -> None:
        hint = {"as_int": 2}
        size = {"expr_str": f"open({str(marker)!r}, 'w')", "hint": hint}
        graph_of(document)["tensor_values"]["x"]["sizes"][0] = {"as_expr": size}

    edit_program(source, target, change)


@attack("'models/model.json'", "which only a pickle can load", proven=False)
def custom_object_argument(source: Path, target: Path, marker: Path) -> None:
    def change(document: Any) -> None:
        argument = {"as_custom_obj": {"name": "thing", "class_fqn": "x"}}
        graph_of(document)["nodes"][0]["inputs"][0]["arg"] = argument

    edit_program(source, target, change)


@attack("'models/model.json'", "keys that are no strings")
def module_import_in_a_tree(source: Path, target: Path, marker: Path) -> None:
    # pytree imports the module of an enum that is a dictionary's key.
    module = f"evil_{marker.stem.replace('-', '_')}"
    (target.parent / f"{module}.py").write_text(f"open({str(marker)!r}, 'w')\n")
    key = {"__enum__": True, "fqn": f"{module}:X", "name": "Y"}
    leaf = {"type": None, "context": None, "children_spec": []}
    spec = {"type": "builtins.dict", "context": json.dumps([key]), "children_spec": [leaf]}

    def change(document: Any) -> None:
        signature = document["graph_module"]["module_call_graph"][0]["signature"]
        signature["out_spec"] = json.dumps([1, spec])

    edit_program(source, target, change)


@attack("'data/aotinductor/model/model.so'", "native code", proven=False)
def native_code(source: Path, target: Path, marker: Path) -> None:
    rewrite(source, target, {"data/aotinductor/model/model.so": b"\x7fELF"})


@attack("'data/aotinductor/model/model.so'", "native code", proven=False)
def native_code_only(source: Path, target: Path, marker: Path) -> None:
    changes = {PROGRAM: None, "data/aotinductor/model/model.so": b"\x7fELF"}
    rewrite(source, target, changes)


@attack("", "holds 2 programs", proven=False)
def two_programs(source: Path, target: Path, marker: Path) -> None:
    rewrite(source, target, {"models/other.json": read_entries(source)[PROGRAM]})


PROVEN = {name for name, found in ATTACKS.items() if found.proven}
