"""Build linalg and tensor operations without writing their attributes out each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith, linalg, tensor

DYNAMIC = ir.ShapedType.get_dynamic_size()


def tensor_type(shape: Sequence[int], element: ir.Type) -> ir.RankedTensorType:
    """Return a tensor type; :data:`DYNAMIC` stands for an unknown size."""
    return ir.RankedTensorType.get(list(shape), element)


def shape_of(value: ir.Value) -> list[int]:
    """Return the sizes of a tensor, :data:`DYNAMIC` where unknown."""
    return list(ir.RankedTensorType(value.type).shape)


def element_of(value: ir.Value) -> ir.Type:
    """Return the element type of a tensor."""
    return ir.RankedTensorType(value.type).element_type


def index(value: int) -> ir.Value:
    """Return an index constant."""
    return arith.constant(ir.IndexType.get(), value)


def dim(value: ir.Value, axis: int) -> ir.Value:
    """Return the size of `value` along `axis` as an index."""
    return tensor.dim(value, index(axis))


def empty(shape: Sequence[int], element: ir.Type, dynamic: Sequence[ir.Value] = ()) -> ir.Value:
    """Return ``tensor.empty``; `dynamic` gives the unknown sizes in order."""
    return ir.Operation.create(
        "tensor.empty", results=[tensor_type(shape, element)], operands=list(dynamic)
    ).result


def dynamic_sizes(value: ir.Value) -> list[ir.Value]:
    """Return the unknown sizes of `value` in order, as :func:`empty` takes them."""
    return [dim(value, axis) for axis, size in enumerate(shape_of(value)) if size == DYNAMIC]


def zeros(shape: Sequence[int], element: ir.Type, dynamic: Sequence[ir.Value] = ()) -> ir.Value:
    """Return a tensor of float zeros, as ``linalg.fill``."""
    zero = arith.constant(element, ir.FloatAttr.get(element, 0.0))
    return linalg.fill(zero, outs=[empty(shape, element, dynamic)])


def elementwise(
    inputs: Sequence[ir.Value],
    element: ir.Type,
    body: Callable[..., ir.Value],
    maps: Sequence[ir.AffineMap] | None = None,
) -> Any:
    """Return a ``linalg.generic`` of the shape of the first input that has no reduction.

    `maps` say where each input is read; without them all are read at the same place.  ``body`` gets
    the scalar of each input, and that of the result, which it has no use for.
    """
    shape = shape_of(inputs[0])
    init = empty(shape, element, dynamic_sizes(inputs[0]))
    identity = identity_map(len(shape))
    maps = [*(maps or [identity] * len(inputs)), identity]
    return generic(inputs, init, maps, ["parallel"] * len(shape), body)


def identity_map(loops: int) -> ir.AffineMap:
    """Return the map of a tensor that is read where the loops are."""
    return dims_map(loops, range(loops))


def generic(
    inputs: Sequence[ir.Value],
    init: ir.Value,
    maps: Sequence[ir.AffineMap],
    iterators: Sequence[str],
    body: Callable[..., ir.Value],
) -> Any:
    """Return a ``linalg.generic`` with one result.

    ``body`` gets the scalar of each input and of `init`, and returns the scalar to yield.
    """
    kinds = ir.ArrayAttr.get(
        [ir.Attribute.parse(f"#linalg.iterator_type<{kind}>") for kind in iterators]
    )
    op = linalg.GenericOp(
        [init.type], list(inputs), [init],
        ir.ArrayAttr.get([ir.AffineMapAttr.get(map_) for map_ in maps]), kinds,
    )  # fmt: skip
    scalars = [element_of(value) for value in (*inputs, init)]
    block = op.regions[0].blocks.append(*scalars)
    with ir.InsertionPoint(block):
        linalg.YieldOp([body(*block.arguments)])
    return op


def collapse(value: ir.Value, groups: Sequence[Sequence[int]]) -> ir.Value:
    """Return ``tensor.collapse_shape``; static sizes only in groups of several."""
    shape = shape_of(value)
    sizes = []
    for group in groups:
        size = 1
        for axis in group:
            size = DYNAMIC if DYNAMIC in (size, shape[axis]) else size * shape[axis]
        sizes.append(size)
    return ir.Operation.create(
        "tensor.collapse_shape",
        results=[tensor_type(sizes, element_of(value))],
        operands=[value],
        attributes={"reassociation": _reassociation(groups)},
    ).result


def expand_last(value: ir.Value, outer: int, inner: int, axis: int) -> ir.Value:
    """Split the static dimension `axis` of `value` into ``outer x inner``."""
    shape = shape_of(value)
    result = [*shape[:axis], outer, inner, *shape[axis + 1 :]]
    groups = [[d] if d < axis else [d, d + 1] if d == axis else [d + 1] for d in range(len(shape))]
    dynamic = [dim(value, d) for d, size in enumerate(shape) if size == DYNAMIC]
    return ir.Operation.create(
        "tensor.expand_shape",
        results=[tensor_type(result, element_of(value))],
        operands=[value, *dynamic],
        attributes={
            "reassociation": _reassociation(groups),
            "static_output_shape": ir.DenseI64ArrayAttr.get(result),
        },
    ).result


def pad_end(value: ir.Value, axis: int, count: int) -> ir.Value:
    """Append `count` zeros along the static dimension `axis`."""
    return _pad(value, axis, shape_of(value)[axis] + count, count, [])


def _pad(
    value: ir.Value, axis: int, size: int, count: int, dynamic: Sequence[ir.Value]
) -> ir.Value:
    """Append zeros along `axis`, `count` of them or as many as `dynamic` says."""
    shape = shape_of(value)
    element = element_of(value)
    result = [size if d == axis else old for d, old in enumerate(shape)]
    low, high = [0] * len(shape), [count if d == axis else 0 for d in range(len(shape))]
    op = ir.Operation.create(
        "tensor.pad",
        results=[tensor_type(result, element)],
        operands=[value, *dynamic],
        attributes={
            "static_low": ir.DenseI64ArrayAttr.get(low),
            "static_high": ir.DenseI64ArrayAttr.get(high),
            "operandSegmentSizes": ir.DenseI32ArrayAttr.get([1, 0, len(dynamic)]),
        },
        regions=1,
    )
    block = op.regions[0].blocks.append(*[ir.IndexType.get()] * len(shape))
    with ir.InsertionPoint(block):
        is_integer = isinstance(element, ir.IntegerType)
        zero = arith.constant(element, 0 if is_integer else ir.FloatAttr.get(element, 0.0))
        ir.Operation.create("tensor.yield", operands=[zero])
    return op.result


def with_static_size(value: ir.Value, axis: int, size: int) -> ir.Value:
    """Return `value` with the size of `axis` known; the caller knows that it is `size`."""
    shape = shape_of(value)
    if shape[axis] == size:
        return value
    shape[axis] = size
    return tensor.cast(tensor_type(shape, element_of(value)), value)


def expand(
    value: ir.Value, counts: Sequence[int], sizes: Sequence[ir.Value], known: Sequence[int | None]
) -> ir.Value:
    """Split dimension i of `value` into ``counts[i]`` dimensions; `sizes` has the size of each.

    ``known`` repeats the sizes that are static, with None for the others.
    """
    groups, axis = [], 0
    for count in counts:
        groups.append(list(range(axis, axis + count)))
        axis += count
    static = [DYNAMIC if size is None else size for size in known]
    dynamic = [size for size, number in zip(sizes, known, strict=True) if number is None]
    return ir.Operation.create(
        "tensor.expand_shape",
        results=[tensor_type(static, element_of(value))],
        operands=[value, *dynamic],
        attributes={
            "reassociation": _reassociation(groups),
            "static_output_shape": ir.DenseI64ArrayAttr.get(static),
        },
    ).result


def insert_units(value: ir.Value, at: Sequence[int]) -> ir.Value:
    """Return `value` with dimensions of size 1, which stand at the places `at` of the result."""
    if not at:
        return value
    shape = shape_of(value)
    result, sizes = list(shape), [dim(value, d) for d, n in enumerate(shape) if n == DYNAMIC]
    for place in sorted(at):
        result.insert(place, 1)
    return ir.Operation.create(
        "tensor.expand_shape",
        results=[tensor_type(result, element_of(value))],
        operands=[value, *sizes],
        attributes={
            "reassociation": _reassociation(_with_units(len(result), at) if shape else []),
            "static_output_shape": ir.DenseI64ArrayAttr.get(result),
        },
    ).result


def drop_units(value: ir.Value, at: Sequence[int]) -> ir.Value:
    """Undo :func:`insert_units`."""
    rank = len(shape_of(value))
    if not at:
        return value
    if len(at) == rank:
        return _collapse_all(value)
    return collapse(value, _with_units(rank, at))


def _with_units(rank: int, at: Sequence[int]) -> list[list[int]]:
    """Group the dimensions of size 1 at `at` with a neighbour each."""
    groups: list[list[int]] = []
    leading: list[int] = []
    for axis in range(rank):
        if axis in at:
            (groups[-1] if groups else leading).append(axis)
        else:
            groups.append([*leading, axis])
            leading = []
    return groups


def _collapse_all(value: ir.Value) -> ir.Value:
    return ir.Operation.create(
        "tensor.collapse_shape",
        results=[tensor_type([], element_of(value))],
        operands=[value],
        attributes={"reassociation": _reassociation([])},
    ).result


def split_last(value: ir.Value, inner: int) -> ir.Value:
    """Split the last dimension, a multiple of `inner`, into ``… x inner``."""
    shape = shape_of(value)
    last = len(shape) - 1
    outer = DYNAMIC if shape[last] == DYNAMIC else shape[last] // inner
    values = [dim(value, d) for d in range(last)]
    values += [arith.divui(dim(value, last), index(inner)), index(inner)]
    known = [None if size == DYNAMIC else size for size in (*shape[:last], outer, inner)]
    return expand(value, [1] * last + [2], values, known)


def pad_to_multiple(value: ir.Value, axis: int, multiple: int) -> ir.Value:
    """Append zeros along `axis` until its size is a multiple; the size may be unknown."""
    size = shape_of(value)[axis]
    if size != DYNAMIC:
        missing = -size % multiple
        return pad_end(value, axis, missing) if missing else value
    total = dim(value, axis)
    whole = arith.muli(arith.ceildivui(total, index(multiple)), index(multiple))
    return _pad(value, axis, DYNAMIC, DYNAMIC, [arith.subi(whole, total)])


def reshape(value: ir.Value, shape: Sequence[int], dynamic: Sequence[ir.Value] = ()) -> ir.Value:
    """Return ``flow.tensor.reshape``: any shape of as many elements, for what a kernel reads.

    `dynamic` gives the unknown sizes of the result in order.
    """
    if shape_of(value) == list(shape) and DYNAMIC not in shape:
        return value
    old = dynamic_sizes(value)
    return ir.Operation.create(
        "flow.tensor.reshape",
        results=[tensor_type(shape, element_of(value))],
        operands=[value, *old, *dynamic],
        attributes={
            "operandSegmentSizes": ir.DenseI32ArrayAttr.get([1, len(old), len(dynamic)]),
        },
    ).result


def load_global(symbol: str, type_: ir.Type) -> ir.Value:
    """Return ``util.global.load @symbol``."""
    return ir.Operation.create(
        "util.global.load",
        results=[type_],
        attributes={"global": ir.FlatSymbolRefAttr.get(symbol)},
    ).result


def cut(value: ir.Value, part: Part) -> ir.Value:
    """Return ``tensor.extract_slice``: what `part` says of `value`."""
    static, dynamic, segments = part.attributes()
    return ir.Operation.create(
        "tensor.extract_slice",
        results=[tensor_type(part.shape, element_of(value))],
        operands=[value, *dynamic],
        attributes=static | {"operandSegmentSizes": ir.DenseI32ArrayAttr.get([1, *segments])},
    ).result


def put(value: ir.Value, into: ir.Value, part: Part) -> ir.Value:
    """Return ``tensor.insert_slice``: `into` with `value` in the place that `part` says."""
    static, dynamic, segments = part.attributes()
    return ir.Operation.create(
        "tensor.insert_slice",
        results=[into.type],
        operands=[value, into, *dynamic],
        attributes=static | {"operandSegmentSizes": ir.DenseI32ArrayAttr.get([1, 1, *segments])},
    ).result


@dataclass(frozen=True)
class Part:
    """Neighbouring elements of a tensor: where they begin and how many, numbers or indices."""

    offsets: tuple[int | ir.Value, ...]
    sizes: tuple[int | ir.Value, ...]

    @classmethod
    def of(cls, op: Any, first: int) -> Part | None:
        """Return the part that a slice operation means, whose dynamic operands begin at `first`.

        None if it leaves elements out.
        """
        counts = list(ir.DenseI32ArrayAttr(op.attributes["operandSegmentSizes"]))[-3:]
        dynamic = iter(list(op.operands)[first:])
        offsets, sizes, strides = (
            tuple(
                next(dynamic) if number == DYNAMIC else number
                for number in ir.DenseI64ArrayAttr(op.attributes[f"static_{name}"])
            )
            for name in ("offsets", "sizes", "strides")
        )
        is_dense = not counts[2] and all(stride == 1 for stride in strides)
        return cls(offsets, sizes) if is_dense else None

    @property
    def shape(self) -> list[int]:
        """Sizes as a type has them."""
        return [size if isinstance(size, int) else DYNAMIC for size in self.sizes]

    def attributes(self) -> tuple[dict[str, ir.Attribute], list[ir.Value], list[int]]:
        """Return the static attributes of an operation, its dynamic operands, and their counts."""
        static, dynamic, segments = {}, [], []
        ones = (1,) * len(self.sizes)
        for name, given in (("offsets", self.offsets), ("sizes", self.sizes), ("strides", ones)):
            numbers = [one if isinstance(one, int) else DYNAMIC for one in given]
            static[f"static_{name}"] = ir.DenseI64ArrayAttr.get(numbers)
            found = [one for one in given if not isinstance(one, int)]
            dynamic += found
            segments.append(len(found))
        return static, dynamic, segments


def barrier(value: ir.Value) -> ir.Value:
    """Return `value` behind ``util.optimization_barrier``, which nothing folds or hoists across."""
    return ir.Operation.create(
        "util.optimization_barrier", results=[value.type], operands=[value]
    ).result


def extract(table: ir.Value, places: Sequence[ir.Value]) -> ir.Value:
    """Return the element of a tensor at some indices."""
    return tensor.extract(table, list(places))


def cut_last(value: ir.Value, size: int) -> ir.Value:
    """Return the first `size` elements along the last dimension of `value`."""
    shape = shape_of(value)
    if shape[-1] == size:
        return value
    wanted = [*shape[:-1], size]
    return ir.Operation.create(
        "tensor.extract_slice",
        results=[tensor_type(wanted, element_of(value))],
        operands=[value, *dynamic_sizes(value)],
        attributes={
            "static_offsets": ir.DenseI64ArrayAttr.get([0] * len(shape)),
            "static_sizes": ir.DenseI64ArrayAttr.get(wanted),
            "static_strides": ir.DenseI64ArrayAttr.get([1] * len(shape)),
            "operandSegmentSizes": ir.DenseI32ArrayAttr.get(
                [1, 0, sum(size == DYNAMIC for size in shape), 0]
            ),
        },
    ).result


def convert(value: ir.Value, type_: ir.Type) -> ir.Value:
    """Extend or truncate a float to `type_`."""
    width = value.type.width
    if type_.width == width:
        return value
    return (arith.extf if type_.width > width else arith.truncf)(type_, value)


def loop_index(loop: int) -> ir.Value:
    """Return the index of `loop` inside the body of a linalg op."""
    return linalg.IndexOp(loop).result


def dims_map(loops: int, dims: Sequence[int]) -> ir.AffineMap:
    """Return the map that picks `dims` out of `loops` loop indices."""
    return ir.AffineMap.get(loops, 0, [ir.AffineDimExpr.get(d) for d in dims])


def _reassociation(groups: Sequence[Sequence[int]]) -> ir.ArrayAttr:
    i64 = ir.IntegerType.get_signless(64)
    return ir.ArrayAttr.get(
        [ir.ArrayAttr.get([ir.IntegerAttr.get(i64, axis) for axis in group]) for group in groups]
    )
