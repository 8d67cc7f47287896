"""Transposes around the products of attention that their kernel can do without.

Layers leave heads side by side, and a product of PyTorch's wants them one behind another::

    %q4 = linalg.transpose ins(%x : tensor<BxTxHxD>) permutation = [0, 2, 1, 3]
    %k4 = linalg.transpose ins(%y : tensor<BxTxHxD>) permutation = [0, 2, 3, 1]
    %q = tensor.collapse_shape %q4 [[0, 1], [2], [3]]
    %k = tensor.collapse_shape %k4 [[0, 1], [2], [3]]
    %s = linalg.batch_matmul ins(%q, %k)                          // BH x T x T

The kernel reads ``%x`` and ``%y``, and writes results where the transpose behind a product would.
"""

from dataclasses import dataclass
from typing import Any

from iree.compiler import ir

from . import build
from .contraction import defining, dims_of
from .dispatch_matmul import ResultHeads
from .kernels.float_matmul import Heads
from .matrices import Matrices

_GROUPS = [[0, 1], [2], [3]]
# Of ``[b, h, i, j]``: how its source lies, and which dimensions of a matrix come first there.
_SPLIT = {(0, 2, 1, 3): (0, 1), (0, 2, 3, 1): (1, 0)}
_TURNED = (0, 1, 3, 2)


@dataclass(frozen=True)
class Operand:
    """An operand as it lies in memory.

    ``source`` is ``[outer, rows, heads, columns]`` where ``heads`` is not 0; ``loops`` are those of
    its rows and columns.  Without heads it may be ``[outer, batch, rows, columns]``.
    """

    source: ir.Value
    heads: int
    loops: tuple[int, int]


@dataclass(frozen=True)
class Found:
    """How a kernel shall read the operands, and write the result."""

    heads: Heads
    rows: ir.Value | None
    columns: ir.Value | None
    result: ResultHeads | None


def match(op: Any, columns: int, matrices: Matrices, *, stores: bool) -> Found | None:
    """Return what transposes the product `op` can do without, None if there are none.

    Changes nothing.  Operand number `columns` has the columns.  `stores` says whether the kernel
    may store its results elsewhere.
    """
    parts = (matrices.batch_loops, matrices.rows, matrices.columns, matrices.summed)
    if any(len(part) != 1 for part in parts):
        return None
    if None in (matrices.batch, matrices.m, matrices.n, matrices.k):
        return None  # transposed as before: sizes known only at run time are not done yet
    batch, m, n, k = (part[0] for part in parts)
    left = _operand(op.operands[1 - columns], dims_of(matrices.maps["rows"]), batch)
    right = _operand(op.operands[columns], dims_of(matrices.maps["columns"]), batch)
    result = None
    if stores and dims_of(matrices.maps["result"]) == (batch, m, n):
        result = _result(op)
    rows = left if left is not None and left.heads and left.loops == (m, k) else None
    counts = [part.heads for part in (rows, right) if part is not None and part.heads]
    counts += [result.count] if result is not None else []
    if len(set(counts)) > 1:
        return None
    turned = right is not None and right.loops == (n, k)
    is_split = right is not None and right.heads > 0
    split = "a" * (rows is not None) + "b" * is_split + "c" * (result is not None)
    if not split and not turned:
        return None
    heads = Heads(counts[0] if counts else 1, split, turned)
    return Found(
        heads,
        None if rows is None else rows.source,
        right.source if right is not None and (is_split or turned) else None,
        result,
    )


def matrix_of(source: ir.Value, *, is_split: bool) -> ir.Value:
    """Return what the kernel reads of an operand's source."""
    if is_split or len(build.shape_of(source)) == 3:
        return source
    return build.collapse(source, _GROUPS)


def _operand(value: ir.Value, dims: tuple[int, ...], batch: int) -> Operand | None:
    """Describe an operand whose dimensions belong to the loops `dims`."""
    if len(dims) != 3 or dims[0] != batch:
        return None
    plain = Operand(value, 0, (dims[1], dims[2]))
    collapsed = defining(value)
    if collapsed is None or collapsed.name != "tensor.collapse_shape" or not _is_grouped(collapsed):
        return plain
    moved = defining(collapsed.operands[0])
    if moved is None or moved.name != "linalg.transpose":
        return plain
    order, source = _permutation(moved), moved.operands[0]
    if order == _TURNED:
        return Operand(source, 0, (dims[2], dims[1]))
    heads = build.shape_of(source)[2]
    if order not in _SPLIT or heads == build.DYNAMIC:
        return plain
    first, second = (dims[1 + place] for place in _SPLIT[order])
    return Operand(source, heads, (first, second))


def _result(op: Any) -> ResultHeads | None:
    """Describe the transpose behind `op` if nothing else reads its result."""
    expanded = _only_user(op.results[0])
    if expanded is None or expanded.name != "tensor.expand_shape" or not _is_grouped(expanded):
        return None
    moved = _only_user(expanded.results[0])
    if moved is None or moved.name != "linalg.transpose" or _permutation(moved) != (0, 2, 1, 3):
        return None
    if moved.operands[0] != expanded.results[0]:
        return None
    heads = build.shape_of(expanded.results[0])[1]
    return None if heads == build.DYNAMIC else ResultHeads(expanded, moved, heads)


def _only_user(value: ir.Value) -> Any:
    uses = list(value.uses)
    return uses[0].owner.operation if len(uses) == 1 else None


def _permutation(op: Any) -> tuple[int, ...]:
    return tuple(ir.DenseI64ArrayAttr(op.attributes["permutation"]))


def _is_grouped(op: Any) -> bool:
    """Whether a reshape of ``[outer, batch, i, j]`` makes one of the first two, or two of one."""
    groups = [
        [ir.IntegerAttr(axis).value for axis in group] for group in op.attributes["reassociation"]
    ]
    return groups == _GROUPS
