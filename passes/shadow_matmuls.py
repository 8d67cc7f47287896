"""``lowc-shadow-matmuls``: measure what the form of each matmul does to its result."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from iree.compiler import ir
from iree.compiler.dialects import arith, linalg

from . import annotations, build
from .assign_forms import form_of
from .base import Pass, Refusal, RemarkKind
from .forms import Form
from .more_results import called_functions, end_of, function_around, return_too

SUMS = 3  # of squared differences, of squared exact values, of differences times exact values


@dataclass(frozen=True)
class ShadowMatmuls(Pass):
    """Keep every matmul exact, and compute it in its form beside that, to compare the two.

    The model goes on with the exact result; a clone keeps the form, and the passes that follow
    rewrite it.  The clone reads the same inputs, so what is measured is the damage of this layer
    alone.  For each pair three sums over all elements are computed in f32 and returned as one more
    result of the function, a row for each matmul in the order of ``lowc.shadows``::

        sum (form - exact)^2,  sum exact^2,  sum (form - exact) * exact

    The first two give the relative error; 1 plus the third over the second is the slope of the
    approximate product, without the cancellation that ``sum form * exact`` would bring.

    A matmul inside a loop or a branch, or in a function that others call, is left exact and not
    measured.

    Before::

        func.func @main(%x: tensor<2x64xf32>) -> tensor<2x8xf32> {
          %y = linalg.matmul {lowc.form = {form = "dequant", …}, lowc.matmul = "fc"} ins(%x, %t) …
          return %y

    After::

        func.func @main(%x: tensor<2x64xf32>) -> (tensor<2x8xf32>, tensor<1x3xf32>)
            attributes {lowc.shadows = "["fc"]"} {
          %f = linalg.matmul {lowc.form = {form = "dequant", …}, lowc.matmul = "fc"} ins(%x, %t) …
          %y = linalg.matmul {lowc.form = {form = "exact"}, lowc.matmul = "fc"} ins(%x, %t) …
          %r = linalg.generic (m, sum, n) ins(%f, %y) …         // sums over each row
          %s = linalg.generic (sum, m) ins(%r) …                // tensor<3xf32>
          %a = tensor.insert_slice %s into %empty[0, 0] …
          return %y, %a
    """

    name: ClassVar[str] = "lowc-shadow-matmuls"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Clone, measure, and make all originals exact."""
        called = called_functions(module)
        sums: dict[str, list[tuple[str, ir.Value]]] = {}
        for op in annotations.matmuls(module):
            if form_of(op).form == "exact":
                continue
            name = annotations.text(op, annotations.MATMUL)
            found = match(op, called)
            if isinstance(found, Refusal):
                make_exact(op, f"exact (not measured: {found.reason})")
                remark(RemarkKind.REFUSED, op, name, f"not measured: {found.reason}")
                continue
            # The clone comes first: where a name stands twice, reports take the first.
            clone = op.operation.clone(ip=ir.InsertionPoint(op))
            make_exact(op, "exact (what its form is compared with)")
            with ir.InsertionPoint.after(op), op.location:
                row = _sums(clone.results[0], op.operation.results[0])
            sums.setdefault(found, []).append((name, row))
            remark(RemarkKind.APPLIED, op, name, f"measured in the form {form_of(clone).form}")
        for function in module.body.operations:
            measured = sums.get(annotations.text(function, "sym_name"))
            if function.operation.name == "func.func" and measured:
                _return_too(function, measured)


def match(op: Any, called: Iterable[str]) -> str | Refusal:
    """Return the name of the function that can return what is measured of `op`, or why not.

    Changes nothing; `called` are the functions that others of the module call.
    """
    result = op.operation.results[0].type
    if not isinstance(ir.RankedTensorType(result).element_type, ir.FloatType):
        return Refusal(f"its result is {result}, no floats")
    return function_around(op, called)


def make_exact(op: Any, why: str) -> None:
    """Take the form of a matmul away; `why` is for the report."""
    op.attributes[annotations.FORM] = annotations.to_attribute(Form().to_dict(), op.context)
    annotations.set_text(op, annotations.LOWERING, why)


def _sums(form: ir.Value, exact: ir.Value) -> ir.Value:
    """Return the three sums as ``tensor<3xf32>``: over the last dimension, then over the others.

    In two steps no sum is so long that f32 would lose its small terms.
    """
    shape = build.shape_of(exact)
    rows = max(len(shape) - 1, 0)
    loops = [*range(rows), rows, *([rows + 1] if shape else [])]  # rows, the sum, columns
    whole = build.dims_map(len(loops), [*range(rows), *([rows + 1] if shape else [])])
    dynamic = [build.dim(exact, d) for d in range(rows) if shape[d] == build.DYNAMIC]
    per_row = build.generic(
        [form, exact],
        _zeros([*shape[:rows], SUMS], dynamic),
        [whole, whole, build.dims_map(len(loops), range(rows + 1))],
        ["parallel"] * (rows + 1) + ["reduction"] * (len(loops) - rows - 1),
        lambda a, b, acc: arith.addf(acc, _term(a, b, build.loop_index(rows))),
    ).result
    if rows == 0:
        return per_row
    return build.generic(
        [per_row],
        _zeros([SUMS]),
        [
            build.dims_map(rows + 1, [*range(1, rows + 1), 0]),
            build.dims_map(rows + 1, [0]),
        ],
        ["parallel"] + ["reduction"] * rows,
        lambda a, acc: arith.addf(acc, a),
    ).result


def _term(form: ir.Value, exact: ir.Value, which: ir.Value) -> ir.Value:
    """Return what sum number `which` adds up for one element."""
    f32 = ir.F32Type.get()
    form, exact = build.convert(form, f32), build.convert(exact, f32)
    difference = arith.subf(form, exact)
    first = arith.cmpi(arith.CmpIPredicate.eq, which, build.index(0))
    second = arith.cmpi(arith.CmpIPredicate.eq, which, build.index(1))
    return arith.mulf(
        arith.select(second, exact, difference), arith.select(first, difference, exact)
    )


def _zeros(shape: list[int], dynamic: list[ir.Value] | None = None) -> ir.Value:
    f32 = ir.F32Type.get()
    zero = arith.constant(f32, ir.FloatAttr.get(f32, 0.0))
    return linalg.fill(zero, outs=[build.empty(shape, f32, dynamic or [])])


def _return_too(function: Any, measured: list[tuple[str, ir.Value]]) -> None:
    """Add the sums, one row each, to what `function` returns, and their names to its attributes."""
    end = end_of(function)
    f32 = ir.F32Type.get(function.context)
    with ir.InsertionPoint(end), end.location:
        table = build.empty([len(measured), SUMS], f32)
        for index, (_, row) in enumerate(measured):
            table = _insert_row(row, table, index)
    return_too(function, [table])
    function.attributes[annotations.SHADOWS] = annotations.json_attribute(
        [name for name, _ in measured], function.context
    )


def _insert_row(row: ir.Value, table: ir.Value, index: int) -> ir.Value:
    return ir.Operation.create(
        "tensor.insert_slice",
        results=[table.type],
        operands=[row, table],
        attributes={
            "static_offsets": ir.DenseI64ArrayAttr.get([index, 0]),
            "static_sizes": ir.DenseI64ArrayAttr.get([1, SUMS]),
            "static_strides": ir.DenseI64ArrayAttr.get([1, 1]),
            "operandSegmentSizes": ir.DenseI32ArrayAttr.get([1, 1, 0, 0, 0]),
        },
    ).result
