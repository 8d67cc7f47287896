"""Recognise matmuls and find the weight in them.

Every ``torch`` linear, mm, bmm, matmul, einsum and attention ends in a linalg contraction: a named
one (``linalg.matmul``, ``batch_matmul``, ``matvec``, ``vecmat`` …) or a generic.  Both operands are
followed back through reshapes, transposes, slices and casts; one that ends in a global is a weight,
and the steps on the way are its *layout*, which a derivation can repeat on the stored bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import linalg

from .base import Refusal

LayoutStep = list[Any]  # ["transpose", [1, 0]], ["reshape", [8, 4]], ["slice", …], ["cast", "f32"]

NO_WEIGHT = "a product of two activations has no weight"
_CASTS = ("arith.extf", "arith.truncf")


@dataclass(frozen=True)
class Contraction:
    """A product of two tensors summed over shared dimensions.

    ``maps`` are the indexing maps of lhs, rhs and result; ``batch``, ``m``, ``n`` and ``k`` are
    loop indices.  ``sizes`` gives every loop's size, None where it is dynamic.
    """

    op: Any
    operands: tuple[ir.Value, ir.Value]
    init: ir.Value
    maps: tuple[ir.AffineMap, ir.AffineMap, ir.AffineMap]
    batch: tuple[int, ...]
    m: tuple[int, ...]
    n: tuple[int, ...]
    k: tuple[int, ...]
    sizes: tuple[int | None, ...]

    def shape_text(self) -> str:
        """Return ``batch x M x N x K``, such as ``12x128x128x32``; ``?`` is dynamic."""
        dims = [*self.batch, *(self.m or ()), *(self.n or ()), *self.k]
        return "x".join("?" if self.sizes[d] is None else str(self.sizes[d]) for d in dims)


@dataclass(frozen=True)
class Weight:
    """The operand of a contraction that is a parameter.

    Attributes
    ----------
    position : int
        0 for lhs, 1 for rhs.
    symbol : str
        The global that holds it.
    layout : tuple of LayoutStep
        From the stored tensor to the operand, without a broadcast in front.
    dims : tuple of int
        Loop index of each dimension of the laid out tensor.
    element : ir.Type
        Element type of the operand as the contraction reads it.
    """

    position: int
    symbol: str
    layout: tuple[LayoutStep, ...]
    shape: tuple[int, ...]
    dims: tuple[int, ...]
    element: ir.Type


def match_contraction(op: Any) -> Contraction | Refusal:
    """Describe `op` as a contraction, or say why it is none.  Changes nothing."""
    name = op.operation.name
    if not name.startswith("linalg.") or len(op.operation.results) != 1:
        return Refusal(f"{name} is no linalg op on tensors")
    if not linalg.isa_contraction_op(op.operation):
        return Refusal(f"{name} is no contraction")
    dims = linalg.infer_contraction_dimensions(op.operation)
    maps = indexing_maps(op)
    if dims is None or len(maps) != 3:
        return Refusal(f"{name} has no plain contraction dimensions")
    lhs, rhs, init = op.operation.operands
    for value in (lhs, rhs, init):
        if not isinstance(value.type, ir.RankedTensorType):
            return Refusal(f"{name} is not on ranked tensors")
    if any(not is_dim(result) for map_ in maps for result in map_.results):
        return Refusal(f"{name} has an index that is not a plain dimension")
    return Contraction(
        op=op,
        operands=(lhs, rhs),
        init=init,
        maps=maps,
        batch=tuple(dims.batch),
        m=tuple(dims.m),
        n=tuple(dims.n),
        k=tuple(dims.k),
        sizes=_loop_sizes(maps, (lhs, rhs, init)),
    )


def match_convolution(op: Any) -> Contraction | Refusal:
    """Describe `op` as a convolution, a sum over windows of products.  Changes nothing.

    ``batch`` are the loops that all three tensors share (depthwise channels, groups), ``m`` those
    of the image (batch, output positions), ``n`` the output channels, ``k`` input channels and
    filter positions.  The first of ``maps``, the image's, has sums of loops in it.
    """
    name = op.operation.name
    if not name.startswith("linalg.") or len(op.operation.results) != 1:
        return Refusal(f"{name} is no linalg op on tensors")
    if not linalg.isa_convolution_op(op.operation) or not multiplies_and_adds(op):
        return Refusal(f"{name} is no convolution")
    dims = linalg.infer_convolution_dimensions(op.operation)
    maps = indexing_maps(op)
    if dims is None or len(maps) != 3:
        return Refusal(f"{name} has no plain convolution dimensions")
    if any(not is_dim(result) for map_ in maps[1:] for result in map_.results):
        return Refusal(f"{name} has a filter or result index that is not a plain dimension")
    lhs, rhs, init = op.operation.operands
    return Contraction(
        op=op,
        operands=(lhs, rhs),
        init=init,
        maps=maps,
        batch=tuple(dims.depth),
        m=(*dims.batch, *dims.output_image),
        n=tuple(dims.output_channel),
        k=(*dims.input_channel, *dims.filter_loop),
        sizes=_loop_sizes(maps, (lhs, rhs, init)),
    )


def match_product(op: Any) -> Contraction | Refusal:
    """Describe `op` as a contraction or a convolution, or say why it is neither."""
    found = match_contraction(op)
    if isinstance(found, Contraction):
        return found
    convolution = match_convolution(op)
    return convolution if isinstance(convolution, Contraction) else found


def multiplies_and_adds(op: Any) -> bool:
    """Whether the body is ``acc + ext(a) * ext(b)`` on floats, and nothing else."""
    if len(op.regions) != 1 or len(op.regions[0].blocks) != 1:
        return False
    block = op.regions[0].blocks[0]
    if len(block.arguments) != 3:
        return False
    a, b, acc = block.arguments
    total = defining(block.operations[len(block.operations) - 1].operation.operands[0])
    if total is None or total.name != "arith.addf":
        return False
    for product, rest in (total.operands, reversed(list(total.operands))):
        factors = defining(product)
        if rest != acc or factors is None or factors.name != "arith.mulf":
            continue
        found = [_unextended(value) for value in factors.operands]
        return found in ([a, b], [b, a])
    return False


def _unextended(value: ir.Value) -> ir.Value:
    op = defining(value)
    return op.operands[0] if op is not None and op.name == "arith.extf" else value


def find_weight(found: Contraction) -> Weight | Refusal:
    """Find the operand that is a parameter.  Changes nothing.

    Refuses a product of two activations, and one of two parameters.
    """
    weights = [
        weight for position in (1, 0) if isinstance(weight := _trace(found, position), Weight)
    ]
    if len(weights) == 2:
        return Refusal("both operands are parameters")
    if not weights:
        return Refusal(NO_WEIGHT)
    return weights[0]


def is_zero_fill(value: ir.Value) -> bool:
    """Whether `value` is a tensor that was filled with zeros."""
    op = defining(value)
    if op is None or op.name != "linalg.fill":
        return False
    filler = defining(op.operands[0])
    if filler is None or filler.name != "arith.constant":
        return False
    number = filler.attributes["value"]
    return isinstance(number, ir.FloatAttr) and number.value == 0


def indexing_maps(op: Any) -> tuple[ir.AffineMap, ...]:
    """Return the indexing maps of a linalg op, one per operand."""
    return tuple(ir.AffineMapAttr(map_).value for map_ in linalg.get_indexing_maps(op.operation))


def dims_of(map_: ir.AffineMap) -> tuple[int, ...]:
    """Return the loop index of each result of a projected permutation."""
    return tuple(ir.AffineDimExpr(result).position for result in map_.results)


def module_path(location: ir.Location) -> str:
    """Return the module path that the frontend put into a location, or ``""``."""
    if isinstance(location, ir.NameLoc):
        return str(location.name_str)
    if isinstance(location, ir.FusedLoc):
        paths = (module_path(part) for part in location.locations)
        return next((path for path in paths if path), "")
    if isinstance(location, ir.CallSiteLoc):
        return module_path(location.callee)
    return ""


def defining(value: ir.Value) -> Any:
    """Return the operation that makes `value`, or None for a block argument."""
    return (
        value.owner
        if isinstance(value.owner, ir.Operation)
        else getattr(value.owner, "operation", None)
    )


def unshaped(value: ir.Value) -> ir.Value:
    """Return the tensor that was cut or joined into `value`."""
    op = defining(value)
    while op is not None and op.name in ("tensor.expand_shape", "tensor.collapse_shape"):
        value = op.operands[0]
        op = defining(value)
    return value


def is_dim(expression: ir.AffineExpr) -> bool:
    """Whether an index is a plain loop dimension."""
    return isinstance(expression, ir.AffineDimExpr)


def _loop_sizes(maps: Sequence[ir.AffineMap], values: Sequence[ir.Value]) -> tuple[int | None, ...]:
    sizes: dict[int, int | None] = {}
    for map_, value in zip(maps, values, strict=True):
        type_ = ir.RankedTensorType(value.type)
        for axis, result in enumerate(map_.results):
            if is_dim(result) and not type_.is_dynamic_dim(axis):
                sizes[ir.AffineDimExpr(result).position] = type_.get_dim_size(axis)
    return tuple(sizes.get(loop) for loop in range(maps[0].n_dims))


def simplify_layout(steps: Sequence[LayoutStep]) -> tuple[LayoutStep, ...]:
    """Merge neighbouring transpositions and reshapes, and drop what changes nothing."""
    kept: list[LayoutStep] = []
    for given in steps:
        step = given
        if kept and kept[-1][0] == step[0] == "transpose":
            inner = kept.pop()[1]
            step = ["transpose", [inner[axis] for axis in step[1]]]
        elif kept and kept[-1][0] == step[0] == "reshape":
            kept.pop()
        if step[0] != "transpose" or step[1] != sorted(step[1]):
            kept.append(step)
    return tuple(kept)


# -- from an operand back to its global ------------------------------------------------------------


def _trace(found: Contraction, position: int) -> Weight | Refusal:
    if not all(is_dim(result) for result in found.maps[position].results):
        return Refusal("the operand is the image of a convolution")
    value, dims = found.operands[position], list(dims_of(found.maps[position]))
    element = ir.RankedTensorType(value.type).element_type
    value, dims = _drop_broadcast(value, dims)
    type_ = ir.RankedTensorType(value.type)
    if not type_.has_static_shape:
        return Refusal("the operand has a dynamic shape")
    shape = tuple(type_.shape)
    steps: list[LayoutStep] = []
    while (op := defining(value)) is not None:
        if op.name == "util.global.load":
            symbol = ir.FlatSymbolRefAttr(op.attributes["global"]).value
            return Weight(position, symbol, tuple(reversed(steps)), shape, tuple(dims), element)
        step = _layout_step(op)
        if step is None:
            break
        if step[0] != "same":
            steps.append(step)
        value = op.operands[0]
    return Refusal("the operand is no parameter")


def _drop_broadcast(value: ir.Value, dims: list[int]) -> tuple[ir.Value, list[int]]:
    """Look through a generic that only repeats its input along whole dimensions."""
    op = defining(value)
    if op is None or op.name not in ("linalg.generic", "linalg.broadcast"):
        return value, dims
    if op.name == "linalg.generic" and _yielded_cast(op) != "same":
        return value, dims
    source, target = indexing_maps(op)
    wanted = dims_of(target)
    if not all(is_dim(result) for result in source.results) or len(source.results) >= len(wanted):
        return value, dims
    kept = [dims[wanted.index(loop)] for loop in dims_of(source)]
    return _drop_broadcast(op.operands[0], kept)


def _layout_step(op: Any) -> LayoutStep | None:
    if op.name == "linalg.transpose":
        return ["transpose", list(ir.DenseI64ArrayAttr(op.attributes["permutation"]))]
    if op.name in ("tensor.collapse_shape", "tensor.expand_shape"):
        type_ = ir.RankedTensorType(op.results[0].type)
        return ["reshape", list(type_.shape)] if type_.has_static_shape else None
    if op.name == "tensor.cast":
        return ["same"] if ir.RankedTensorType(op.operands[0].type).has_static_shape else None
    if op.name == "tensor.extract_slice":
        return _slice_step(op)
    if op.name == "linalg.generic":
        return _generic_step(op)
    return None


def _slice_step(op: Any) -> LayoutStep | None:
    if len(op.operands) > 1:  # dynamic offsets, sizes or strides
        return None
    result = ir.RankedTensorType(op.results[0].type)
    offsets, sizes, strides = (
        list(ir.DenseI64ArrayAttr(op.attributes[f"static_{part}"]))
        for part in ("offsets", "sizes", "strides")
    )
    if result.rank != len(sizes):
        return None
    return ["slice", offsets, sizes, strides]


def _generic_step(op: Any) -> LayoutStep | None:
    """Return the step of a generic that only transposes or casts."""
    cast = _yielded_cast(op)
    maps = indexing_maps(op)
    if cast is None or len(maps) != 2:
        return None
    source, target = maps
    if not all(is_dim(result) for map_ in maps for result in map_.results):
        return None
    source_dims, target_dims = dims_of(source), dims_of(target)
    if sorted(source_dims) != sorted(target_dims):
        return None
    permutation = [source_dims.index(loop) for loop in target_dims]
    if permutation == list(range(len(permutation))):
        return ["same"] if cast == "same" else ["cast", cast]
    return ["transpose", permutation] if cast == "same" else None


def _yielded_cast(op: Any) -> str | None:
    """Return ``same`` if the body yields its input, the element type if it casts it, else None."""
    if op.name != "linalg.generic":
        return "same" if op.name == "linalg.broadcast" else None
    block = op.regions[0].blocks[0]
    body = [inner.operation for inner in block.operations]
    yielded = body[-1].operands[0]
    if len(op.operands) != 2:
        return None
    if len(body) == 1 and yielded == block.arguments[0]:
        return "same"
    if len(body) == 2 and body[0].name in _CASTS and body[0].operands[0] == block.arguments[0]:
        return str(body[0].results[0].type)
    return None
