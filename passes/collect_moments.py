"""``lowc-collect-moments``: sum up what the inputs of matmuls say about rounding their weights."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import annotations, build
from .assign_forms import form_of
from .base import Pass, Refusal, RemarkKind
from .contraction import Contraction, dims_of, find_weight, match_contraction
from .forms import Form
from .more_results import called_functions, function_around, return_too
from .shadow_matmuls import make_exact


@dataclass(frozen=True)
class Inputs:
    """The activation of a matmul: its tensor, the axis that is summed over, the weight's name."""

    function: str
    value: ir.Value
    axis: int
    size: int
    weight: str


@dataclass(frozen=True)
class CollectMoments(Pass):
    """Return ``X^T X`` of every matmul whose method wants it, and keep all matmuls exact.

    X are the rows that meet the weight, all batches and positions of a call; the product is f32
    ``[K, K]`` and one more result of the function, in the order of ``lowc.moments``, which has for
    each result the matmuls that read those rows, with their weights: uses of one weight are to be
    added up.

    A matmul inside a loop or a branch, in a function that others call, or with a weight for each
    batch, is not measured.

    Before::

        func.func @main(%x: tensor<2x64xf32>) -> tensor<2x8xf32> {
          %y = linalg.matmul {lowc.form = {method = "gptq", …}, lowc.matmul = "fc"} ins(%x, %t) …
          return %y

    After::

        func.func @main(%x: tensor<2x64xf32>) -> (tensor<2x8xf32>, tensor<64x64xf32>)
            attributes {lowc.moments = "[[["fc","fc.weight"]]]"} {
          %y = linalg.matmul {lowc.form = {form = "exact"}, lowc.matmul = "fc"} ins(%x, %t) …
          %h = linalg.generic (k, l, m) ins(%x, %x) … { mulf, addf }
          return %y, %h

    Parameters
    ----------
    only : tuple of str, optional
        The names of the matmuls to measure; without it all are.
    """

    name: ClassVar[str] = "lowc-collect-moments"
    only: tuple[str, ...] | None = None

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Sum up, and make all matmuls exact."""
        called = called_functions(module)
        found: dict[str, dict[tuple[ir.Value, int], _Result]] = {}
        for op in annotations.matmuls(module):
            form = form_of(op)
            if form.form == "exact":
                continue
            name = annotations.text(op, annotations.MATMUL)
            make_exact(op, "exact (its inputs are measured)")
            if not form.takes_inputs or (self.only is not None and name not in self.only):
                continue
            inputs = match(op, called)
            if isinstance(inputs, Refusal):
                remark(RemarkKind.REFUSED, op, name, f"inputs not measured: {inputs.reason}")
                continue
            results = found.setdefault(inputs.function, {})
            read = (inputs.value, inputs.axis)
            if read not in results:
                with ir.InsertionPoint(op), op.location:
                    results[read] = _Result(_moments(inputs))
            results[read].uses.append((name, inputs.weight))
            remark(RemarkKind.APPLIED, op, name, f"inputs measured: {inputs.size} x {inputs.size}")
        for function in module.body.operations:
            measured = list(found.get(annotations.text(function, "sym_name"), {}).values())
            if function.operation.name != "func.func" or not measured:
                continue
            return_too(function, [result.moments for result in measured])
            function.attributes[annotations.MOMENTS] = annotations.json_attribute(
                [result.uses for result in measured], function.context
            )


@dataclass
class _Result:
    """Moments, and the matmuls that read what they are of, each with its weight."""

    moments: ir.Value
    uses: list[tuple[str, str]] = field(default_factory=list)


def match(op: Any, called: Iterable[str]) -> Inputs | Refusal:
    """Describe the activation of `op`, or say why it cannot be measured.  Changes nothing."""
    found = match_contraction(op)
    if isinstance(found, Refusal):
        return found
    weight = find_weight(found)
    if isinstance(weight, Refusal):
        return weight
    function = function_around(op, called)
    if isinstance(function, Refusal):
        return function
    if len(found.k) != 1:
        return Refusal(f"it sums over {len(found.k)} dimensions")
    if any(loop in found.batch for loop in weight.dims):
        return Refusal("each batch has a weight of its own")
    # Uses of one weight share a sum only where they see it alike: not of W and of its transpose.
    seen = [weight.layout, weight.dims.index(found.k[0])] if found.k[0] in weight.dims else []
    key = f"{weight.symbol} {json.dumps(seen, separators=(',', ':'))}"
    return _inputs(found, weight.position, key, function)


def _inputs(found: Contraction, position: int, symbol: str, function: str) -> Inputs | Refusal:
    value, loop = found.operands[1 - position], found.k[0]
    if not isinstance(build.element_of(value), ir.FloatType):
        return Refusal(f"its inputs are {value.type}, no floats")
    size = found.sizes[loop]
    if size is None:
        return Refusal("K is dynamic")
    axis = dims_of(found.maps[1 - position]).index(loop)
    return Inputs(function, value, axis, size, symbol)


def _moments(inputs: Inputs) -> ir.Value:
    """Return ``X^T X`` ``[K, K]`` in f32: loops are k, l, and all other dimensions of X."""
    f32 = ir.F32Type.get()
    rank, axis = len(build.shape_of(inputs.value)), inputs.axis
    others = [2 + d - (d > axis) for d in range(rank)]
    rows, columns = ([k if d == axis else others[d] for d in range(rank)] for k in (0, 1))
    op = build.generic(
        [inputs.value, inputs.value],
        build.zeros([inputs.size, inputs.size], f32),
        [build.dims_map(rank + 1, dims) for dims in (rows, columns, [0, 1])],
        ["parallel", "parallel"] + ["reduction"] * (rank - 1),
        lambda a, b, acc: arith.addf(acc, arith.mulf(build.convert(a, f32), build.convert(b, f32))),
    )
    # What has no form takes the default of a pass that lowers products: L-Mul's is L-Mul.
    op.attributes[annotations.FORM] = annotations.to_attribute(Form().to_dict(), op.context)
    return op.result
