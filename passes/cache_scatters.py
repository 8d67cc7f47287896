"""Rows that ``index_copy_`` writes into a cache, as torch-mlir has them: element by element.

With rows ``[b, h, t, width]`` for positions that a tensor names::

    %u = tensor.expand_shape (tensor.collapse_shape %rows : [N]) : [N, 1, 1, 1, 1]
    %i = tensor.concat dim(1) %a, %b, %c, %d : [N, 4]             // where each element goes
    %y = tm_tensor.scatter ins(%u, %i) outs(%cache) { yield update }

where ``%d`` counts the channels of a row.  Tensors of a cache that is stored otherwise are written
in the same way, with those of the N places that they have elements for.
"""

from dataclasses import dataclass
from typing import Any

from iree.compiler import ir

from . import build
from .build import Part
from .contraction import defining, dims_of, indexing_maps

NAME = "tm_tensor.scatter"


@dataclass(frozen=True)
class Scatter:
    """Rows, and where their elements go: i64 or i32 ``[elements, rank]``."""

    op: Any
    rows: ir.Value
    places: ir.Value


def match(op: Any) -> Scatter | None:
    """Describe a scatter that writes whole rows, None if it is another.  Changes nothing."""
    updates, places, into = op.operands
    shape = build.shape_of(into)
    rank = len(shape)
    if list(ir.DenseI64ArrayAttr(op.attributes["dimension_map"])) != list(range(rank)):
        return None
    body = op.regions[0].blocks[0]
    first = body.operations[0].operation
    if first.name != "tm_tensor.yield" or first.operands[0] != body.arguments[0]:
        return None
    rows = _flat(updates)
    columns = defining(places)
    if rows is None or columns is None or columns.name != "tensor.concat":
        return None
    if ir.IntegerAttr(columns.attributes["dim"]).value != 1 or len(columns.operands) != rank:
        return None
    sizes = build.shape_of(rows)
    if len(sizes) != rank or build.DYNAMIC in sizes or sizes[-1] != shape[-1]:
        return None
    channels = _flat(columns.operands[rank - 1])
    if channels is None or build.shape_of(channels) != sizes or not _counts_last(channels):
        return None
    return Scatter(op, rows, places)


def write(found: Scatter, value: ir.Value, into: ir.Value) -> ir.Value:
    """Return `into` after the rows of a tensor of a cache were written.

    `value` has the dimensions of the rows, the last one of another size or left out.
    """
    shape, sizes = build.shape_of(found.rows), build.shape_of(value)
    rank, width = len(shape), shape[-1]
    places = build.expand_last(found.places, _product(shape) // width, width, 0)
    kept = sizes[-1] if len(sizes) == rank else 1
    places = build.cut(places, Part((0, 0, 0), (_product(shape) // width, kept, len(sizes))))
    places = build.collapse(places, [[0, 1], [2]])
    count = _product(sizes)
    flat = build.collapse(value, [list(range(len(sizes)))])
    one = ir.Operation.create(
        "tensor.expand_shape",
        results=[build.tensor_type([count, *[1] * len(sizes)], build.element_of(value))],
        operands=[flat],
        attributes={
            "reassociation": _groups([list(range(len(sizes) + 1))]),
            "static_output_shape": ir.DenseI64ArrayAttr.get([count, *[1] * len(sizes)]),
        },
    ).result
    attributes = {name: found.op.attributes[name] for name in ("unique_indices",)}
    attributes["dimension_map"] = ir.DenseI64ArrayAttr.get(list(range(len(sizes))))
    made = ir.Operation.create(
        NAME, results=[into.type], operands=[one, places, into], attributes=attributes
        | {"operandSegmentSizes": ir.DenseI32ArrayAttr.get([2, 1])}, regions=1,
    )  # fmt: skip
    element = build.element_of(into)
    block = made.regions[0].blocks.append(element, element)
    with ir.InsertionPoint(block):
        ir.Operation.create("tm_tensor.yield", operands=[block.arguments[0]])
    result: ir.Value = made.results[0]
    return result


def _flat(value: ir.Value) -> ir.Value | None:
    """Return the tensor whose elements are in a row in `value`, which may have units behind."""
    outer = defining(value)
    if outer is None or outer.name != "tensor.expand_shape":
        return None
    inner = defining(outer.operands[0])
    if inner is None or inner.name != "tensor.collapse_shape":
        return None
    is_flat = len(build.shape_of(inner.results[0])) == 1
    found: ir.Value = inner.operands[0]
    return found if is_flat and all(size == 1 for size in build.shape_of(value)[1:]) else None


def _counts_last(value: ir.Value) -> bool:
    """Whether each element of `value` is its own place along the last dimension."""
    op = defining(value)
    if op is None or op.name != "linalg.generic" or len(op.operands) != 2:
        return False
    body = [inner.operation for inner in op.regions[0].blocks[0].operations]
    if len(body) != 1 or body[0].operands[0] != op.regions[0].blocks[0].arguments[0]:
        return False
    read, written = indexing_maps(op)
    loops = range(written.n_dims)
    if dims_of(written) != tuple(loops) or dims_of(read) != (loops[-1],):
        return False
    count = defining(op.operands[0])
    if count is None or count.name != "linalg.generic" or len(count.operands) != 1:
        return False
    names = [inner.operation.name for inner in count.regions[0].blocks[0].operations]
    return names == ["linalg.index", "arith.index_cast", "linalg.yield"]


def _product(sizes: list[int]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count


def _groups(groups: list[list[int]]) -> ir.ArrayAttr:
    i64 = ir.IntegerType.get_signless(64)
    return ir.ArrayAttr.get(
        [ir.ArrayAttr.get([ir.IntegerAttr.get(i64, axis) for axis in group]) for group in groups]
    )
