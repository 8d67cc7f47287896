"""``lowc-clamp-indices``: keep table look-ups inside their tables."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from iree.compiler import ir
from iree.compiler.dialects import arith, tensor

from . import annotations, build
from .base import Pass, RemarkKind
from .contraction import defining, dims_of, indexing_maps, is_dim, module_path

_SAFE = ("linalg.index", "arith.constant")
_VIEWS = ("tensor.collapse_shape", "tensor.expand_shape", "tensor.cast")
_CASTS = ("arith.extsi", "arith.index_cast")


@dataclass(frozen=True)
class ClampIndices(Pass):
    """Clamp the data-dependent indices of ``tensor.extract`` in linalg bodies to the tensor.

    PyTorch raises an error when a token is not in the vocabulary.  torch-mlir keeps that as a
    ``cf.assert``, which IREE drops inside a dispatch, so that such an index would read whatever
    lies behind the table, or crash.  Where the indices are an input of the entry function as it
    is, the bound is also written onto the function, and the runtime checks it before the call::

        lowc.index_bounds = [[argument, size], …]

    Before::

        %i = arith.index_cast %in : i64 to index
        %v = tensor.extract %table[%i, %j] : tensor<100x8xf32>

    After::

        %i = arith.index_cast %in : i64 to index
        %l = arith.minsi %i, %c99 : index
        %c = arith.maxsi %l, %c0 : index
        %v = tensor.extract %table[%c, %j] : tensor<100x8xf32>
    """

    name: ClassVar[str] = "lowc-clamp-indices"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Clamp every look-up; annotate the functions."""
        for function in module.body.operations:
            if function.operation.name != "func.func":
                continue
            bounds: dict[int, int] = {}
            for op in annotations.operations(function):
                if op.name != "tensor.extract" or op.parent.name != "linalg.generic":
                    continue
                found = list(_clamp(op))
                for argument, size in found:
                    bounds[argument] = min(size, bounds.get(argument, size))
                if _clamped(op):
                    where = module_path(op.location) or op.parent.name
                    what = "checked before the call" if found else "clamped without a check"
                    remark(RemarkKind.NOTE, op, where, f"indices {what}")
            if bounds:
                function.attributes[annotations.INDEX_BOUNDS] = annotations.json_attribute(
                    sorted(bounds.items()), module.context
                )


def _clamp(extract: Any) -> Iterator[tuple[int, int]]:
    """Clamp the indices of one look-up; yield (argument, size) for those that are an input."""
    source = extract.operands[0]
    shape = build.shape_of(source)
    for axis in range(len(shape)):
        index = extract.operands[axis + 1]
        if not _depends_on_data(index):
            continue
        with ir.InsertionPoint(extract), extract.location:
            if shape[axis] == build.DYNAMIC:
                size = tensor.dim(source, build.index(axis))
                last = arith.subi(size, build.index(1))
            else:
                last = build.index(shape[axis] - 1)
            clamped = arith.maxsi(arith.minsi(index, last), build.index(0))
        extract.operands[axis + 1] = clamped
        argument = _entry_argument(extract.parent, index)
        if argument is not None and shape[axis] != build.DYNAMIC:
            yield argument, shape[axis]


def _clamped(extract: Any) -> bool:
    owners = [defining(index) for index in list(extract.operands)[1:]]
    return any(owner is not None and owner.name == "arith.maxsi" for owner in owners)


def _depends_on_data(index: ir.Value) -> bool:
    op = defining(index)
    return op is None or op.name not in _SAFE


def _entry_argument(generic: Any, index: ir.Value) -> int | None:
    """Return the number of the function argument whose every element is used as `index`."""
    block = generic.regions[0].blocks[0]
    value = index
    while (op := defining(value)) is not None and op.name in _CASTS:
        value = op.operands[0]
    position = next((i for i, arg in enumerate(block.arguments) if arg == value), None)
    if position is None or position >= len(generic.operands):
        return None
    if not _covers_all(generic, position):
        return None
    return _argument_behind(generic.operands[position])


def _covers_all(generic: Any, position: int) -> bool:
    """Whether the generic reads every element of an operand: each dimension is a loop's."""
    map_ = indexing_maps(generic)[position]
    return all(is_dim(result) for result in map_.results)


def _argument_behind(value: ir.Value) -> int | None:
    while (op := defining(value)) is not None:
        is_copy = op.name == "linalg.generic" and len(op.operands) == 2 and _yields_input(op)
        if op.name not in _VIEWS and not (is_copy and _covers_all(op, 0)):
            return None
        if is_copy and not dims_of(indexing_maps(op)[0]):
            return None
        value = op.operands[0]
    if not isinstance(value, ir.BlockArgument) and not ir.BlockArgument.isinstance(value):
        return None
    argument = ir.BlockArgument(value)
    owner = argument.owner.owner.operation
    return argument.arg_number if owner.name == "func.func" else None


def _yields_input(op: Any) -> bool:
    """Whether the body yields its input, extended or not."""
    block = op.regions[0].blocks[0]
    value = block.operations[len(block.operations) - 1].operands[0]
    while (inner := defining(value)) is not None and inner.name in _CASTS:
        value = inner.operands[0]
    return bool(value == block.arguments[0])
