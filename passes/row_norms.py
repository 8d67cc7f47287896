"""Recognise an RMSNorm: rows scaled by the root of the mean of their squares, and by a weight."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from iree.compiler import ir

from . import build
from .contraction import defining, is_dim, unshaped
from .outline_softmax import constant, is_whole, reduced, step_of


@dataclass(frozen=True)
class RmsNorm:
    """An RMSNorm of the last dimension of `x`, f32 ``[…, k]``, by `weight` ``[k]``.

    ``op`` is the last of its operations.
    """

    op: Any
    x: ir.Value
    weight: ir.Value
    epsilon: float


def match(value: ir.Value) -> RmsNorm | None:
    """Describe the RMSNorm that `value` is, or return None.  Changes nothing."""
    op = defining(value)
    found = _product(op)
    if found is None:
        return None
    for weight, scaled in (found, found[::-1]):
        inner = _product(defining(scaled[0]))
        if inner is None or not _is_row(weight) or not is_whole(scaled[1], scaled[2]):
            continue
        for x, root in (inner, inner[::-1]):
            if not is_whole(x[1], x[2]) or not _is_of_row(root):
                continue
            epsilon = _root_of_mean_square(root[0], x[0])
            if epsilon is not None:
                return RmsNorm(op, x[0], weight[0], epsilon)
    return None


_Read = tuple[ir.Value, ir.AffineMap, ir.AffineMap]  # a tensor, how it is read, and the result's


def _product(op: Any) -> tuple[_Read, _Read] | None:
    """Return the two f32 tensors that `op` multiplies element by element, and how they are read."""
    step = step_of(op, ("arith.mulf",), 2)
    if step is None or {*step.operations[0].operands} != {*step.arguments}:
        return None
    if build.element_of(op.results[0]) != ir.F32Type.get():
        return None
    one, other, result = step.maps
    return (op.operands[0], one, result), (op.operands[1], other, result)


def _is_row(read: _Read) -> bool:
    """Whether a tensor has one element for each of the last loop."""
    _, map_, result = read
    dims = list(map_.results)
    return len(dims) == 1 and dims[0] == list(result.results)[-1] and is_dim(dims[0])


def _is_of_row(read: _Read) -> bool:
    """Whether a tensor is read by all but the last loop, or at 0 where a size is 1."""
    _, map_, result = read
    last = list(result.results)[-1]
    return all(index != last for index in map_.results)


def _root_of_mean_square(value: ir.Value, x: ir.Value) -> float | None:
    """Return epsilon if `value` is the reciprocal root of the mean square of `x`, plus epsilon."""
    root = defining(value)
    if step_of(root, ("math.rsqrt",), 1) is None:
        return None
    added = defining(root.operands[0])
    step = step_of(added, ("arith.addf",), 1) or step_of(added, ("arith.truncf", "arith.addf"), 1)
    if step is None:
        return None
    numbers = [v for v in step.operations[-1].operands if v != step.arguments[0]]
    if len(step.operations) == 2 and numbers == [step.operations[0].results[0]]:
        numbers = [step.operations[0].operands[0]]
    epsilon = constant(numbers[0]) if len(numbers) == 1 else None
    mean = defining(added.operands[0])
    divided = step_of(mean, ("arith.divf",), 1)
    if epsilon is None or divided is None:
        return None
    by, k = divided.operations[0].operands[1], build.shape_of(x)[-1]
    if divided.operations[0].operands[0] != divided.arguments[0] or constant(by) != k:
        return None
    total = reduced(mean.operands[0], "arith.addf")
    if total is None or not _is_square(defining(total.operands[0]), x):
        return None
    # Squares of another view of `x` may be summed over more or less than a row.
    sizes = build.shape_of(total.operands[0])
    rows = [n for n in build.shape_of(x)[:-1] if n != 1]
    if sizes[-1] != k or [n for n in sizes[:-1] if n != 1] != rows:
        return None
    return float(np.float32(epsilon))


def _is_square(op: Any, x: ir.Value) -> bool:
    """Whether `op` makes the squares of `x`."""
    if op is None or not len(op.operands) or unshaped(op.operands[0]) != unshaped(x):
        return False
    power = step_of(op, ("math.fpowi",), 1)
    if power is not None:
        number = defining(power.operations[0].operands[1])
        value = None if number is None else number.attributes["value"]
        return isinstance(value, ir.IntegerAttr) and value.value == 2 and is_whole(*power.maps)
    step = step_of(op, ("arith.mulf",), 1)
    if step is None or not is_whole(*step.maps):
        return False
    return all(factor == step.arguments[0] for factor in step.operations[0].operands)
