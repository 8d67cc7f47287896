"""Modules of kernels alone: a function for each tile of a product, compiled in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir

from ...passes import build
from ...passes.kernels import executable
from ...passes.kernels.record_matmul import RecordMatmul
from ...passes.kernels.table_matmul import TableMatmul
from ...passes.tiling import families
from ...passes.tiling.problem import Problem
from ...passes.tiling.tilings import Tiling
from ..frontend import parse_module
from . import gpu_operands, portable


@dataclass(frozen=True)
class Operand:
    """A tensor that a kernel reads: its part of the product, shape, and element type in MLIR."""

    part: str
    shape: tuple[int, ...]
    element: str


def function_name(number: int) -> str:
    """Return the function of the `number`-th tile."""
    return f"tile{number}"


def operands(problem: Problem, tiling: Tiling) -> list[Operand]:
    """Return what the function of a tile takes: the left operand, and parts of the right one."""
    batch, m, n, k = (size or 0 for size in problem.sizes)
    if problem.lowering == "linalg":
        return [Operand(*one) for one in portable.shapes(problem)]
    kernel = families.kernel_of(problem, tiling)
    if problem.backend != "cpu":
        return [Operand(*one) for one in gpu_operands.shapes(problem, kernel)]
    if isinstance(kernel, RecordMatmul):
        head = (kernel.batch, kernel.panels)
        names: Sequence[str] = _PARTS
        if isinstance(kernel, TableMatmul):
            names = [name for name, _, _ in kernel.parts]
        elif problem.symmetric:
            names = [name for name in _PARTS if name != "zeros"]
        return [
            Operand("rows", (batch * m, k), "f32"),
            *(
                Operand(name, (*head, *shape), f"i{width}" if width else "f32")
                for name, (shape, width) in zip(names, kernel.weights, strict=False)
            ),
        ]
    left = Operand("rows", (batch, m, k), "f32" if problem.prepares else "i32")
    own = batch if problem.own_batch else 1
    columns = kernel.tile.columns
    head = (own, -(-n // columns))
    if families.is_dequant(problem.form):
        words = k // kernel.codes.chunk * kernel.codes.words
        groups = k // problem.group
        found = [
            Operand("codes", (*head, words, columns), "i32"),
            Operand("scales", (*head, groups, columns), "i16" if kernel.has_halves else "f32"),
        ]
        if not problem.symmetric:
            found.append(Operand("zeros", (*head, groups, columns), "i8"))
        if kernel.has_halves:
            found.append(Operand("factors", (*head, columns), "f32"))
        return [left, *found]
    if problem.packs:
        return [left, Operand("matrix", (own, k, n), "f32")]
    if problem.form == families.FLOAT:
        return [left, Operand("panels", (*head, k, columns), "f32")]
    return [left, Operand("panels", (*head, k, columns * kernel.stored.width // 32), "i32")]


_PARTS = ("codes", "scales", "zeros", "factors")


def module_text(problem: Problem, tilings: Sequence[Tiling]) -> str:
    """Return MLIR with a function for each of `tilings` (:func:`function_name`).

    Raises
    ------
    ValueError
        When a size is not known, or there is no such form.
    """
    if not problem.is_static:
        raise ValueError(f"sizes of {problem} are not known")
    if problem.lowering == "linalg":
        names = [function_name(number) for number in range(len(tilings))]
        return portable.module_text(problem, tilings, names)
    module = parse_module("", "kernels")
    with module.context, ir.Location.unknown():
        for number, tiling in enumerate(tilings):
            _add(module, function_name(number), problem, tiling)
    module.operation.verify()
    return str(module)


def can_be_alone(problem: Problem) -> bool:
    """Whether there is a module for `problem`."""
    return problem.lowering == "kernel" or portable.can_be_alone(problem)


def _add(module: ir.Module, name: str, problem: Problem, tiling: Tiling) -> None:
    """Add a function that dispatches to the kernel of `tiling`, and to what prepares its rows."""
    kernel = families.kernel_of(problem, tiling)
    types = [
        f"tensor<{'x'.join(map(str, one.shape))}x{one.element}>"
        for one in operands(problem, tiling)
    ]
    batch, m, n = problem.batch or 0, problem.m or 0, problem.n or 0
    result = build.tensor_type([batch, m, n], ir.F32Type.get())
    arguments = ", ".join(f"%a{i}: {type_}" for i, type_ in enumerate(types))
    # What it returns is built at the place of the constant, which then goes.
    function = ir.Operation.parse(
        f"func.func @{name}({arguments}) -> {result} {{\n"
        f"%e = util.unfoldable_constant dense<0.0> : {result}\nreturn %e : {result} }}",
        context=module.context,
    )
    module.body.append(function)
    block = function.regions[0].blocks[0]
    placeholder, end = block.operations[0], block.operations[1]
    with ir.InsertionPoint(placeholder):
        found = _call(module, problem, kernel, list(block.arguments), result)
    end.operation.operands[0] = found
    placeholder.operation.erase()


def _call(
    module: ir.Module, problem: Problem, kernel: Any, values: list[ir.Value], result: Any
) -> ir.Value:
    inputs = [True] * len(values)
    if isinstance(kernel, RecordMatmul):
        if not kernel.rounds:
            values[0] = _records(module, kernel, values[0])
        grid = kernel.grid(build.index(problem.m or 0))
    elif problem.backend != "cpu":
        grid = [build.index(count or 0) for count in kernel.known_grid]
    else:
        names = ("batch", "m", "n", "k")
        sizes = {
            name: build.index(size or 0) for name, size in zip(names, problem.sizes, strict=True)
        }
        grid = kernel.grid(sizes)
    executable.declare(module, kernel.name, [*inputs, False], 0, kernel.translation, kernel.emit)
    call = executable.dispatch(kernel.name, grid, [], values, result, [])
    found: ir.Value = call.results[0]
    return found


def _records(module: ir.Module, kernel: Any, x: ir.Value) -> ir.Value:
    rows = kernel.rows
    executable.declare(module, rows.name, [True, False], 0, rows.translation, rows.emit)
    type_ = build.tensor_type([rows.m, rows.words], ir.IntegerType.get_signless(32))
    call = executable.dispatch(rows.name, rows.grid(build.index(rows.m)), [], [x], type_, [])
    found: ir.Value = call.results[0]
    return found
