"""``lowc-share-gathers``: look up once what is then broadcast."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from iree.compiler import ir

from . import annotations, build
from .base import Pass, RemarkKind
from .contraction import indexing_maps, module_path


@dataclass(frozen=True)
class ShareGathers(Pass):
    """Keep a ``tensor.extract`` in a linalg body apart from operations that broadcast its result.

    IREE calculates an elementwise operation again in everything that reads it.  A mask of attention
    that a model looks up by position, one element per key, is so looked up for every head, query
    and layer, element by element in loops that are no longer vectors.

    Before::

        %mask = linalg.generic … { tensor.extract … } -> tensor<1x1x1x128xi1>
        %r = linalg.generic {indexing_maps = [(b, h, q, k) -> (b, h, 0, k), …]} ins(%mask, …) …

    After::

        %mask = linalg.generic … { tensor.extract … } -> tensor<1x1x1x128xi1>
        %kept = util.optimization_barrier %mask : tensor<1x1x1x128xi1>
        %r = linalg.generic {indexing_maps = [(b, h, q, k) -> (b, h, 0, k), …]} ins(%kept, …) …
    """

    name: ClassVar[str] = "lowc-share-gathers"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Put a barrier behind every look-up of a known size that is broadcast."""
        for op in annotations.operations(module.operation):
            for result in _broadcast_look_ups(op):
                _put_barrier_behind(result)
                remark(RemarkKind.NOTE, op, module_path(op.location) or op.name, "looked up once")


def _broadcast_look_ups(op: Any) -> list[ir.Value]:
    """Return the results of `op` that are looked up in a table, and then broadcast."""
    if op.name != "linalg.generic" or not _looks_up(op):
        return []
    # IREE 3.13 finds no dynamic size behind a barrier.
    known = [result for result in op.results if build.DYNAMIC not in build.shape_of(result)]
    return [
        result
        for result in known
        if any(_broadcasts(use.owner, use.operand_number) for use in result.uses)
    ]


def _put_barrier_behind(result: ir.Value) -> None:
    op = result.owner
    uses = [(use.owner, use.operand_number) for use in result.uses]
    with ir.InsertionPoint.after(op), op.location:
        kept = build.barrier(result)
    for owner, number in uses:
        owner.operands[number] = kept


def _looks_up(op: Any) -> bool:
    return any(inner.operation.name == "tensor.extract" for inner in op.regions[0].blocks[0])


def _broadcasts(op: Any, number: int) -> bool:
    """Whether `op` reads each element of its operand `number` more than once."""
    if op.name != "linalg.generic":
        return False
    return not indexing_maps(op)[number].is_permutation
