"""Look-ups of rows of a parameter, as embeddings are: recognised, and built over stored codes.

``aten.embedding`` is a ``linalg.generic`` that yields ``table[index, column]``: the index is an
element of its input as it is, and the column the loop of its last dimension::

    %x = linalg.generic (t, k) ins(%tokens : tensor<?xi64>) outs(%e : tensor<?x64xf32>) {
      %i = arith.index_cast %in : i64 to index
      %j = linalg.index 1 : index
      %v = tensor.extract %table[%i, %j] : tensor<1000x64xf32>
      linalg.yield %v
    }

An index that is calculated on the way, such as one that counts from the end, is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import build, parameters
from .base import Refusal
from .build import element_of, shape_of
from .contraction import defining, dims_of, indexing_maps, is_dim

Read = Callable[[ir.Value, Sequence[ir.Value]], ir.Value]


@dataclass(frozen=True)
class LookUp:
    """Rows of a table that are looked up.

    Attributes
    ----------
    op : Any
        The ``linalg.generic``; its last loop is that of the columns.
    symbol, source : str
        The global that holds the table, and the key of its parameter.
    rows, columns : int
        The table's sizes.
    element : ir.Type
        Its type, a float.
    """

    op: Any
    symbol: str
    source: str
    rows: int
    columns: int
    element: ir.Type


def match(module: ir.Module, op: Any) -> LookUp | Refusal:
    """Describe `op` as a look-up of rows, or say why it is none.  Changes nothing."""
    table = _table(op)
    if isinstance(table, Refusal):
        return table
    load = defining(table)
    if load is None or load.name != "util.global.load":
        return Refusal("the table is no parameter")
    symbol = ir.FlatSymbolRefAttr(load.attributes["global"]).value
    holder = parameters.find_global(module, symbol)
    source = parameters.parameter_key(holder) if holder is not None else None
    if source is None:
        return Refusal(f"the global '{symbol}' is no parameter, or the model writes to it")
    element = element_of(table)
    if not isinstance(element, (ir.F32Type, ir.F16Type, ir.BF16Type, ir.F64Type)):
        return Refusal(f"the table is of type {element}")
    rows, columns = shape_of(table)
    return LookUp(op, symbol, source, rows, columns, element)


def rebuild(op: Any, inner: Sequence[int], read: Read, *, replaced: int = 1) -> Any:
    """Return a look-up like `op` with ``[…, inner…]`` in the place of its last dimensions.

    ``read(row, places)`` returns its element as a float: those of `row` at `places`, the indices of
    the inner loops.
    """
    index_map, outer = indexing_maps(op)[0], shape_of(op.results[0])[:-replaced]
    count = len(outer)
    loops = count + len(inner)
    maps = [build.dims_map(loops, dims_of(index_map)), build.identity_map(loops)]
    element = element_of(op.results[0])
    source = op.operands[0]
    dynamic = build.dynamic_sizes(op.operands[1])
    init = build.empty([*outer, *inner], element, dynamic)

    def body(given: ir.Value, _: ir.Value) -> ir.Value:
        row = arith.index_cast(ir.IndexType.get(), given)
        places = [build.loop_index(count + number) for number in range(len(inner))]
        return build.convert(read(row, places), element)

    return build.generic([source], init, maps, ["parallel"] * loops, body)


def _table(op: Any) -> ir.Value | Refusal:
    """Return the tensor whose whole rows `op` looks up by its input, or say why it does not."""
    if op.name != "linalg.generic" or len(op.operands) != 2 or len(op.results) != 1:
        return Refusal("it is no generic with one input and one result")
    block = op.regions[0].blocks[0]
    extract = defining(block.operations[len(block.operations) - 1].operation.operands[0])
    if extract is None or extract.name != "tensor.extract" or len(extract.operands) != 3:
        return Refusal("it yields no element of a table with two dimensions")
    table, row, column = extract.operands
    if not _is_input(row, block) or not _is_last_loop(column, op):
        return Refusal("it looks up no rows by its input")
    maps = indexing_maps(op)
    loops = maps[1].n_dims
    if not all(is_dim(result) for map_ in maps for result in map_.results):
        return Refusal("it has an index that is not a plain dimension")
    if dims_of(maps[1]) != tuple(range(loops)):
        return Refusal("its result is in another order")
    if loops - 1 in dims_of(maps[0]):
        return Refusal("columns have indices of their own")
    if build.DYNAMIC in shape_of(table) or 0 in shape_of(table):
        return Refusal("the table has no known size, or is empty")
    if shape_of(op.results[0])[-1] != shape_of(table)[1]:
        return Refusal("only parts of rows are looked up")
    return table


def _is_input(value: ir.Value, block: Any) -> bool:
    """Whether an index is the input of the body as it is."""
    op = defining(value)
    return op is not None and op.name == "arith.index_cast" and op.operands[0] == block.arguments[0]


def _is_last_loop(value: ir.Value, op: Any) -> bool:
    index = defining(value)
    if index is None or index.name != "linalg.index":
        return False
    last = len(shape_of(op.results[0])) - 1
    return bool(ir.IntegerAttr(index.attributes["dim"]).value == last)
