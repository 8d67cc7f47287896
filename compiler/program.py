"""Rebuild the exported program of a checked archive from the parts that lowc understands.

The JSON of a ``.pt2`` is not passed to PyTorch as it came.  Some of its strings are looked up as
Python attributes (operator names), evaluated (SymPy expressions) or imported (pytree types); so
they are checked against what an exported graph can hold, and everything that the import does not
need is left out.
"""

from __future__ import annotations

import ast
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ..errors import UserError
from ..runtime import tree as trees
from .archive import Archive

MAX_EXPRESSION = 10_000
MAX_DEPTH = 200

_OPERATOR = re.compile(r"torch\.ops\.(\w+)\.(\w+)(\.\w+)?")
_SCALAR_FUNCTIONS = frozenset(
    [f"_operator.{name}" for name in (
        "abs add and_ eq floordiv ge getitem gt invert le lshift lt mod mul ne neg not_ or_ pos pow"
        " rshift sub truediv xor"
    ).split()]
    + [f"math.{name}" for name in "ceil floor trunc sqrt log log2 exp pow".split()]
    + [f"torch.{name}" for name in (
        "sym_float sym_int sym_ite sym_max sym_min sym_not sym_sum sym_sqrt _sym_sqrt sym_fresh_size"
    ).split()]
)
# These have a meaning that reaches outside of the graph even without running a kernel.
_REFUSED_OPERATORS = frozenset({"from_file", "load_library", "_print", "print"})
_SYMPY_NAMES = re.compile(
    r"[a-z]{1,4}\d+|FloorDiv|ModularIndexing|Where|PythonMod|Mod|CleanDiv|CeilToInt|FloorToInt"
    r"|CeilDiv|LShift|RShift|PowByNatural|FloatPow|FloatTrueDiv|IntTrueDiv|TruncToFloat|TruncToInt"
    r"|RoundToInt|RoundDecimal|ToFloat|Identity|IsNonOverlappingAndDenseIndicator"
    r"|Max|Min|Eq|Ne|Gt|Ge|Lt|Le|And|Or|Not|Abs|floor|ceiling|sqrt|Piecewise|Symbol|true|false"
    r"|int_oo|oo"
)
_SYMPY_NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Call, ast.Name, ast.Load,
    ast.Constant, ast.Tuple, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip
_CONTAINERS = {
    "builtins.tuple": "tuple",
    "builtins.list": "list",
    "builtins.dict": "dict",
    "collections.OrderedDict": "dict",
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
    ``dtype`` is PyTorch's name without ``torch.``.
    """

    name: str
    dtype: str
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    storage_offset: int
    offset: int
    nbytes: int
    is_parameter: bool

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
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise UserError(
            f"the program is not one that torch.export.save writes ({type(error).__name__}: {error})",
            where=where,
            hint="save the model again with PyTorch 2.13",
        ) from error


class _Reader:
    def __init__(self, archive: Archive, where: str) -> None:
        self.archive = archive
        self.where = where
        self.namedtuples: dict[str, list[str]] = {}

    def refuse(self, what: str, hint: str = "") -> NoReturn:
        raise UserError(what, where=self.where, hint=hint)

    def read(self, document: dict[str, Any]) -> Program:
        module = document["graph_module"]
        if module["graph"].get("custom_obj_values"):
            self.refuse("the program holds TorchScript objects, which only a pickle can load")
        self.namedtuples = {
            name: definition["field_names"]
            for name, definition in (module.get("treespec_namedtuple_fields") or {}).items()
        }
        signature = module["module_call_graph"][0]["signature"]
        inputs = self._tree(signature["in_spec"])
        outputs = self._tree(signature["out_spec"])
        args_tree, kwargs_tree = inputs["children"]
        names = self._argument_names(signature.get("forward_arg_names"), args_tree, kwargs_tree)
        exported = {
            "graph_module": {
                "graph": self._clean(module["graph"], 0),
                "signature": self._clean(module["signature"], 0),
                "module_call_graph": [
                    {
                        "fqn": "",
                        "signature": {
                            "inputs": [],
                            "outputs": [],
                            "in_spec": _flat_inputs(trees.leaf_count(inputs)),
                            "out_spec": _dump_spec(_flat_spec(trees.leaf_count(outputs))),
                            "forward_arg_names": None,
                        },
                    }
                ],
                "metadata": {},
                "treespec_namedtuple_fields": {},
            },
            "opset_version": {str(k): int(v) for k, v in document["opset_version"].items()},
            "range_constraints": {
                self._expression(name): {
                    "min_val": _bound(limits["min_val"]),
                    "max_val": _bound(limits["max_val"]),
                }
                for name, limits in document["range_constraints"].items()
            },
            "schema_version": {
                "major": int(document["schema_version"]["major"]),
                "minor": int(document["schema_version"]["minor"]),
            },
            "verifiers": [],
            "torch_version": str(document.get("torch_version", "")),
            "guards_code": [],
        }
        return Program(
            archive=self.archive,
            exported=exported,
            tensors=self._tensors(),
            args_tree=args_tree,
            kwargs_tree=kwargs_tree,
            out_tree=outputs,
            argument_names=names,
            ranges={
                name: (_bound(limits["min_val"]), _bound(limits["max_val"]))
                for name, limits in document["range_constraints"].items()
            },
        )

    def _argument_names(self, names: Any, args: Any, kwargs: Any) -> tuple[str, ...]:
        keywords = [str(key) for key in kwargs.get("keys") or ()]
        count = len(args["children"])
        positional = [str(name) for name in names or ()][:count]
        positional += [f"arg{index}" for index in range(len(positional), count)]
        return (*positional, *keywords)

    # -- the graph -------------------------------------------------------------------------------

    def _clean(self, node: Any, depth: int) -> Any:
        """Copy `node` with every string that PyTorch would resolve checked, the rest dropped."""
        if depth > MAX_DEPTH:
            self.refuse("the graph is nested too deeply")
        if isinstance(node, list):
            return [self._clean(item, depth + 1) for item in node]
        if not isinstance(node, dict):
            return node
        result = {key: self._clean(value, depth + 1) for key, value in node.items()}
        if "target" in node and "inputs" in node and "metadata" in node:
            result["target"] = self._operator(node["target"])
            kept = ("stack_trace", "nn_module_stack")
            result["metadata"] = {k: str(v) for k, v in node["metadata"].items() if k in kept}
        if "expr_str" in node:
            result["expr_str"] = self._expression(node["expr_str"])
        if isinstance(node.get("as_operator"), str):
            result["as_operator"] = self._operator(node["as_operator"])
        for key in ("as_custom_obj", "custom_obj"):
            if node.get(key) is not None:
                self.refuse("the program holds a TorchScript object, which only a pickle can load")
        # A model that was exported on an accelerator is imported for the target, not for that.
        if set(node) == {"type", "index"} and isinstance(node["type"], str):
            result = {"type": "cpu", "index": None}
        return result

    def _operator(self, target: Any) -> str:
        if not isinstance(target, str):
            self.refuse(f"the operator name {target!r} is no string")
        if target in _SCALAR_FUNCTIONS:
            return target
        match = _OPERATOR.fullmatch(target)
        if match is None or match[2] in _REFUSED_OPERATORS or match[1].startswith("_"):
            self.refuse(f"'{target}' is not an operator that an exported graph may call")
        return target

    def _expression(self, text: Any) -> str:
        """Return `text` if it is arithmetic over dimension symbols; SymPy would evaluate it."""
        if not isinstance(text, str) or len(text) > MAX_EXPRESSION:
            self.refuse("a symbolic expression is no string, or too long")
        try:
            nodes = list(ast.walk(ast.parse(text, mode="eval")))
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            nodes = [None]
        for node in nodes:
            if not isinstance(node, _SYMPY_NODES):
                self.refuse(f"the symbolic expression '{text[:80]}' is not arithmetic")
            if isinstance(node, ast.Name) and not _SYMPY_NAMES.fullmatch(node.id):
                self.refuse(f"the symbolic expression '{text[:80]}' uses '{node.id}'")
            if isinstance(node, ast.Call) and (node.keywords or not isinstance(node.func, ast.Name)):
                self.refuse(f"the symbolic expression '{text[:80]}' is not arithmetic")
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
                self._check_power(node, text)
            if isinstance(node, ast.Constant) and not isinstance(node.value, (int, float)):
                self.refuse(f"the symbolic expression '{text[:80]}' holds a string")
        return text

    def _check_power(self, node: ast.BinOp, text: str) -> None:
        exponent = node.right.value if isinstance(node.right, ast.Constant) else None
        if not isinstance(exponent, (int, float)) or not 0 <= exponent <= 16:
            self.refuse(f"the symbolic expression '{text[:80]}' has too large a power")

    # -- trees -----------------------------------------------------------------------------------

    def _tree(self, text: str) -> Any:
        protocol, spec = json.loads(text)
        if protocol != 1:
            self.refuse(f"the tree protocol {protocol} is unknown")
        return self._subtree(spec, 0)

    def _subtree(self, spec: dict[str, Any], depth: int) -> Any:
        if depth > MAX_DEPTH:
            self.refuse("an input or output is nested too deeply")
        name = spec["type"]
        if name is None:
            return trees.LEAF
        children = [self._subtree(child, depth + 1) for child in spec["children_spec"]]
        kind = _CONTAINERS.get(name, "object")
        context = json.loads(spec["context"]) if spec["context"] else None
        keys = None
        if kind == "namedtuple" or name in self.namedtuples:
            name = str(context) if kind == "namedtuple" else name
            kind, keys = "namedtuple", self.namedtuples.get(name)
        elif kind in ("dict", "object") and isinstance(context, list):
            keys = context
        if keys is not None and (
            len(keys) != len(children) or not all(isinstance(key, (str, int)) for key in keys)
        ):
            keys = None
        if kind == "dict" and keys is None:
            self.refuse("a dictionary of the inputs or outputs has keys that are no strings")
        result = {"type": kind, "children": children}
        if keys is not None:
            result["keys"] = list(keys)
        if kind in ("namedtuple", "object"):
            result["name"] = str(name)
        return result

    # -- tensors ---------------------------------------------------------------------------------

    def _tensors(self) -> dict[str, Tensor]:
        tables = (("weights", self.archive.weights), ("constants", self.archive.constants))
        return {
            name: self._tensor(kind, name, value)
            for kind, table in tables
            for name, value in table.items()
        }

    def _tensor(self, kind: str, name: str, value: dict[str, Any]) -> Tensor:
        where = f"{self.archive.path}, tensor '{name}'"
        meta = value["tensor_meta"]
        if meta["dtype"] not in _DTYPES:
            raise UserError(f"the data type number {meta['dtype']} is not supported", where=where)
        if meta.get("layout", 7) != 7:
            raise UserError("only dense (strided) tensors are supported", where=where)
        dtype, itemsize = _DTYPES[meta["dtype"]]
        sizes = tuple(int(size["as_int"]) for size in meta["sizes"])
        strides = tuple(int(stride["as_int"]) for stride in meta["strides"])
        start = int(meta["storage_offset"]["as_int"])
        entry = self.archive.entries[f"data/{kind}/{value['path_name']}"]
        if min((*sizes, *strides, start), default=0) < 0 or len(sizes) != len(strides):
            raise UserError("the tensor has a negative or uneven size or stride", where=where)
        last = start + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
        if math.prod(sizes) and (last + 1) * itemsize > entry.size:
            raise UserError(
                f"the tensor needs {(last + 1) * itemsize} bytes, its entry '{entry.name}' has "
                f"{entry.size}",
                where=where,
            )
        return Tensor(
            name, dtype, sizes, strides, start, entry.offset, entry.size, bool(value["is_param"])
        )


def _bound(value: Any) -> int | None:
    return int(value) if value is not None else None


def _flat_spec(leaves: int) -> dict[str, Any]:
    leaf = {"type": None, "context": None, "children_spec": []}
    return {"type": "builtins.tuple", "context": "null", "children_spec": [leaf] * leaves}


def _flat_inputs(leaves: int) -> str:
    keywords = {"type": "builtins.dict", "context": "[]", "children_spec": []}
    pair = [_flat_spec(leaves), keywords]
    return _dump_spec({"type": "builtins.tuple", "context": "null", "children_spec": pair})


def _dump_spec(spec: dict[str, Any]) -> str:
    return json.dumps([1, spec])
