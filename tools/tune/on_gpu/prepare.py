"""Compile a bundle: a folder of modules, expected results, and the script that measures them."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from iree.compiler import ir

from ....compiler import backend
from ....compiler.frontend import parse_module
from ....compiler.target import load_target
from ....passes import build
from ....passes.formats import activations, gpu_rows, lmul, panels
from ....passes.formats.floats import F32
from ....passes.formats.integer import Quantized
from ....passes.kernels import emit, executable
from ....passes.kernels.dequant_threads import DequantThreads
from ....passes.tiling import families
from . import collect
from .cases import Case, Operand, grid_of

CHECKED_ROWS = 4  # of many
STOCK_SIZES = (1024, 4096)


def prepare(
    cases: Sequence[Case],
    folder: Path,
    target: str,
    progress: Callable[[str], object],
    *,
    with_stock: bool = False,
) -> None:
    """Write the bundle of `cases` to `folder`, with L-Mul as IREE compiles it if `with_stock`."""
    folder.mkdir(parents=True, exist_ok=True)
    listed, expected = [], {}
    unit = backend.vector_unit(load_target(target))
    for number, case in enumerate(cases):
        progress(f"{number + 1}/{len(cases)} {case.name}")
        file = f"k{number}.vmfb"
        _compile(case, folder / file, target)
        entry = _entry(case, file, unit)
        if case.checked and case.kind in REFERENCES:
            facts = (
                dataclasses.replace(case.kernel, tile=None)
                if hasattr(case.kernel, "tile")
                else case.kernel
            )
            key = json.dumps([str(facts), [o.spec for o in (*case.shared, *case.own)]])
            if key not in expected:
                expected[key] = _expect(case, folder, f"e{number}.npz")
            entry["check"] = expected[key]
        listed.append(entry)
    shutil.copy(collect.__file__, folder / "collect.py")
    stock = [_stock(size, folder, target, progress) for size in STOCK_SIZES if with_stock]
    manifest = {
        "commit": _commit(),
        "target": target,
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("lowc", "iree-base-compiler", "iree-base-runtime", "numpy")
        },
        "cases": listed,
        "peer_rows": sorted(
            {
                (case.result[-1], case.kernel.k)
                for case in cases
                if case.kind.startswith("w") and case.result[1] == 1
            }
        ),
        "peer_squares": [4096],
        "stock": stock,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _entry(case: Case, file: str, unit: str) -> dict[str, Any]:
    return {
        "name": case.name, "group": case.group, "kind": case.kind, "file": file,
        "bytes": case.bytes, "operations": case.operations, "functions": _functions(case),
        "shared": [one.spec for one in case.shared], "own": [one.spec for one in case.own],
        "kernel": case.kernel.name, "grid": case.grid, "threads": case.kernel.threads,
        "shared_bytes": case.kernel.shared_bytes, "place": case.place.spec,
        **_tile(case, unit),
    }  # fmt: skip


def _tile(case: Case, unit: str) -> dict[str, Any]:
    """Return the problem and the tile, for records, of what has one."""
    if not hasattr(case.kernel, "tile") or isinstance(case.kernel, DequantThreads):
        return {}
    problem = families.problem_of(case.kernel, unit).to_dict()
    return {"problem": problem, "tiling": families.tiling_of(case.kernel).text}


def _functions(case: Case) -> dict[str, tuple[int, int]]:
    """Return how many weights, and sets of what they share, the functions that are timed have."""
    if case.dispatches < 4:
        return {"many": (case.copies, 1)}
    repeats = max(1, case.dispatches // case.copies) if case.shared else 1
    few = (case.copies, repeats // 4) if repeats >= 4 else (max(1, case.copies // 4), 1)
    return {"many": (case.copies, repeats), "few": few}


def _commit() -> str:
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parent,
    )  # fmt: skip
    return run.stdout.strip()


# -- modules ---------------------------------------------------------------------------------------


def _compile(case: Case, output: Path, target: str) -> None:
    source = output.with_suffix(".mlir")
    source.write_text(module_text(case))
    goal = load_target(target)
    with tempfile.TemporaryDirectory() as dumps:
        flags = (*goal.flags, f"--iree-hal-dump-executable-binaries-to={dumps}")
        backend.compile_module(source, output, goal.with_flags(flags))
        for path in Path(dumps).glob("*.ptx"):
            if f".entry {case.name}(" in path.read_text():
                shutil.copy(path, output.with_suffix(".ptx"))
    source.unlink()


def module_text(case: Case) -> str:
    """Return a module of functions that dispatch to the kernel: ``many``, ``few`` and ``once``."""
    module = parse_module("", "bundle")
    with module.context, ir.Location.unknown():
        for name, (copies, repeats) in _functions(case).items():
            _add_function(module, name, case, copies, repeats)
        _add_once(module, "once", case)
    module.operation.verify()
    return str(module)


def checks_text(cases: Sequence[Case]) -> str:
    """Return a module with the functions ``once0``, ``once1`` … of cases."""
    module = parse_module("", "bundle")
    with module.context, ir.Location.unknown():
        for number, case in enumerate(cases):
            _add_once(module, f"once{number}", case)
    module.operation.verify()
    return str(module)


def _given(case: Case) -> list[Operand]:
    """Return what a check is given: activations, where the kernel reads records of them."""
    if case.rows is None:
        return [*case.shared, *case.own]
    return [Operand((case.rows.m or 1, case.rows.k), "f32", "activations"), *case.own]


def _type(operand: Operand) -> ir.Type:
    return build.tensor_type(operand.shape, ir.Type.parse(operand.element))


def _function(
    module: ir.Module, name: str, operands: Sequence[Operand], results: Sequence[ir.Type]
) -> tuple[Any, Any]:
    """Add a function; return its block and the place to build at."""
    types = [_type(one) for one in operands]
    function = ir.Operation.parse(
        f"func.func @{name}({', '.join(f'%a{i}: {t}' for i, t in enumerate(types))}) "
        f"-> ({', '.join(map(str, results))}) {{ "
        + "".join(f"%r{i} = tensor.empty() : {t} " for i, t in enumerate(results))
        + f"return {', '.join(f'%r{i}' for i in range(len(results)))} : "
        + f"{', '.join(map(str, results))} }}",
        context=module.context,
    )
    module.body.append(function)
    block = function.regions[0].blocks[0]
    return block, block.operations[len(results)]


def _finish(block: Any, end: Any, values: Sequence[ir.Value]) -> None:
    nulls = [block.operations[i] for i in range(len(values))]
    for i, value in enumerate(values):
        end.operation.operands[i] = value
    for null in nulls:
        null.operation.erase()


def _add_function(module: ir.Module, name: str, case: Case, copies: int, repeats: int) -> None:
    """Add a function of copies x repeats dispatches that returns the last result."""
    operands = [*case.shared * repeats, *case.own * copies]
    result = build.tensor_type(case.result, ir.Type.parse(case.element))
    block, end = _function(module, name, operands, [result])
    with ir.InsertionPoint(end):
        arguments = list(block.arguments)
        behind = repeats * len(case.shared)
        width = len(case.own)
        # Each dispatch writes in the place of the one before it: none is left out.
        value = ir.Operation.create("flow.tensor.empty", results=[result]).result
        for repeat in range(repeats):
            first = repeat * len(case.shared)
            shared = arguments[first : first + len(case.shared)]
            for copy in range(copies):
                own = arguments[behind + copy * width : behind + (copy + 1) * width]
                value = _dispatch(module, case.kernel, [*shared, *own], result, value)
    _finish(block, end, [value])


def _add_once(module: ir.Module, name: str, case: Case) -> None:
    """Add the function that is checked: with the activations rounded where they are."""
    result = build.tensor_type(case.result, ir.Type.parse(case.element))
    block, end = _function(module, name, _given(case), [result])
    with ir.InsertionPoint(end):
        arguments = list(block.arguments)
        if case.rows is not None:
            i32 = ir.IntegerType.get_signless(32)
            records = build.tensor_type([case.rows.m or 1, case.rows.words], i32)
            arguments[0] = _dispatch(module, case.rows, arguments[:1], records)
        value = _dispatch(module, case.kernel, arguments, result)
    _finish(block, end, [value])


def _dispatch(
    module: ir.Module, kernel: Any, arguments: Sequence[ir.Value], result: ir.Type,
    into: ir.Value | None = None,
) -> ir.Value:  # fmt: skip
    executable.declare(
        module, kernel.name, [True] * len(arguments) + [False], 0, kernel.translation, kernel.emit
    )
    grid = [emit.index(count) for count in grid_of(kernel)]
    call = executable.dispatch(kernel.name, grid, [], arguments, result, [], into)
    found: ir.Value = call.results[0]
    return found


_STOCK = """
func.func @main(%x: tensor<{n}x{n}xf32>, %w: tensor<{n}x{n}xf32>) -> tensor<{n}x{n}xf32> {{
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<{n}x{n}xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<{n}x{n}xf32>) -> tensor<{n}x{n}xf32>
  %y = linalg.matmul ins(%x, %w : tensor<{n}x{n}xf32>, tensor<{n}x{n}xf32>)
                     outs(%f : tensor<{n}x{n}xf32>) -> tensor<{n}x{n}xf32>
  return %y : tensor<{n}x{n}xf32>
}}
"""


def _stock(
    size: int, folder: Path, target: str, progress: Callable[[str], object]
) -> dict[str, Any]:
    """Compile a square L-Mul product without lowc's kernels; return what a call of it needs."""
    from ....compiler.api import compile as compile_model

    progress(f"L-Mul {size} as IREE compiles it")
    source, output = folder / "stock.mlir", folder / f"stock{size}.vmfb"
    source.write_text(_STOCK.format(n=size))
    compile_model(str(source), "lmul", target, output=output, kernels=False)
    source.unlink()
    operands = [Operand((size, size), "f32", "activations")] * 2
    return {"name": f"lmul {size}", "file": output.name, "inputs": [o.spec for o in operands]}


# -- expected results ------------------------------------------------------------------------------


def _expect(case: Case, folder: Path, file: str) -> dict[str, Any]:
    operands = _given(case)
    arrays = [collect.make(one.spec) for one in operands]
    m = case.result[-2]
    rows = np.unique(np.linspace(0, m - 1, CHECKED_ROWS).astype(int)) if m > 8 else np.arange(m)
    found = REFERENCES[case.kind](case, arrays, rows)
    np.savez(folder / file, rows=rows, **found)
    dtype = "int32" if case.element == "i32" else "float32"
    return {
        "function": "once", "file": file, "shape": list(case.result), "dtype": dtype,
        "inputs": [one.spec for one in operands],
        "crc": [[operands[0].spec, zlib.crc32(arrays[0])]],
    }  # fmt: skip


def _weight_of(case: Case, arrays: Sequence[Any]) -> Quantized:
    """Return the weight that random words of codes mean."""
    kernel, words = case.kernel, arrays[1][0].view(np.uint32)
    if isinstance(kernel, DequantThreads):
        return _weight_in_panels(kernel, words, arrays[2][0], arrays[3:])
    if _is_float(case):
        codes = gpu_rows.unpack_floats(words, kernel.bits, kernel.span).astype(np.int16)
        codes = codes - (1 << kernel.bits - 1) if kernel.symmetric else codes
    else:
        codes = gpu_rows.unpack_integers(words, kernel.bits, signed=kernel.symmetric)
    n = len(codes)
    scales = arrays[2][0]
    zeros = None if kernel.symmetric else arrays[3][0]
    grouped: Any = codes.reshape(n, scales.shape[1], -1)
    return Quantized(grouped, scales, zeros)


def _weight_in_panels(
    kernel: DequantThreads, words: Any, scales: Any, zeros: Sequence[Any]
) -> Quantized:
    """Return the weight that words of panels mean."""
    shape = (kernel.panels, kernel.k // kernel.chunk, kernel.vectors, kernel.tile.columns)
    codes = panels.unpack_panels(words.reshape(shape), kernel.bits, kernel.n, kernel.group)
    signed: Any = codes.astype(np.int16) - ((1 << kernel.bits - 1) if kernel.symmetric else 0)
    of_rows = [
        values.transpose(0, 2, 1).reshape(-1, kernel.groups)[: kernel.n]
        for values in (scales, *(one[0] for one in zeros))
    ]
    return Quantized(signed, of_rows[0], of_rows[1] if zeros else None)


def _is_float(case: Case) -> bool:
    """Whether codes are in float order."""
    return case.kind.endswith("a16")


def _integers(case: Case, arrays: Sequence[Any], rows: Any) -> dict[str, Any]:
    weight = _weight_of(case, arrays)
    group = weight.codes.shape[2]
    x = activations.quantize(arrays[0][rows], group, per_row=not case.kernel.per_group)
    if case.kernel.per_group and weight.codes.shape[1] == 1:
        x = activations.Activations(x.codes, x.scales.reshape(len(rows), 1))
    exact = np.zeros((len(rows), len(weight.codes), weight.codes.shape[1]), np.int32)
    for g in range(weight.codes.shape[1]):
        codes = weight.codes[:, g].astype(np.float64)
        if weight.zeros is not None:
            codes -= weight.zeros[:, g, None]
        exact[..., g] = (x.codes[:, g].astype(np.float64) @ codes.T).astype(np.int32)
    scaled: Any = exact * weight.scales.astype(np.float64)
    if x.has_row_scale:
        scaled = scaled * x.scales.astype(np.float64)[:, None, None]
    else:
        scaled = scaled * x.scales.astype(np.float64)[:, None, :]
    terms = exact.shape[2] + 5
    bound = np.abs(scaled).sum(axis=-1) * terms * 2.0**-23 + terms * 2.0**-126
    if exact.shape[2] == 1:
        # One group: what f32 makes of it, each operation rounded once, is known bit for bit.
        value = exact[..., 0].astype(np.float32)
        if x.has_row_scale:
            value = (value * weight.scales[:, 0]) * x.scales[:, None]
        else:
            value = value * (weight.scales[:, 0] * x.scales)
        return {"expected": value.astype(np.float32)}
    return {"expected": scaled.sum(axis=-1), "bound": bound}


def _floats(case: Case, arrays: Sequence[Any], rows: Any) -> dict[str, Any]:
    weight, x = _weight_of(case, arrays), arrays[0][0][rows].astype(np.float64)
    total: Any = 0.0
    size: Any = 0.0
    group = weight.codes.shape[2]
    for g in range(weight.codes.shape[1]):
        codes = weight.codes[:, g].astype(np.float64)
        if weight.zeros is not None:
            codes -= weight.zeros[:, g, None]
        scale = weight.scales[:, g].astype(np.float64)
        own = x[:, g * group : (g + 1) * group]
        total = total + (own @ codes.T) * scale
        size = size + (np.abs(own) @ np.abs(codes).T) * scale
    # A sum of K terms is rounded K times at most, each term twice.
    return {"expected": total, "bound": size * (x.shape[1] + 2) * 2.0**-24}


def _added(case: Case, arrays: Sequence[Any], rows: Any) -> dict[str, Any]:
    product, n = case.kernel.product, case.kernel.n
    a = (arrays[0][0][rows] + np.int32(product.constant)).view(np.uint32)
    panels = arrays[1][0]
    b = panels.transpose(1, 0, 2).reshape(panels.shape[1], -1)[:, :n].view(np.uint32)
    total = np.zeros((len(rows), n), np.float32)
    for k in range(a.shape[1]):
        total += lmul.finite_product(a[:, k, None], b[None, k], F32, product.constant).view(
            np.float32
        )
    return {"expected": total}


def _rounded(case: Case, arrays: Sequence[Any], rows: Any) -> dict[str, Any]:
    kernel = case.kernel
    x = activations.quantize(arrays[0][rows], min(kernel.group, kernel.padded),
                             per_row=not kernel.per_group)  # fmt: skip
    codes = x.codes.reshape(len(rows), -1)
    codes = np.pad(codes, [(0, 0), (0, kernel.padded - codes.shape[1])])
    record = np.zeros((len(rows), kernel.words), np.int32)
    record[:, : kernel.first_scale] = np.ascontiguousarray(codes).view(np.int32)
    scales = x.scales.reshape(len(rows), -1)
    record[:, kernel.first_scale : kernel.first_scale + scales.shape[1]] = scales.view(np.int32)
    if kernel.has_sums:
        sums = -x.codes.astype(np.int32).sum(axis=-1)
        record[:, kernel.first_sum : kernel.first_sum + sums.shape[1]] = sums
    return {"expected": record}


REFERENCES: dict[str, Callable[[Case, Sequence[Any], Any], dict[str, Any]]] = {
    "w4a8": _integers,
    "w8a8": _integers,
    "w4a16": _floats,
    "w8a16": _floats,
    "w3a16": _floats,
    "lmul": _added,
    "round": _rounded,
}
