"""Read a model: ``.pt2``, ``torch.export.ExportedProgram``, ``.mlir`` or ``.mlirbc``.

All end in the same :class:`Model`: an MLIR module in linalg on tensors whose parameters are named
globals, where the bytes of those parameters lie, and the interface that the caller sees.
"""

import dataclasses
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from iree.compiler import ir

from ..errors import InternalError, UserError
from ..passes import annotations
from ..runtime import tree as trees
from ..runtime.manifest import ENTRY_POINT, Leaf, Manifest
from . import globals as parameter_globals
from . import recent_imports, subprocesses
from .archive import Archive
from .program import Program, Tensor, is_zero, read_program
from .recent_imports import Imported

IMPORT_LIMITS = subprocesses.Limits(seconds=900, memory=16 << 30)

# MLIR's element types by PyTorch's names.
ELEMENT_TYPES = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "i64": "int64",
    "i32": "int32", "i16": "int16", "i8": "int8", "ui8": "uint8", "i1": "bool",
    "f8E4M3FN": "float8_e4m3fn", "f8E5M2": "float8_e5m2",
}  # fmt: skip


@dataclass
class Model:
    """A model on its way: IR, parameters, interface.

    Attributes
    ----------
    module : iree.compiler.ir.Module
        Entry function ``main`` takes and returns the tensors of ``interface``, in order.
    tensors : dict of str to Tensor
        Named parameters of scope ``model`` and where their bytes lie in ``source``.
    source : Path or None
        The file that holds the bytes; None when the module has no parameters.
    notes : list of str
        What the user should know, such as an input that PyTorch would have written to.
    aliases : dict of str to str
        Names of tensors in the file, and the names in ``tensors`` of those with their bytes.
    others : tuple of Manifest
        The interfaces of further entry functions (``compiler/entries.py``).
    entries : tuple of str
        The names of all entries of a model that was given as a mapping.
    """

    module: ir.Module
    interface: Manifest
    tensors: dict[str, Tensor]
    source: Path | None
    notes: list[str]
    aliases: dict[str, str] = dataclasses.field(default_factory=dict)
    others: tuple[Manifest, ...] = ()
    entries: tuple[str, ...] = ()

    @property
    def interfaces(self) -> tuple[Manifest, ...]:
        """Return the interfaces of all entry functions."""
        return (self.interface, *self.others)

    def function(self, interface: Manifest) -> Any:
        """Return the entry function that `interface` is of."""
        return next(
            op
            for op in self.module.body.operations
            if annotations.text(op, "sym_name") == interface.entry_point
        )

    def copy(self) -> Self:
        """Return the model with a module of its own, to compile it in several ways."""
        data = io.BytesIO()
        self.module.operation.write_bytecode(data)
        with new_context(), ir.Location.unknown():
            module = ir.Module.parse(data.getvalue())
        return dataclasses.replace(self, module=module, notes=list(self.notes))


@contextmanager
def open_model(model: Any, entries: Sequence[str] | None = None) -> Iterator[Model]:
    """Read `model` (a path, an ``ExportedProgram``, or a :class:`Model`) for as long as the block.

    `entries` are the names of entry functions of which it will be one; None for a model alone.

    Raises
    ------
    UserError
        When the file is missing, damaged or unsafe, or holds what cannot be imported.
    """
    if isinstance(model, Model):
        yield model
        return
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        if path.suffix in (".mlir", ".mlirbc"):
            yield _read_mlir(path)
        else:
            yield _read_pt2(path, entries)
        return
    save = _torch_save(model)
    # An exported program takes the same road as a file: one importer, one set of checks, and a
    # crash in it is a crash of a child.
    with tempfile.TemporaryDirectory(prefix="lowc-") as folder:
        path = Path(folder) / "program.pt2"
        save(path)
        yield _read_pt2(path, entries)


def _torch_save(model: Any) -> Any:
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(model, torch.export.ExportedProgram):
        hint = "pass a path, or torch.export.export(model, args)"
        if torch is not None and isinstance(model, torch.nn.Module):
            hint = "export it first: torch.export.export(model, args)"
        raise UserError(
            f"cannot compile a {type(model).__module__}.{type(model).__qualname__}", hint=hint
        )

    def save(path: Path) -> None:
        examples = model.example_inputs
        try:
            model.example_inputs = None  # never read, and the only part that is always pickled
            torch.export.save(model, path)
        except Exception as error:
            # Output classes that nobody registered with PyTorch's trees, among others.
            raise UserError(
                f"PyTorch cannot save the program ({type(error).__name__}: {error})",
                hint="return plain tuples and dictionaries from the model",
            ) from error
        finally:
            model._example_inputs = examples  # noqa: SLF001  (the setter re-checks the tree)

    return save


# -- .pt2 ------------------------------------------------------------------------------------------


def _read_pt2(path: Path, entries: Sequence[str] | None = None) -> Model:
    program = read_program(Archive(path))
    imported = _import(program)
    result = json.loads(imported.result)
    with new_context(), ir.Location.unknown():
        module = ir.Module.parse(imported.module)
    mutated = {entry["target"] for entry in result["outputs"] if entry["kind"] == "mutation"}
    tensors = {
        name: dataclasses.replace(tensor, is_zero=True)
        if name in mutated and is_zero(tensor, program.archive.path)
        else tensor
        for name, tensor in program.tensors.items()
    }
    tied = parameter_globals.lift_parameters(module, result, tensors, entries or ())
    if entries is None:
        parameter_globals.add_reset(module, tied)
    interface = _interface(program, result, module)
    notes = [
        f"the model writes to its input '{interface.inputs[output['input']].name}'; the compiled "
        "module leaves it alone"
        for output in result["outputs"]
        if output["kind"] == "input-mutation"
    ]
    keys = {tensor.storage: key for key, tensor in tied.items()}
    aliases = {
        name: keys[tensor.storage]
        for name, tensor in program.tensors.items()
        if tensor.storage in keys
    }
    return Model(module, interface, tied, path, notes, aliases)


def _import(program: Program) -> Imported:
    """Run the importer as a child, unless this process did so for the same program."""
    spec = import_spec(program)
    key = recent_imports.key(spec, IMPORT_LIMITS)
    if (found := recent_imports.look_up(key)) is not None:
        return found
    with tempfile.TemporaryDirectory(prefix="lowc-import-") as folder:
        found = _run_importer(spec, Path(folder), str(program.archive.path))
    recent_imports.remember(key, found)
    return found


def _run_importer(spec: dict[str, Any], folder: Path, where: str) -> Imported:
    (folder / "spec.json").write_text(json.dumps(spec))
    importer = "lowc.compiler.importer"
    command: list[str | Path] = [
        sys.executable, "-m", importer, folder / "spec.json", folder
    ]  # fmt: skip
    environment = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "PYTHONSAFEPATH": "1"}
    child = subprocesses.run(command, IMPORT_LIMITS, environment=environment)
    if child.timed_out:
        raise UserError(
            f"importing took more than {IMPORT_LIMITS.seconds:.0f} s and was stopped", where=where
        )
    if "ModuleNotFoundError" in child.stderr and not child.ok:
        raise UserError(
            "PyTorch or torch-mlir is not installed",
            where=where,
            hint="install lowc with its extra: pip install 'lowc[torch]'",
            detail=_tail(child.stderr, 1),
        )
    if not child.ok:
        ended = f"was ended by {child.signal}" if child.signal else f"exited {child.returncode}"
        raise InternalError(
            f"the importer {ended}", where=where, detail=_tail(child.stderr, 12),
            hint="the archive may be damaged; if it is not, report this with the archive",
        )  # fmt: skip
    result = (folder / "result.json").read_text()
    error = json.loads(result).get("error")
    if error is not None:
        place = ", ".join(part for part in (where, error["where"]) if part)
        raise UserError(error["what"], where=place, hint=error["hint"])
    return Imported((folder / "module.mlirbc").read_bytes(), result)


def import_spec(program: Program) -> dict[str, Any]:
    """Return what the importer gets to read: the clean program, and its tensors' types."""
    weights = program.archive.weights
    return {
        "archive": str(program.archive.path.resolve()),
        "exported": program.exported,
        "tensors": [
            dataclasses.asdict(tensor) | {"kind": "weights" if name in weights else "constants"}
            for name, tensor in program.tensors.items()
        ],
    }


def _tail(text: str, lines: int) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])


def _interface(program: Program, result: dict[str, Any], module: ir.Module) -> Manifest:
    names = program.argument_names
    paths = [
        path
        for name, child in zip(
            names, [*program.args_tree["children"], *program.kwargs_tree["children"]], strict=True
        )
        for path in trees.leaf_paths(child, name)
    ]
    users = [entry for entry in result["inputs"] if entry["kind"] in ("user", "literal")]
    inputs = tuple(
        Leaf(path, literal=True, value=user["value"])
        if user["kind"] == "literal"
        else Leaf(path, tuple(user["shape"]), user["dtype"])
        for path, user in zip(paths, users, strict=True)
    )
    types = iter(entry_function(module).type.results)
    out_paths = trees.leaf_paths(program.out_tree, "")
    outputs = tuple(
        Leaf(path, literal=True, value=entry["value"])
        if entry["kind"] == "literal"
        # MLIR's integers have no sign: uint8 or int8, only PyTorch knows.
        else dataclasses.replace(_leaf_of_type(path, next(types)), dtype=entry["dtype"])
        for path, entry in zip(
            out_paths,
            [entry for entry in result["outputs"] if entry["kind"] in ("user", "literal")],
            strict=True,
        )
    )
    return Manifest(
        inputs=inputs,
        outputs=outputs,
        args_tree=program.args_tree,
        kwargs_tree=program.kwargs_tree,
        out_tree=program.out_tree,
        argument_names=names,
        ranges=program.ranges,
        has_state=any(entry["kind"] == "mutation" for entry in result["outputs"]),
    )


# -- .mlir -----------------------------------------------------------------------------------------


def _read_mlir(path: Path) -> Model:
    """Read MLIR whose entry function takes and returns tensors."""
    if path.exists() and not path.is_file():
        raise UserError("this is not a file", where=str(path))
    try:
        source = path.read_bytes()
    except FileNotFoundError:
        raise UserError("the file does not exist", where=str(path)) from None
    except OSError as error:
        raise UserError(f"the file cannot be read ({error.strerror})", where=str(path)) from error
    return model_of_module(parse_module(source, str(path)), str(path))


def model_of_module(module: ir.Module, where: str = "") -> Model:
    """Return the model of a module without named parameters; its tree is flat.

    Raises
    ------
    UserError
        When there is no entry function, or it takes or returns something else than tensors.
    """
    function = entry_function(module, where)
    inputs = tuple(_leaf_of_type(f"arg{i}", type_) for i, type_ in enumerate(function.type.inputs))
    outputs = tuple(_leaf_of_type(str(i), type_) for i, type_ in enumerate(function.type.results))
    out_tree: Any = {"type": "tuple", "children": [trees.LEAF] * len(outputs)}
    interface = Manifest(
        inputs=inputs,
        outputs=outputs,
        args_tree={"type": "tuple", "children": [trees.LEAF] * len(inputs)},
        kwargs_tree={"type": "dict", "keys": [], "children": []},
        out_tree=trees.LEAF if len(outputs) == 1 else out_tree,
        argument_names=tuple(leaf.name for leaf in inputs),
        entry_point=ir.StringAttr(function.attributes["sym_name"]).value,
    )
    return Model(module, interface, {}, None, [])


def new_context() -> ir.Context:
    """Return an IREE context that lets lowc's own discardable attributes through."""
    context = ir.Context()
    context.allow_unregistered_dialects = True
    return context


def parse_module(source: bytes | str, where: str) -> ir.Module:
    """Parse MLIR text or bytecode.

    Raises
    ------
    UserError
        With the parser's first message and its line.
    """
    context = new_context()
    with context, ir.Location.unknown():
        try:
            module = ir.Module.parse(source)
        except ir.MLIRError as error:
            found = error.error_diagnostics[0] if error.error_diagnostics else None
            message = found.message if found else str(error)
            line = f" at {found.location}" if found else ""
            raise UserError(
                f"this is not valid MLIR: {message.splitlines()[0]}{line}",
                where=where,
                hint="the dialects of IREE's iree-opt are known; check with iree-opt",
            ) from error
    # The context lets unknown operations through together with lowc's attributes, but
    # iree-compile crashes on them.
    for op in annotations.operations(module):
        if not context.is_registered_operation(op.name):
            raise UserError(
                f"the operation '{op.name}' is of no dialect that IREE knows",
                where=f"{where}, {op.location}",
                hint="lower it to linalg, tensor and arith before",
            )
    return module


def entry_function(module: ir.Module, where: str = "") -> Any:
    """Return the public function that callers call: ``main``, or the only one.

    Raises
    ------
    UserError
        When there is none, or several and none is named ``main``.
    """
    functions = [
        operation
        for operation in module.body.operations
        if operation.operation.name == "func.func"
        and "sym_visibility" not in operation.attributes
        and operation.regions[0].blocks
    ]
    named = {ir.StringAttr(f.attributes["sym_name"]).value: f for f in functions}
    if ENTRY_POINT in named:
        return named[ENTRY_POINT]
    marked = [function for function in functions if annotations.ENTRY in function.attributes]
    if len(marked) == 1:
        return marked[0]
    if len(functions) == 1:
        return functions[0]
    raise UserError(
        f"the module has {len(functions)} public functions and none is named '{ENTRY_POINT}'",
        where=where,
        hint=f"name the one to call '{ENTRY_POINT}'",
    )


def _leaf_of_type(name: str, type_: ir.Type) -> Leaf:
    if not isinstance(type_, ir.RankedTensorType):
        if str(type_) in ELEMENT_TYPES or isinstance(type_, ir.IndexType):
            raise UserError(
                f"'{name}' has the type {type_}; entry functions take and return tensors",
                hint="use a tensor of rank 0",
            )
        raise UserError(f"'{name}' has the type {type_}, a ranked tensor is needed")
    shape = tuple(
        f"{name}.{axis}" if type_.is_dynamic_dim(axis) else type_.get_dim_size(axis)
        for axis in range(type_.rank)
    )
    element = str(type_.element_type)
    if element not in ELEMENT_TYPES:
        raise UserError(f"'{name}' has the element type {element}, which the runtime lacks")
    return Leaf(name, shape, ELEMENT_TYPES[element])
