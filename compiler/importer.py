"""Import a checked program into MLIR: run as ``python -m lowc.compiler.importer SPEC OUT``.

It runs in a process of its own, because PyTorch and torch-mlir may crash, loop or eat memory on a
hostile program, and because nothing else in lowc needs PyTorch.  Weights never come here: every
parameter, buffer and constant is an argument of the function, and only its type matters.

``SPEC`` is a JSON file with the cleaned program and its tensors (see ``program.py``).  ``OUT``
gets ``module.mlirbc`` and ``result.json``::

    {"inputs":  [{"kind": "parameter", "target": "encoder.weight"},
                 {"kind": "user", "name": "x"}, ...],         one per function argument, in order
     "outputs": [{"kind": "mutation", "target": "cache"},
                 {"kind": "user", "dtype": "uint8"}, {"kind": "literal", "value": 3}, ...]}

or ``{"error": {"what": …, "where": …, "hint": …}}``.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import re
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

SMALL_CONSTANT_BYTES = 1 << 20
_SOURCE_LINE = re.compile(r'File "([^"]+)", line (\d+), in')


class ImportRefusal(Exception):
    """A program that cannot be imported; holds what, where and hint for the error."""

    def __init__(self, what: str, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.fields = {"what": what, "where": where, "hint": hint}


def main(spec_path: str, out_folder: str) -> None:
    """Import the program of `spec_path`; write the module and the result into `out_folder`."""
    out = Path(out_folder)
    spec = json.loads(Path(spec_path).read_bytes())
    warnings.simplefilter("ignore")
    try:
        result = _import(spec, out)
    except ImportRefusal as refusal:
        result = {"error": refusal.fields}
        if isinstance(refusal.__cause__, MemoryError):
            result["error"]["what"] = "importing needs more memory than it may have"
    (out / "result.json").write_text(json.dumps(result))


def _import(spec: dict[str, Any], out: Path) -> dict[str, Any]:
    import torch  # a second of loading, only in this process

    torch.set_num_threads(1)
    _log("PyTorch reads the program")
    program = deserialise(spec)
    _describe_inputs(program)  # refuses what it must by the names that the user knows
    _log("PyTorch decomposes the program")
    program = _decompose(program)
    # Again, because decomposing may bring parameters and buffers into another order.
    inputs, outputs = _describe_inputs(program), _describe_outputs(program)
    _drop_literals(program)
    _log("torch-mlir lowers the program")
    module = _lower(program)
    with (out / "module.mlirbc").open("wb") as file:
        module.operation.write_bytecode(file)
    return {"inputs": inputs, "outputs": outputs}


def _log(stage: str) -> None:
    """Say on stderr what begins: after a crash it is the last thing to read there."""
    sys.stderr.write(f"importer: {stage}\n")
    sys.stderr.flush()


def deserialise(spec: dict[str, Any], *, with_weights: bool = False) -> Any:
    """Return the ``ExportedProgram`` of `spec`, with its weights or with memory of their types."""
    import torch
    from torch._export.serde import schema
    from torch._export.serde.serialize import (
        ExportedProgramDeserializer,
        _bytes_to_dataclass,
    )

    from .rare_operators import GROUPED, grouped_product_of_transformers

    # Only for who calls it: transformers, imported later, could not define it any more.
    nodes = spec["exported"]["graph_module"]["graph"].get("nodes", ())
    if any(GROUPED in str(node.get("target")) for node in nodes):
        grouped_product_of_transformers()
    _check_operators(spec["exported"]["graph_module"]["graph"])
    state: dict[str, Any] = {}
    constants: dict[str, Any] = {}
    for tensor in spec["tensors"]:
        value = _tensor(tensor, spec["archive"], with_bytes=with_weights)
        if tensor["is_parameter"]:
            value = torch.nn.Parameter(value, requires_grad=False)
        (state if tensor["kind"] == "weights" else constants)[tensor["name"]] = value
    try:
        serialised = _bytes_to_dataclass(
            schema.ExportedProgram, json.dumps(spec["exported"]).encode()
        )
        return ExportedProgramDeserializer().deserialize(serialised, state, constants, None)
    except Exception as error:
        raise ImportRefusal(
            f"PyTorch cannot read the program ({type(error).__name__}: {_first_line(error)})",
            hint="save it again with PyTorch 2.13",
        ) from error


def _check_operators(graph: dict[str, Any]) -> None:
    """Refuse a graph that calls what is not a registered operator, and name it.

    PyTorch would resolve ``torch.ops.a.b`` to whatever attribute is there, and call it.
    """
    for node in graph.get("nodes", ()):
        arguments = [argument.get("arg", {}) for argument in node.get("inputs", ())]
        targets = [node["target"], *(part["as_operator"] for part in arguments
                                     if "as_operator" in part)]  # fmt: skip
        for target in targets:
            if target.startswith("torch.ops.") and not _is_operator(target):
                raise ImportRefusal(
                    f"the operator '{target.removeprefix('torch.ops.')}' is not known to PyTorch",
                    _place_of_json(node),
                    "lowc cannot import the library that defines it: rewrite the model without it",
                )
        for part in arguments:
            if "as_graph" in part:
                _check_operators(part["as_graph"]["graph"])


def _is_operator(target: str) -> bool:
    import torch

    found: Any = torch.ops
    for name in target.removeprefix("torch.ops.").split("."):
        found = getattr(found, name, None)
    if isinstance(found, torch._ops.OpOverload):  # noqa: SLF001
        # TorchScript's own operators are found too, but no dispatcher runs them.
        schema: Any = found
        return bool(torch._C._dispatch_has_kernel(schema.name()))  # noqa: SLF001
    return isinstance(found, torch._ops.HigherOrderOperator)  # noqa: SLF001


def _place_of_json(node: dict[str, Any]) -> str:
    metadata = node.get("metadata", {})
    path = metadata.get("nn_module_stack", "").rsplit(";", 1)[-1].split(",")
    return _words(_module_path("".join(path[1:2])), _source_line(metadata.get("stack_trace")))


def has_bytes(tensor: dict[str, Any]) -> bool:
    """Whether the import may depend on a tensor's bytes: PyTorch may look at a scalar constant."""
    return bool(tensor["kind"] == "constants" and tensor["nbytes"] <= SMALL_CONSTANT_BYTES)


def _tensor(tensor: dict[str, Any], archive: str, *, with_bytes: bool) -> Any:
    """Return a tensor over the archive's bytes, which nobody reads, so that it costs no memory.

    Small constants get their bytes; with `with_bytes` every tensor does.
    """
    import torch

    dtype = getattr(torch, tensor["dtype"])
    if not tensor["nbytes"]:
        return torch.empty_strided(tensor["sizes"], tensor["strides"], dtype=dtype)
    mapped = memoryview(_mapped(archive))[tensor["offset"] : tensor["offset"] + tensor["nbytes"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mapping cannot be written to: nothing does
        storage = torch.frombuffer(
            bytearray(mapped) if with_bytes or has_bytes(tensor) else mapped,
            dtype=dtype,
            count=tensor["nbytes"] // dtype.itemsize,
        )
    return torch.as_strided(storage, tensor["sizes"], tensor["strides"], tensor["storage_offset"])


@cache
def _mapped(archive: str) -> mmap.mmap:
    """Map the archive read-only: that counts neither as memory nor against its limit."""
    with Path(archive).open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _describe_inputs(program: Any) -> list[dict[str, Any]]:
    kinds = {
        "PARAMETER": "parameter",
        "BUFFER": "buffer",
        "CONSTANT_TENSOR": "constant",
        "USER_INPUT": "user",
    }
    inputs = []
    for spec in program.graph_signature.input_specs:
        kind = kinds.get(spec.kind.name)
        if kind is None:
            raise ImportRefusal(
                f"an input of kind '{spec.kind.name}' is not supported", f"input '{spec.arg.name}'"
            )
        entry = {"kind": kind, "target": spec.target, "name": spec.arg.name}
        if kind == "user":
            entry |= _describe_user_input(program, spec)
        inputs.append(entry)
    return inputs


def _describe_user_input(program: Any, spec: Any) -> dict[str, Any]:

    if type(spec.arg).__name__ == "ConstantArgument":
        return {"kind": "literal", "value": spec.arg.value}
    if type(spec.arg).__name__ != "TensorArgument":
        raise ImportRefusal(
            "a dynamic number as input is not supported, only tensors and constants",
            f"input '{spec.arg.name}'",
            "pass it as a tensor, or export the model with a constant",
        )
    node = next(node for node in program.graph.nodes if node.name == spec.arg.name)
    value = node.meta["val"]
    shape = [int(size) if isinstance(size, int) else str(size) for size in value.shape]
    if value.dtype not in _SUPPORTED_INPUTS():
        raise ImportRefusal(
            f"the data type {value.dtype} is not supported", f"input '{spec.arg.name}'"
        )
    return {"shape": shape, "dtype": _dtype(value)}


def _dtype(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")


def _SUPPORTED_INPUTS() -> frozenset[Any]:  # noqa: N802
    import torch

    return frozenset(
        {
            torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
            torch.int16, torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn,
            torch.float8_e5m2,
        }
    )  # fmt: skip


def _describe_outputs(program: Any) -> list[dict[str, Any]]:
    outputs: list[dict[str, Any]] = []
    values = program.graph.output_node().args[0]
    users = [spec.arg.name for spec in program.graph_signature.input_specs
             if spec.kind.name == "USER_INPUT"]  # fmt: skip
    for spec, value in zip(program.graph_signature.output_specs, values, strict=True):
        kind, argument = spec.kind.name, type(spec.arg).__name__
        if kind == "BUFFER_MUTATION":
            outputs.append({"kind": "mutation", "target": spec.target})
        elif kind == "USER_INPUT_MUTATION":
            outputs.append({"kind": "input-mutation", "input": users.index(spec.target)})
        elif kind == "USER_OUTPUT" and argument == "TensorArgument":
            outputs.append({"kind": "user", "dtype": _dtype(value.meta["val"])})
        elif kind == "USER_OUTPUT" and argument == "ConstantArgument":
            outputs.append({"kind": "literal", "value": spec.arg.value})
        else:
            raise ImportRefusal(
                f"an output of kind '{kind}' ({argument}) is not supported",
                f"output '{getattr(spec.arg, 'name', len(outputs))}'",
                "return tensors from the model",
            )
    return outputs


def _decompose(program: Any) -> Any:
    import torch

    from .decompositions import decomposition_table
    from .rare_operators import NotCalculated
    from .views import rewrite_views

    try:
        with torch.no_grad():
            program = program.run_decompositions(decomposition_table())
    except NotCalculated as error:
        # torch.fx adds the node to the message, behind the first line.
        name = re.search(r"While executing %(\w+)", str(error))
        nodes = [node for node in program.graph.nodes if name and node.name == name[1]]
        place = _words(*_place_of_node(nodes[0])) if nodes else ""
        raise ImportRefusal(_first_line(error), place, error.hint) from error
    except Exception as error:
        raise ImportRefusal(
            f"PyTorch cannot decompose the program ({type(error).__name__}: {_first_line(error)})",
            hint="export the model again, with strict=True if it was exported without",
        ) from error
    rewrite_views(program.graph)
    return program


def _drop_literals(program: Any) -> None:
    """Take inputs and outputs that are constants out of the graph's arguments and results."""
    import torch

    literals = {
        spec.arg.name: spec.arg.value
        for spec in program.graph_signature.input_specs
        if type(spec.arg).__name__ == "ConstantArgument"
    }
    for node in list(program.graph.nodes):
        if node.op == "placeholder" and node.name in literals:
            value = literals[node.name]
            for user in list(node.users):
                user.args = _replaced(user.args, node, value)
                user.kwargs = _replaced(user.kwargs, node, value)
            program.graph.erase_node(node)
    output = program.graph.output_node()
    output.args = (tuple(value for value in output.args[0] if isinstance(value, torch.fx.Node)),)


def _replaced(arguments: Any, node: Any, value: Any) -> Any:
    import torch

    return torch.fx.node.map_arg(arguments, lambda part: value if part is node else part)


def _lower(program: Any) -> Any:
    from torch_mlir import ir
    from torch_mlir.compiler_utils import OutputType, lower_mlir_module
    from torch_mlir.dialects import torch as torch_dialect
    from torch_mlir.extras.fx_importer import ContextCache, FxImporter
    from torch_mlir.passmanager import PassManager

    class ModulePaths(ContextCache):  # type: ignore[misc]
        """Locations that are the module path in the PyTorch model, then the source line."""

        last_node: Any = None

        def get_node_location(self, node: Any) -> Any:
            self.last_node = node
            path, line = _place_of_node(node)
            if line:
                source = ir.Location.file(line[0], line[1], 0, context=self._c)
            else:
                source = ir.Location.unknown(context=self._c)
            return ir.Location.name(path, source, context=self._c)

    context = ir.Context()
    torch_dialect.register_dialect(context)
    importer = FxImporter(context=context)
    importer._cc = paths = ModulePaths(context)  # noqa: SLF001  (the importer has no other hook for names)
    messages: list[tuple[str, str]] = []

    def keep(diagnostic: Any) -> bool:
        messages.append((str(diagnostic.message), str(diagnostic.location)))
        return True

    context.attach_diagnostic_handler(keep)
    try:
        importer.import_stateless_graph(program.graph, func_name="main")
    except Exception as error:
        raise _refusal_of_node(error, paths.last_node) from error
    try:
        pipeline = (
            "builtin.module(func.func(torch-match-quantized-custom-ops),"
            "torchdynamo-export-to-torch-backend-pipeline)"
        )
        PassManager.parse(pipeline, context).run(importer.module.operation)
        return lower_mlir_module(False, OutputType.LINALG_ON_TENSORS, importer.module)
    except Exception as error:
        raise _refusal_of_lowering(error, messages, _left(importer.module)) from error


def _refusal_of_node(error: Exception, node: Any) -> ImportRefusal:
    """Name the operator that torch-mlir has no counterpart of; its error names only itself."""
    target = getattr(node, "target", "")
    if "with_effects" in str(target):  # a wrapper that keeps the order of side effects
        target = node.args[1]
    name = target if isinstance(target, str) else str(target)
    path, line = _place_of_node(node) if node is not None else ("", None)
    return ImportRefusal(
        f"the operator '{name}' cannot be imported by torch-mlir ({_first_line(error)})",
        _words(path, line),
        "rewrite the model without it",
    )


def _left(module: Any) -> list[tuple[str, str]]:
    """Return name and location of the operators that a failed lowering has left as they were."""
    found = []

    def look(operation: Any) -> Any:
        name = operation.name
        if name == "torch.operator":
            name = operation.attributes["name"].value
        if name.startswith(("torch.aten.", "torch.prims.", "torch.torchvision.")):
            found.append((name.removeprefix("torch."), str(operation.location)))
        return ir.WalkResult.ADVANCE

    from torch_mlir import ir

    module.operation.walk(look)
    return found


def _refusal_of_lowering(
    error: Exception, messages: list[tuple[str, str]], left: list[tuple[str, str]]
) -> ImportRefusal:
    """Name the operator, the module path and the source line that torch-mlir stopped at.

    Where it stops at a constant, or at an operation that it made, the operator that it could not
    do anything with is the first one that is `left`.
    """
    text, location = next(
        ((message, place) for message, place in messages if "torch." in message),
        messages[0] if messages else (_first_line(error), ""),
    )
    for found in getattr(error, "error_diagnostics", None) or []:
        text, location = str(found.message), str(found.location)
        break
    operator = re.search(r"torch\.operator' .*?\"(torch\.[\w.]+)\"|'(torch\.[\w.]+)'", text)
    name = next((group for group in operator.groups() if group), "") if operator else ""
    named = re.search(r'"torch\.(aten|prims|[a-z_]+)\.[\w.]+"', text)
    if name in ("", "torch.operator") and named:
        name = named[0].strip('"')
    if left and (not name or name.startswith("torch.constant.")):
        name, location = left[0]
    what = f"the operator '{name.removeprefix('torch.')}' cannot be lowered by torch-mlir"
    if not name:
        what = f"torch-mlir cannot lower the program ({text.splitlines()[0][:300]})"
    return ImportRefusal(what, _place_of_location(location), "rewrite the model without it")


# -- places ----------------------------------------------------------------------------------------


def _place_of_location(location: str) -> str:
    """Turn ``loc("encoder.layer.0"("model.py":12:0))`` into words."""
    parts = re.findall(r'"([^"]*)"(?::(\d+))?', location)
    module = next((text for text, line in parts if not line), "")
    source = next(((text, int(line)) for text, line in parts if line), None)
    return _words(module, source)


def _place_of_node(node: Any) -> tuple[str, tuple[str, int] | None]:
    stack = node.meta.get("nn_module_stack") or {}
    path = next((entry[0] for entry in reversed(stack.values())), "")
    return _module_path(path), _source_line(node.meta.get("stack_trace"))


def _source_line(stack_trace: str | None) -> tuple[str, int] | None:
    """Return the innermost line that is the model's own and not one of ``torch.nn``."""
    lines = _SOURCE_LINE.findall(stack_trace or "")
    own = [line for line in lines if not re.search(r"[/\\]torch[/\\]|^<", line[0])]
    file, number = (own or lines or [("", "0")])[-1]
    return (file, int(number[:9])) if file else None


def _words(module: str, source: tuple[str, int] | None) -> str:
    parts = [f"module '{module}'"] if module else []
    return ", ".join(parts + ([f"{source[0]}, line {source[1]}"] if source else []))


def _module_path(path: str) -> str:
    """Drop what torch.export wraps around a path: ``L['self'].encoder`` is ``encoder``."""
    return re.sub(r"^L\['self'\]\.?|^self\.?", "", path)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


if __name__ == "__main__":
    gc.disable()  # this process ends with the import; collecting costs a tenth of it
    main(sys.argv[1], sys.argv[2])
    sys.stderr.flush()
    os._exit(0)  # taking PyTorch apart would cost a third
