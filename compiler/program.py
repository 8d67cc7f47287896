"""Rebuild the exported program of a checked archive from the parts that lowc understands.

The JSON of a ``.pt2`` is not passed to PyTorch as it came: ``graph.py`` copies the graph field by
field, the input and output trees become lowc's own with a flat tuple in their place, and everything
that the import does not need is left out.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runtime import tree as trees
from . import expressions
from .archive import Archive
from .container import shown
from .graph import Rebuilder

MAX_TREE_DEPTH = 50
MAX_CLASS_NAME = 300
# A tensor whose strides repeat elements is larger than its entry.  Masks are; this is a bound.
MAX_REPEATED_BYTES = 256 << 20

_CONTAINERS = {
    "builtins.tuple": "tuple",
    "builtins.list": "list",
    "builtins.dict": "dict",
    "collections.OrderedDict": "dict",
    "collections.defaultdict": "dict",
    "collections.deque": "list",
    "torch._export.utils.ImmutableList": "list",
    "torch.fx.immutable_collections.immutable_list": "list",
    "torch.fx.immutable_collections.immutable_dict": "dict",
    "collections.namedtuple": "namedtuple",
}


@dataclass(frozen=True)
class Tensor:
    """A parameter, buffer or constant of the archive: its type, and its bytes in the file.

    ``sizes``, ``strides`` and ``storage_offset`` count elements, ``offset`` and ``nbytes`` bytes;
    ``dtype`` is PyTorch's name without ``torch.``.  ``file`` is None for the model's own file;
    ``is_zero`` says that it is known to be all zeros.
    """

    name: str
    dtype: str
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    storage_offset: int
    offset: int
    nbytes: int
    is_parameter: bool
    file: Path | None = None
    is_zero: bool = False

    @property
    def storage(self) -> tuple[Any, ...]:
        """What two tied tensors have in common."""
        return (self.offset, self.dtype, self.sizes, self.strides, self.storage_offset)


@dataclass(frozen=True)
class Program:
    """An exported program that is safe to hand to PyTorch's deserialiser.

    Attributes
    ----------
    exported : dict
        PyTorch's ``schema.ExportedProgram`` as JSON, with flat input and output trees.
    tensors : dict of str to Tensor
        Parameters, buffers and tensor constants by their fully qualified name.
    args_tree, kwargs_tree, out_tree : Tree
        The nesting that the caller sees.
    argument_names : tuple of str
        Names of the positional arguments, then those of the keyword arguments.
    ranges : dict
        Symbol of a dynamic dimension to its inclusive ``[low, high]``; None for no bound.
    """

    archive: Archive
    exported: dict[str, Any]
    tensors: dict[str, Tensor]
    args_tree: Any
    kwargs_tree: Any
    out_tree: Any
    argument_names: tuple[str, ...]
    ranges: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)


# PyTorch's schema numbers its scalar types.
_DTYPES = {
    1: ("uint8", 1), 2: ("int8", 1), 3: ("int16", 2), 4: ("int32", 4), 5: ("int64", 8),
    6: ("float16", 2), 7: ("float32", 4), 8: ("float64", 8), 9: ("complex32", 4),
    10: ("complex64", 8), 11: ("complex128", 16), 12: ("bool", 1), 13: ("bfloat16", 2),
    28: ("uint16", 2), 29: ("float8_e4m3fn", 1), 30: ("float8_e5m2", 1),
}  # fmt: skip
_ITEM_SIZES = dict(_DTYPES.values())
_STRIDED = 7
# Inputs of the graph that are tensors of the archive, and the field that names the tensor.
_TARGETS = {
    "parameter": "parameter_name",
    "buffer": "buffer_name",
    "tensor_constant": "tensor_constant_name",
}


def read_program(archive: Archive) -> Program:
    """Return the checked program of `archive`.

    Raises
    ------
    UserError
        When a string of the JSON could make PyTorch run something, or when the JSON is not a
        program; the message names the entry.
    """
    entry = f"models/{archive.model_name}.json"
    where = f"{archive.path}, entry '{entry}'"
    document = archive.read_json(entry)
    try:
        return _Reader(archive, where).read(document)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, RecursionError) as error:
        reason = shown(f"{type(error).__name__}: {error}")
        raise UserError(
            f"the program is not one that torch.export.save writes ({reason})",
            where=where,
            hint="save the model again with PyTorch 2.13",
        ) from error


class _Reader:
    def __init__(self, archive: Archive, where: str) -> None:
        self.archive = archive
        self.rebuild = Rebuilder(where)
        self.refuse = self.rebuild.refuse
        self.namedtuples: dict[str, list[str]] = {}

    def read(self, document: dict[str, Any]) -> Program:
        module = document["graph_module"]
        if module["graph"].get("custom_obj_values"):
            self.refuse("the program holds TorchScript objects, which only a pickle can load")
        self.namedtuples = {
            name: definition["field_names"]
            for name, definition in (module.get("treespec_namedtuple_fields") or {}).items()
        }
        call = module["module_call_graph"][0]["signature"]
        inputs, outputs = self._tree(call["in_spec"]), self._tree(call["out_spec"])
        args_tree, kwargs_tree = self._arguments(inputs)
        names = self._argument_names(call.get("forward_arg_names"), args_tree, kwargs_tree)
        signature = self.rebuild.build("GraphSignature", module["signature"])
        self._check_leaves(signature, inputs, outputs)
        ranges = {
            self._range_key(name): (_bound(limits["min_val"]), _bound(limits["max_val"]))
            for name, limits in document["range_constraints"].items()
        }
        spec: dict[str, Any] = {
            "inputs": [],
            "outputs": [],
            "in_spec": _flat_inputs(trees.leaf_count(inputs)),
            "out_spec": _dump_spec(_flat_spec(trees.leaf_count(outputs))),
            "forward_arg_names": None,
        }
        exported: dict[str, Any] = {
            "graph_module": {
                "graph": self.rebuild.build("Graph", module["graph"]),
                "signature": signature,
                "module_call_graph": [{"fqn": "", "signature": spec}],
                "metadata": {},
                "treespec_namedtuple_fields": {},
            },
            "opset_version": {
                self.rebuild.text(key): self.rebuild.integer(value)
                for key, value in document["opset_version"].items()
            },
            "range_constraints": {
                name: {"min_val": low, "max_val": high} for name, (low, high) in ranges.items()
            },
            "schema_version": {
                key: self.rebuild.integer(document["schema_version"][key])
                for key in ("major", "minor")
            },
            # The dialect of torch.export.export, in which operators may write to their inputs.
            "verifiers": ["TRAINING"],
            "torch_version": self.rebuild.text(document.get("torch_version", "")),
            "guards_code": [],
        }
        tensors = self._tensors()
        self._check_types(exported["graph_module"], tensors)
        return Program(
            archive=self.archive,
            exported=exported,
            tensors=tensors,
            args_tree=args_tree,
            kwargs_tree=kwargs_tree,
            out_tree=outputs,
            argument_names=names,
            ranges=ranges,
        )

    def _range_key(self, text: Any) -> str:
        return text if expressions.is_symbol(text) else self.rebuild.expression(text)

    # -- the interface ---------------------------------------------------------------------------

    def _arguments(self, inputs: Any) -> tuple[Any, Any]:
        pair = [] if inputs == trees.LEAF else inputs["children"]
        if len(pair) != 2 or [part != trees.LEAF and part["type"] for part in pair] != [
            "tuple",
            "dict",
        ]:
            self.refuse("the inputs are no tuple of arguments and dictionary of keyword arguments")
        return pair[0], pair[1]

    def _argument_names(self, names: Any, args: Any, kwargs: Any) -> tuple[str, ...]:
        keywords = [self.rebuild.path(key) for key in kwargs.get("keys") or ()]
        count = len(args["children"])
        positional = [self.rebuild.path(name) for name in names or ()][:count]
        positional += [f"arg{index}" for index in range(len(positional), count)]
        return (*positional, *keywords)

    def _check_leaves(self, signature: dict[str, Any], inputs: Any, outputs: Any) -> None:
        """Refuse trees that do not fit the graph; the caller's values could not be placed."""
        wanted = (("input_specs", inputs, "inputs"), ("output_specs", outputs, "outputs"))
        for key, tree, word in wanted:
            kinds = ("user_input", "constant_input", "user_output")
            found = sum(1 for spec in signature[key] if next(iter(spec)) in kinds)
            if found != trees.leaf_count(tree):
                self.refuse(
                    f"the graph has {found} {word}, their nesting has {trees.leaf_count(tree)}"
                )

    def _tree(self, text: str) -> Any:
        protocol, spec = json.loads(text)
        if protocol != 1:
            self.refuse(f"the tree protocol {protocol!r:.40} is unknown")
        return self._subtree(spec, 0)

    def _subtree(self, spec: dict[str, Any], depth: int) -> Any:
        if depth > MAX_TREE_DEPTH:
            self.refuse("an input or output is nested too deeply")
        name = spec["type"]
        if name is None:
            return trees.LEAF
        children = [self._subtree(child, depth + 1) for child in spec["children_spec"]]
        kind = _CONTAINERS.get(name, "object")
        if kind == "namedtuple":
            name = spec["context"]
        if name in self.namedtuples:
            kind = "namedtuple"
            keys: Any = self.namedtuples[name]
        else:
            keys = _keys_of(kind, spec["context"])
        if keys is not None and not self._are_keys(keys, len(children)):
            keys = None
        if kind == "dict" and keys is None:
            self.refuse("a dictionary of the inputs or outputs has keys that are no strings")
        result = {"type": kind, "children": children}
        if keys is not None:
            result["keys"] = list(keys)
        if kind in ("namedtuple", "object"):
            result["name"] = self._class_name(kind, name)
        return result

    def _are_keys(self, keys: Any, count: int) -> bool:
        return (
            isinstance(keys, list)
            and len(keys) == count
            and all(type(key) is int or (type(key) is str and key.isprintable()) for key in keys)
            and len(set(keys)) == count
        )

    def _class_name(self, kind: str, name: Any) -> str:
        # A named tuple is built anew under its name; another class's name is only shown.
        simple = isinstance(name, str) and name.isprintable() and len(name) <= MAX_CLASS_NAME
        if not simple or (kind == "namedtuple" and not name.rsplit(".", 1)[-1].isidentifier()):
            self.refuse(f"an input or output has the type '{shown(str(name), 80)}'")
        return str(name)

    # -- tensors ---------------------------------------------------------------------------------

    def _tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        tables = (("weights", self.archive.weights), ("constants", self.archive.constants))
        for kind, table in tables:
            for name, value in table.items():
                if name in found:
                    self.refuse(f"'{name}' is both a weight and a constant")
                self.rebuild.path(name)
                found[name] = self._tensor(kind, name, value)
        unfolded = {t.storage: math.prod(t.sizes) * _ITEM_SIZES[t.dtype] for t in found.values()}
        total = sum(unfolded.values())
        allowed = 4 * sum(entry.size for entry in self.archive.entries.values())
        if total > allowed + MAX_REPEATED_BYTES:
            self.refuse(f"the tensors unfold to {total} bytes, far more than the archive holds")
        return found

    def _tensor(self, kind: str, name: str, value: dict[str, Any]) -> Tensor:
        where = f"{self.archive.path}, tensor '{name}'"
        meta = self.rebuild.build("TensorMeta", value["tensor_meta"])
        if meta["dtype"] not in _DTYPES:
            raise UserError(f"the data type number {meta['dtype']} is not supported", where=where)
        if meta["layout"] != _STRIDED:
            raise UserError("only dense (strided) tensors are supported", where=where)
        dtype, itemsize = _DTYPES[meta["dtype"]]
        sizes = tuple(size["as_int"] for size in meta["sizes"])
        strides = tuple(stride["as_int"] for stride in meta["strides"])
        start = meta["storage_offset"]["as_int"]
        entry = self.archive.entries[f"data/{kind}/{value['path_name']}"]
        if min((*sizes, *strides, start), default=0) < 0 or len(sizes) != len(strides):
            raise UserError("the tensor has a negative or uneven size or stride", where=where)
        if entry.size % itemsize:
            raise UserError(
                f"its entry '{entry.name}' of {entry.size} bytes holds no whole number of {dtype}",
                where=where,
            )
        count = math.prod(sizes)
        last = start + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
        if count and (last + 1) * itemsize > entry.size:
            raise UserError(
                f"the tensor needs {(last + 1) * itemsize} bytes, its entry '{entry.name}' has "
                f"{entry.size}",
                where=where,
            )
        if count * itemsize > entry.size + MAX_REPEATED_BYTES or max(sizes, default=0) >= 1 << 62:
            raise UserError(
                f"the tensor repeats its {entry.size} bytes to {count * itemsize}", where=where
            )
        is_parameter = self.rebuild.build("bool", value["is_param"])
        return Tensor(name, dtype, sizes, strides, start, entry.offset, entry.size, is_parameter)

    def _check_types(self, module: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Refuse a graph whose parameters have other types than the archive's tensors."""
        for spec in module["signature"]["input_specs"]:
            [(kind, value)] = spec.items()
            if kind not in _TARGETS:
                continue
            target, argument = value[_TARGETS[kind]], value["arg"]["name"]
            meta = module["graph"]["tensor_values"].get(argument)
            if target not in tensors or meta is None:
                self.refuse(f"the program uses a tensor '{target}' that the archive does not hold")
            sizes = tuple(size.get("as_int") for size in meta["sizes"])
            dtype, _ = _DTYPES.get(meta["dtype"], ("", 0))
            tensor = tensors[target]
            if (dtype, sizes) != (tensor.dtype, tensor.sizes):
                self.refuse(
                    f"the program takes '{target}' for {dtype} of {list(sizes)}, the archive holds "
                    f"{tensor.dtype} of {list(tensor.sizes)}"
                )


def _keys_of(kind: str, context: Any) -> Any:
    """Return the keys or field names in a tree's context, which each class writes its own way."""
    try:
        found = json.loads(context) if isinstance(context, str) else context
    except ValueError:
        return None
    match kind, found:
        case "dict", {"dict_context": keys}:  # a defaultdict
            return keys
        case "object", [[*fields], [*_]]:  # a dataclass: its fields, and those that are None
            return fields
        case "dict" | "object", [*keys]:
            return keys
    return None


def is_zero(tensor: Tensor, path: Path) -> bool:
    """Read the entry of `path` that holds `tensor`: whether it is nothing but zeros."""
    rest = tensor.nbytes
    with path.open("rb") as file:
        file.seek(tensor.offset)
        while rest:
            block = file.read(min(rest, 1 << 20))
            if not block or block.count(0) != len(block):
                return False
            rest -= len(block)
    return True


def _bound(value: Any) -> int | None:
    if value is not None and type(value) is not int:
        raise TypeError(f"the bound {value!r:.40} of a size is no integer")
    return value


def _flat_spec(leaves: int) -> dict[str, Any]:
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    return {"type": "builtins.tuple", "context": "null", "children_spec": [leaf] * leaves}


def _flat_inputs(leaves: int) -> str:
    keywords = {"type": "builtins.dict", "context": "[]", "children_spec": []}
    pair = [_flat_spec(leaves), keywords]
    return _dump_spec({"type": "builtins.tuple", "context": "null", "children_spec": pair})


def _dump_spec(spec: dict[str, Any]) -> str:
    return json.dumps([1, spec])
