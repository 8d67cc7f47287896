"""Rebuild the graph of an exported program field by field.

The JSON of a ``.pt2`` is not passed on as it came, because PyTorch looks some of its strings up as
Python attributes (operators), evaluates some (sizes), and writes some into Python source that it
executes: FX prints a graph as a function, and the names of inputs and values stand in that text as
they are.  Here every field that an import needs is copied with its type checked, every name is an
identifier, and every other field is dropped.

Source: ``torch/_export/serde/schema.py`` of PyTorch 2.13.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

from ..errors import UserError
from . import expressions
from .container import shown

MAX_DEPTH = 100

_OPERATOR = re.compile(
    r"torch\.ops\.([a-z][a-z0-9_]*)\.(_?[a-z0-9][a-z0-9_]*|__i?(?:and|or|xor|[lr]shift)__)"
    r"(\.[a-z0-9][a-z0-9_]*)?",
    re.ASCII | re.IGNORECASE,
)
# What ``torch.ops`` holds beside operators, and namespaces whose operators act on the machine.
_REFUSED_NAMESPACES = frozenset([
    "load_library", "import_module", "loaded_libraries", "prim", "debugprims", "debug_mode_ops",
    "profiler", "inductor", "inductor_prims", "c10d", "symm_mem", "static_runtime", "export",
])  # fmt: skip
# These read or write files, print, or wait, whatever their input is.
_REFUSED_OPERATORS = frozenset([
    "from_file", "save", "_print", "print", "warn", "wait", "seed", "manual_seed",
])  # fmt: skip
# Operators that take graphs.  The others call objects, kernels or code that is not in the graph.
_HIGHER_ORDER = frozenset([
    "wrap_with_set_grad_enabled", "wrap_with_autocast", "wrap", "tag_activation_checkpoint",
    "wrap_activation_checkpoint", "cond", "while_loop", "map_impl", "scan", "associative_scan",
    "invoke_subgraph", "strict_mode", "hints_wrapper", "out_dtype", "auto_functionalized",
    "auto_functionalized_v2",
])  # fmt: skip
_SCALAR_FUNCTIONS = frozenset([
    "_operator.abs", "_operator.add", "_operator.and_", "_operator.eq", "_operator.floordiv",
    "_operator.ge", "_operator.getitem", "_operator.gt", "_operator.invert", "_operator.le",
    "_operator.lshift", "_operator.lt", "_operator.mod", "_operator.mul", "_operator.ne",
    "_operator.neg", "_operator.not_", "_operator.or_", "_operator.pos", "_operator.pow",
    "_operator.rshift", "_operator.sub", "_operator.truediv", "_operator.xor", "math.ceil",
    "math.floor", "math.trunc", "math.sqrt", "math.log", "math.log2", "math.exp", "math.pow",
    "torch.sym_float", "torch.sym_int", "torch.sym_ite", "torch.sym_max", "torch.sym_min",
    "torch.sym_not", "torch.sym_sum", "torch.sym_sqrt", "torch._sym_sqrt", "torch.sym_fresh_size",
])  # fmt: skip

# A type is the name of a rule or record below; ("list", T), ("map", T) and ("maybe", T) wrap one.
_STRUCTS: dict[str, dict[str, Any]] = {
    "Graph": {
        "inputs": ("list", "Argument"),
        "outputs": ("list", "Argument"),
        "nodes": ("list", "Node"),
        "tensor_values": ("map", "TensorMeta"),
        "sym_int_values": ("map", "SymInt"),
        "sym_bool_values": ("map", "SymBool"),
        "sym_float_values": ("map", "SymFloat"),
        "is_single_tensor_return": "bool",
    },
    "Node": {
        "target": "operator",
        "inputs": ("list", "NamedArgument"),
        "outputs": ("list", "Argument"),
        "metadata": "metadata",
        "is_hop_single_tensor_return": ("maybe", "bool"),
        "name": ("maybe", "name"),
    },
    "NamedArgument": {"name": "name", "arg": "Argument", "kind": ("maybe", "int")},
    "TensorMeta": {
        "dtype": "int",
        "sizes": ("list", "SymInt"),
        "requires_grad": "bool",
        "device": "device",
        "strides": ("list", "SymInt"),
        "storage_offset": "SymInt",
        "layout": "int",
    },
    "SymExpr": {"expr_str": "expression", "hint": ("maybe", "SymExprHint")},
    "Named": {"name": "name"},
    "GraphArgument": {"name": "name", "graph": "Graph"},
    "ComplexValue": {"real": "float", "imag": "float"},
    "GraphSignature": {
        "input_specs": ("list", "InputSpec"),
        "output_specs": ("list", "OutputSpec"),
    },
    "Arg": {"arg": "Argument"},
    "NamedArg": {"arg": "Named"},
    "ToParameter": {"arg": "Named", "parameter_name": "path"},
    "ToBuffer": {"arg": "Named", "buffer_name": "path", "persistent": "bool"},
    "ToConstant": {"arg": "Named", "tensor_constant_name": "path"},
    "ToLiteral": {"name": "name", "value": "ConstantValue"},
    "BufferMutation": {"arg": "Named", "buffer_name": "path"},
    "InputMutation": {"arg": "Named", "user_input_name": "name"},
    "InputGradient": {"arg": "Named", "user_input_name": "name"},
}
# PyTorch has a default for these; older archives lack them.
_OPTIONAL = frozenset([
    "kind", "name", "hint", "is_hop_single_tensor_return", "is_single_tensor_return",
    "sym_float_values",
])  # fmt: skip
# Exactly one of these keys is there and says what the value is.
_UNIONS: dict[str, dict[str, Any]] = {
    "SymExprHint": {"as_int": "int", "as_bool": "bool", "as_float": "float"},
    "SymInt": {"as_expr": "SymExpr", "as_int": "int"},
    "SymFloat": {"as_expr": "SymExpr", "as_float": "float"},
    "SymBool": {"as_expr": "SymExpr", "as_bool": "bool"},
    "SymIntArgument": {"as_name": "name", "as_int": "int"},
    "SymFloatArgument": {"as_name": "name", "as_float": "float"},
    "SymBoolArgument": {"as_name": "name", "as_bool": "bool"},
    "OptionalTensor": {"as_tensor": "Named", "as_none": "bool"},
    "Argument": {
        "as_none": "bool",
        "as_tensor": "Named",
        "as_tensors": ("list", "Named"),
        "as_int": "int",
        "as_ints": ("list", "int"),
        "as_float": "float",
        "as_floats": ("list", "float"),
        "as_string": "text",
        "as_strings": ("list", "text"),
        "as_sym_int": "SymIntArgument",
        "as_sym_ints": ("list", "SymIntArgument"),
        "as_scalar_type": "int",
        "as_memory_format": "int",
        "as_layout": "int",
        "as_device": "device",
        "as_bool": "bool",
        "as_bools": ("list", "bool"),
        "as_sym_bool": "SymBoolArgument",
        "as_sym_bools": ("list", "SymBoolArgument"),
        "as_graph": "GraphArgument",
        "as_optional_tensors": ("list", "OptionalTensor"),
        "as_optional_tensor": "OptionalTensor",
        "as_custom_obj": "object",
        "as_operator": "operator",
        "as_sym_float": "SymFloatArgument",
        "as_sym_floats": ("list", "SymFloatArgument"),
        "as_complex": "ComplexValue",
        "as_nested_tensors": ("list", ("list", "Named")),
        "as_int_lists": ("list", ("list", "int")),
        "as_float_lists": ("list", ("list", "float")),
    },
    "ConstantValue": {
        "as_none": "bool",
        "as_int": "int",
        "as_float": "float",
        "as_string": "text",
        "as_bool": "bool",
    },
    "InputSpec": {
        "user_input": "Arg",
        "parameter": "ToParameter",
        "buffer": "ToBuffer",
        "tensor_constant": "ToConstant",
        "custom_obj": "object",
        "token": "NamedArg",
        "constant_input": "ToLiteral",
    },
    "OutputSpec": {
        "user_output": "Arg",
        "loss_output": "NamedArg",
        "buffer_mutation": "BufferMutation",
        "parameter_mutation": "ToParameter",
        "gradient_to_parameter": "ToParameter",
        "gradient_to_user_input": "InputGradient",
        "user_input_mutation": "InputMutation",
        "token": "NamedArg",
    },
}


class Rebuilder:
    """Copies JSON by the types above; ``where`` names the entry in every refusal."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._expressions: dict[str, str] = {}
        self._rules: dict[str, Callable[[Any], Any]] = {
            "int": self.integer,
            "float": self._number,
            "bool": self._boolean,
            "text": self.text,
            "name": self._name,
            "path": self.path,
            "operator": self._operator,
            "expression": self.expression,
            "metadata": self._metadata,
            "device": self._device,
            "object": self._object,
        }

    def refuse(self, what: str, hint: str = "") -> NoReturn:
        """Raise the error that blames this entry."""
        raise UserError(shown(what, 1000), where=self.where, hint=hint)

    def build(self, kind: Any, value: Any, depth: int = 0) -> Any:
        """Return a checked copy of `value`, which is of type `kind`."""
        if depth > MAX_DEPTH:
            self.refuse("the graph is nested too deeply")
        depth += 1
        match kind:
            case "list", item:
                return [self.build(item, part, depth) for part in self._expect(list, value)]
            case "map", item:
                entries = self._expect(dict, value).items()
                return {self._name(key): self.build(item, part, depth) for key, part in entries}
            case "maybe", item:
                return None if value is None else self.build(item, value, depth)
        if kind in self._rules:
            return self._rules[kind](value)
        self._expect(dict, value)
        if kind in _UNIONS:
            return self._union(kind, value, depth)
        return self._struct(kind, value, depth)

    def _struct(self, kind: str, value: dict[str, Any], depth: int) -> dict[str, Any]:
        found = {}
        for key, item in _STRUCTS[kind].items():
            if key in value:
                found[key] = self.build(item, value[key], depth)
            elif key not in _OPTIONAL:
                self.refuse(f"the program lacks '{key}' in a {kind}")
        return found

    def _union(self, kind: str, value: dict[str, Any], depth: int) -> dict[str, Any]:
        if len(value) != 1:
            self.refuse(f"the graph holds a value of {len(value)} kinds where there must be one")
        [(key, part)] = value.items()
        if key not in _UNIONS[kind]:
            self.refuse(f"the graph holds a value of the kind '{key}', which lowc does not know")
        return {key: self.build(_UNIONS[kind][key], part, depth)}

    # -- rules -----------------------------------------------------------------------------------

    def _expect(self, kind: type, value: Any) -> Any:
        if not isinstance(value, kind):
            self.refuse(
                f"the program has {_brief(value)} where torch.export.save writes a {kind.__name__}"
            )
        return value

    def integer(self, value: Any) -> int:
        """Return `value`, an integer of 64 bits."""
        if type(value) is not int or abs(value) >= 1 << 64:
            self.refuse(f"the program has {_brief(value)} where an integer must stand")
        return value

    def _number(self, value: Any) -> Any:
        if value in ("Infinity", "-Infinity", "NaN"):
            return value
        if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > 1e308:
            self.refuse(f"the program has {_brief(value)} where a number must stand")
        return value

    def _boolean(self, value: Any) -> Any:
        return self._expect(bool, value)

    def text(self, value: Any) -> str:
        """Return `value`, a string that is data only; PyTorch quotes it wherever it writes it."""
        return str(self._expect(str, value))

    def _name(self, value: Any) -> str:
        if not isinstance(value, str) or not (value == "" or value.isidentifier()):
            self.refuse(
                f"the program has the name {_brief(value)}, which is no identifier; PyTorch would "
                "run it as a part of the graph's Python source"
            )
        return str(value)

    def path(self, value: Any) -> str:
        """Return `value`, the dotted path of a parameter: PyTorch writes it in double quotes."""
        bad = not isinstance(value, str) or not value.isprintable() or len(value) > 1000
        if bad or any(mark in value for mark in "\"'\\"):
            self.refuse(f"the program has the parameter name {_brief(value)}")
        return str(value)

    def _operator(self, target: Any) -> str:
        if isinstance(target, str) and target in _SCALAR_FUNCTIONS:
            return target
        match = _OPERATOR.fullmatch(target) if isinstance(target, str) else None
        if match is None or match[1] in _REFUSED_NAMESPACES or match[2] in _REFUSED_OPERATORS:
            self.refuse(f"{_brief(target)} is not an operator that an exported graph may call")
        if match[1] == "higher_order" and match[2] not in _HIGHER_ORDER:
            self.refuse(f"{_brief(target)} calls code that is not in the graph")
        return str(target)

    def expression(self, text: Any) -> str:
        """Return `text`, arithmetic over dynamic sizes, written anew."""
        if not isinstance(text, str) or text not in self._expressions:
            found = expressions.checked(text)
            if found is None:
                self.refuse(f"the symbolic size {_brief(text)} is not arithmetic over sizes")
            self._expressions[text] = found
        return self._expressions[text]

    def _metadata(self, value: Any) -> dict[str, str]:
        kept = ("stack_trace", "nn_module_stack")
        found = self._expect(dict, value)
        return {key: self._expect(str, found[key]) for key in kept if key in found}

    def _device(self, value: Any) -> dict[str, Any]:
        # A model that was exported on an accelerator is imported for the target, not for that.
        self._expect(dict, value)
        return {"type": "cpu", "index": None}

    def _object(self, value: Any) -> NoReturn:
        self.refuse("the program holds a TorchScript object, which only a pickle can load")


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else type(value).__name__
    if isinstance(value, (bool, int, float)):
        text = f"{type(value).__name__} {value!r:.40}"
    return f"'{shown(text, 80)}'"
