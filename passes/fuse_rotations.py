"""``lowc-fuse-rotations``: a rotary embedding in one loop, its halves never joined first."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from iree.compiler import ir
from iree.compiler.dialects import arith, tensor

from . import annotations, build
from .base import Pass, RemarkKind
from .contraction import defining
from .kernels import tiles
from .outline_softmax import is_whole, step_of


@dataclass(frozen=True)
class Rotation:
    """``x * cosines + (-high half of x, low half of x) * sines`` along the last dimension.

    ``factors`` are cosines and sines, each with how it is read in the loops of `x`.
    """

    op: Any
    x: ir.Value
    factors: tuple[tuple[ir.Value, ir.AffineMap], ...]


@dataclass(frozen=True)
class FuseRotations(Pass):
    """Turn heads by their positions in one loop.

    A rotary embedding joins the halves of a head in the other order, the high one negated.  A
    joined tensor is written to memory, by dispatches of its own.  Here the loop that adds up reads
    each half from where it is; the same operations are done to the same elements.

    Before::

        %l = tensor.extract_slice %x[0, 0, 0] [1, 16, 32] …
        %h = tensor.extract_slice %x[0, 0, 32] [1, 16, 32] …
        %n = linalg.generic ins(%h) … { negf }
        %j = tensor.concat dim(2) %n, %l : … -> tensor<1x16x64xf32>
        %a = linalg.generic ins(%x, %cosines) … { mulf }
        %b = linalg.generic ins(%j, %sines) … { mulf }
        %y = linalg.generic ins(%a, %b) … { addf }

    After::

        %c = tensor.expand_shape %x [[0], [1], [2, 3]] … into tensor<1x16x2x32xf32>
        %y = linalg.generic (s, h, half, i) ins(%c, %cosines, %sines) …
               { tensor.extract %c[%s, %h, 1 - %half, %i], negf, select, mulf, mulf, addf }

    Parameters
    ----------
    unit : str
        The vector unit of a CPU; for a GPU, or ``none``, nothing is changed.
    """

    unit: tiles.Unit = "none"
    name: ClassVar[str] = "lowc-fuse-rotations"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Rewrite every rotation."""
        if self.unit not in tiles.ISAS:
            return
        for op in annotations.operations(module):
            found = match(op)
            if found is not None:
                remark(RemarkKind.APPLIED, op, "", "a rotation became one loop")
                rewrite(found)


def match(op: Any) -> Rotation | None:
    """Describe the rotation whose last operation is `op`, or return None.  Changes nothing."""
    added = step_of(op, ("arith.addf",), 2)
    if added is None or not all(is_whole(map_, added.maps[2]) for map_ in added.maps):
        return None
    for one, other in ((0, 1), (1, 0)):
        straight, turned = (_factors(op.operands[place]) for place in (one, other))
        if straight is None or turned is None:
            continue
        for x, cosines in (straight, straight[::-1]):
            for joined, sines in (turned, turned[::-1]):
                whole = all(map(_is_read_in_place, (x, joined)))
                source = turned_by(defining(joined[0]))
                is_turned = source is not None and source == x[0] and _is_f32(source)
                if whole and is_turned and all(map(_is_cut, (cosines, sines))):
                    return Rotation(op, x[0], (cosines, sines))
    return None


_Read = tuple[ir.Value, ir.AffineMap]


def _factors(value: ir.Value) -> tuple[_Read, _Read] | None:
    """Return what is multiplied element by element, and how both are read."""
    op = defining(value)
    step = step_of(op, ("arith.mulf",), 2)
    if step is None or not is_whole(step.maps[2], step.maps[2]) or not _is_f32(value):
        return None
    if {*step.operations[0].operands} != {*step.arguments}:
        return None
    one, other, _ = step.maps
    return (op.operands[0], one), (op.operands[1], other)


def _is_read_in_place(read: _Read) -> bool:
    _, map_ = read
    return is_whole(map_, map_)


def _is_cut(read: _Read) -> bool:
    """Whether a factor has an element for each place of the last loop, so that it has halves."""
    value, map_ = read
    places = list(map_.results)
    return _is_f32(value) and places[-1:] == [ir.AffineExpr.get_dim(map_.n_dims - 1)]


def _is_f32(value: ir.Value) -> bool:
    return (
        isinstance(value.type, ir.RankedTensorType) and build.element_of(value) == ir.F32Type.get()
    )


def turned_by(op: Any) -> ir.Value | None:
    """Return the tensor whose negated high half `op` joins with its low half, if it does that."""
    if op is None or op.name != "tensor.concat" or len(op.operands) != 2:
        return None
    shape = build.shape_of(op.results[0])
    last, size = len(shape) - 1, shape[-1]
    if ir.IntegerAttr(op.attributes["dim"]).value != last or size == build.DYNAMIC or size % 2:
        return None
    negated, low = map(defining, op.operands)
    step = step_of(negated, ("arith.negf",), 1)
    if step is None or not is_whole(*step.maps) or low is None:
        return None
    x = low.operands[0] if low.operands else None
    if x is None or x.type != op.results[0].type:
        return None
    halves = _is_half(negated.operands[0], x, size // 2) and _is_half(op.operands[1], x, 0)
    return x if halves else None


def _is_half(value: ir.Value, x: ir.Value, start: int) -> bool:
    """Whether `value` are the elements from `start` on of half of the last dimension of `x`."""
    op = defining(value)
    if op is None or op.name != "tensor.extract_slice" or op.operands[0] != x:
        return False
    shape = build.shape_of(x)
    if build.shape_of(value) != [*shape[:-1], shape[-1] // 2]:
        return False
    offsets, strides = (
        list(ir.DenseI64ArrayAttr(op.attributes[f"static_{part}"]))
        for part in ("offsets", "strides")
    )
    # What is whole begins at 0; sizes that are not known were compared by their owner's verifier.
    return offsets == [0] * (len(shape) - 1) + [start] and strides == [1] * len(shape)


def rewrite(found: Rotation) -> None:
    """Put one loop into the place of the rotation."""
    op, shape = found.op, build.shape_of(found.x)
    last, half = len(shape) - 1, shape[-1] // 2
    with ir.InsertionPoint(op), op.location:
        cut = [build.expand_last(value, 2, half, len(build.shape_of(value)) - 1)
               for value in (found.x, *(factor for factor, _ in found.factors))]  # fmt: skip
        loops = last + 2
        maps = [build.identity_map(loops), *(_cut_map(map_) for _, map_ in found.factors)]

        def body(value: ir.Value, cosine: ir.Value, sine: ir.Value, _: ir.Value) -> ir.Value:
            places = [build.loop_index(loop) for loop in range(loops)]
            half_number = places[last]
            other = [*places[:last], arith.subi(build.index(1), half_number), places[-1]]
            element = tensor.extract(cut[0], other)
            is_low = arith.cmpi(arith.CmpIPredicate.eq, half_number, build.index(0))
            turned = arith.select(is_low, arith.negf(element), element)
            return arith.addf(arith.mulf(value, cosine), arith.mulf(turned, sine))

        made = build.elementwise(cut, ir.F32Type.get(), body, maps)
        joined = build.collapse(made.result, [*[[i] for i in range(last)], [last, last + 1]])
    op.results[0].replace_all_uses_with(joined)
    op.erase()


def _cut_map(map_: ir.AffineMap) -> ir.AffineMap:
    """Return how a factor is read once its last dimension is cut in two."""
    loops = map_.n_dims + 1
    half, inside = ir.AffineExpr.get_dim(loops - 2), ir.AffineExpr.get_dim(loops - 1)
    return ir.AffineMap.get(loops, 0, [*list(map_.results)[:-1], half, inside])
