"""``lowc-lift-elementwise``: do to elements what is done behind a transpose in front of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from iree.compiler import ir

from . import annotations, build
from .base import Pass, RemarkKind
from .contraction import defining, indexing_maps, module_path
from .epilogues import OPERATIONS, VIEWS


@dataclass(frozen=True)
class LiftElementwise(Pass):
    """Do what is done to each element of a transposed tensor before it is transposed.

    There it can be done by the kernel of the layer that made the tensor; and a kernel that reads
    what lies in front of a transpose (:mod:`.attention_heads`) can leave the transpose out.  So the
    two scales of an attention become part of the layers of its queries and keys.  Only operations
    on one tensor and constants are moved, of a result of the same element type, past transposes and
    reshapes whose results nothing else reads; the same operation is done to the same elements.

    Before::

        %e = tensor.expand_shape %x [[0, 1], [2, 3]]
        %t = linalg.transpose ins(%e) permutation = [0, 2, 1, 3]
        %y = linalg.generic ins(%t) … { mulf }

    After::

        %s = linalg.generic ins(%x) … { mulf }
        %e = tensor.expand_shape %s [[0, 1], [2, 3]]
        %y = linalg.transpose ins(%e) permutation = [0, 2, 1, 3]
    """

    name: ClassVar[str] = "lowc-lift-elementwise"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Lift every operation that can be."""
        # What follows one that was moved may be moved in the next round.
        while found := [
            (op, moves) for op in annotations.operations(module) if (moves := match(op))
        ]:
            for op, moves in found:
                where = module_path(op.location) or op.name
                remark(RemarkKind.APPLIED, op, where, "done before it is transposed")
                rewrite(op, moves)


def match(op: Any) -> list[Any]:
    """Return what moves the elements that `op` works on, last first; empty if it stays.

    Changes nothing.
    """
    if op.name != "linalg.generic" or len(op.operands) != 2 or not _is_elementwise(op):
        return []
    moves: list[Any] = []
    source = op.operands[0]
    while True:
        if len(list(source.uses)) != 1:
            return []
        maker = defining(source)
        if maker is None:
            return []
        if maker.name not in VIEWS and maker.name != "linalg.transpose":
            break
        moves.append(maker)
        source = maker.operands[0]
    is_computed = maker.name.startswith("linalg.") and maker.block == op.block
    is_moved = any(move.name == "linalg.transpose" for move in moves)
    return moves if is_computed and is_moved else []


def _is_elementwise(op: Any) -> bool:
    """Whether `op` makes each element from the one at its place, and constants."""
    if annotations.MATMUL in op.attributes or annotations.PREPARED in op.attributes:
        return False
    value, init = op.operands
    if not isinstance(value.type, ir.RankedTensorType):
        return False
    if build.element_of(value) != build.element_of(init):
        return False
    identity = build.identity_map(len(build.shape_of(init)))
    if any(map_ != identity for map_ in indexing_maps(op)):
        return False
    block = op.regions[0].blocks[0]
    if list(block.arguments[1].uses):
        return False
    for inner in block.operations:
        operation = inner.operation
        if operation.name not in OPERATIONS and operation.name != "linalg.yield":
            return False
        for operand in operation.operands:
            maker = defining(operand)
            if maker is not None and maker.block != block and maker.name != "arith.constant":
                return False
            if maker is None and operand != block.arguments[0]:
                return False
    return True


def rewrite(op: Any, moves: list[Any]) -> None:
    """Put `op` in front of `moves`."""
    first = moves[-1]
    source = first.operands[0]
    block = op.regions[0].blocks[0]

    def body(element: ir.Value, _: ir.Value) -> ir.Value:
        known: dict[ir.Value, ir.Value] = {block.arguments[0]: element}

        def now(value: ir.Value) -> ir.Value:
            if value not in known:  # a constant from outside may stand behind the new place
                known[value] = defining(value).clone().results[0]
            return known[value]

        for inner in block.operations:
            operation = inner.operation
            operands = [now(operand) for operand in operation.operands]
            if operation.name == "linalg.yield":
                return operands[0]
            copy = operation.clone()
            for place, operand in enumerate(operands):
                copy.operands[place] = operand
            known[operation.results[0]] = copy.operation.results[0]
        raise ValueError("a body without a yield")

    with ir.InsertionPoint(first), op.location:
        lifted = build.elementwise([source], build.element_of(source), body)
        annotations.copy_annotations(op, lifted)
    first.operation.operands[0] = lifted.results[0]
    op.results[0].replace_all_uses_with(op.operands[0])
    op.erase()
