"""``lowc-reorder-joins``: a negated part beside another one is put into its place last."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import annotations, build
from .base import Pass, RemarkKind
from .contraction import defining, module_path
from .fuse_rotations import turned_by


@dataclass(frozen=True)
class Join:
    """Two parts that become neighbours along the last dimension; the first of them is negated.

    `places` say where both are put, and `into` what they are put into: None for a
    ``tensor.concat``, which makes it, and whose places follow from the sizes of the parts.
    """

    op: Any
    negated: ir.Value
    other: ir.Value
    into: ir.Value | None = None
    places: tuple[build.Part, build.Part] | None = None


@dataclass(frozen=True)
class ReorderJoins(Pass):
    """Keep IREE from taking a join for the one in a rotary embedding.

    IREE 3.13 (``iree-global-opt-raise-special-ops``) makes one loop of a negated slice that is
    joined with another slice of the same tensor: the negated high half, then the low one.  It does
    not look where the slices begin, what they leave out, and how the negated one is read, so that
    every such join becomes that one.  It begins at the part that was put into its place last, and
    that must be the one that is not negated.  So here the negated part is the last, unless the
    join is the one that IREE means.

    Before::

        %l = tensor.extract_slice %x[0, 0] [4, 32] …
        %h = tensor.extract_slice %x[0, 32] [4, 32] …
        %n = linalg.generic ins(%l) … { negf }
        %j = tensor.concat dim(1) %n, %h : … -> tensor<4x64xf32>

    After::

        %e = tensor.empty() : tensor<4x64xf32>
        %s = tensor.insert_slice %h into %e[0, 32] [4, 32] …
        %j = tensor.insert_slice %n into %s[0, 0] [4, 32] …
    """

    name: ClassVar[str] = "lowc-reorder-joins"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Rewrite every join that IREE might mistake."""
        for op in annotations.operations(module):
            found = match(op)
            if found is not None:
                where = module_path(op.location) or op.name
                remark(RemarkKind.NOTE, op, where, "joined with its negated part last")
                rewrite(found)


def match(op: Any) -> Join | None:
    """Describe a join whose first part is negated and that is no rotation.  Changes nothing."""
    if op.name == "tensor.insert_slice":
        return _insertions(op)
    if op.name != "tensor.concat" or len(op.operands) != 2 or turned_by(op) is not None:
        return None
    first, second = op.operands
    last = len(build.shape_of(first)) - 1
    if ir.IntegerAttr(op.attributes["dim"]).value != last or not _is_negated(first):
        return None
    return Join(op, first, second)


def _insertions(op: Any) -> Join | None:
    """Describe two insertions of equal size, one behind the other along the last dimension."""
    before = defining(op.operands[1])
    if before is None or before.name != "tensor.insert_slice":
        return None
    first, second = (build.Part.of(one, 2) for one in (before, op))
    if first is None or second is None or first.sizes != second.sizes:
        return None
    if any(offset != 0 for offset in (*first.offsets, *second.offsets[:-1])):
        return None
    if second.offsets[-1] != first.sizes[-1] or not _is_negated(before.operands[0]):
        return None
    return Join(op, before.operands[0], op.operands[0], before.operands[1], (first, second))


def _is_negated(value: ir.Value) -> bool:
    """Whether what makes `value` negates one tensor, however that is read."""
    op = defining(value)
    if op is None or op.name != "linalg.generic":
        return op is not None and op.name == "arith.negf"
    block = op.regions[0].blocks[0]
    made = defining(block.operations[len(block.operations) - 1].operands[0])
    return made is not None and made.name == "arith.negf"


def rewrite(found: Join) -> None:
    """Put the other part into its place, and then the negated one."""
    op = found.op
    with ir.InsertionPoint(op), op.location:
        into, (first, second) = (found.into, found.places) if found.places else _places(found)
        other = build.put(found.other, into, second)
        joined = build.put(found.negated, other, first)
    op.results[0].replace_all_uses_with(joined)
    op.erase()


def _places(found: Join) -> tuple[ir.Value, tuple[build.Part, build.Part]]:
    """Return an empty tensor for a ``tensor.concat``, and where its parts go."""
    result = found.op.results[0]
    here, there = _sizes(found.negated), _sizes(found.other)
    sizes = [*here[:-1], _sum(here[-1], there[-1])]
    shape = build.shape_of(result)
    unknown = [place for place, size in enumerate(shape) if size == build.DYNAMIC]
    into = build.empty(shape, build.element_of(result), [_index(sizes[d]) for d in unknown])
    start = (0,) * (len(shape) - 1)
    return into, (build.Part((*start, 0), here), build.Part((*start, here[-1]), there))


def _sizes(value: ir.Value) -> tuple[int | ir.Value, ...]:
    return tuple(
        build.dim(value, axis) if size == build.DYNAMIC else size
        for axis, size in enumerate(build.shape_of(value))
    )


def _sum(one: int | ir.Value, other: int | ir.Value) -> int | ir.Value:
    if isinstance(one, int) and isinstance(other, int):
        return one + other
    return arith.addi(_index(one), _index(other))


def _index(size: int | ir.Value) -> ir.Value:
    return build.index(size) if isinstance(size, int) else size
