"""Caches whose rows are rounded one by one: how they are stored, written and read, as linalg.

``passes/formats/caches.py`` defines the numbers.  A cache f32 ``[…, width]`` becomes one or more
tensors, whose dimensions but the last are its own::

    f16    halves f16 […, width]
    i8     codes i8 […, width], scales f32 […]
    i4     codes i8 […, ceil(width / 2)], scales f32 […], least f32 […]

What reads them ends in an operation marked as ``lowc.cache``, whose inputs are these tensors, or
the same part of each; of ``i4`` its result is ``[…, 2, ceil(width / 2)]``.
"""

from collections.abc import Callable, Sequence
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith, linalg, math

from . import annotations, build
from .build import Part
from .formats import caches
from .integer_products import code_of, magnitude, reciprocal_of, scale_of

Shapes = dict[str, tuple[list[int], ir.Type]]


def parts_of(name: str, shape: Sequence[int]) -> Shapes:
    """Return the tensors that a cache of `shape` is stored in: their shapes and elements."""
    outer, width = list(shape[:-1]), shape[-1]
    f32, i8 = ir.F32Type.get(), ir.IntegerType.get_signless(8)
    found: dict[str, Shapes] = {
        "f16": {"halves": ([*outer, width], ir.F16Type.get())},
        "i8": {"codes": ([*outer, width], i8), "scales": (outer, f32)},
        "i4": {
            "codes": ([*outer, -(-width // 2)], i8), "scales": (outer, f32), "least": (outer, f32),
        },
    }  # fmt: skip
    return found[name]


def rounded(name: str, rows: ir.Value) -> list[ir.Value]:
    """Return the tensors that f32 `rows` are stored in."""
    return _encoders[name](rows)


def write(parts: Sequence[ir.Value], made: Sequence[ir.Value], part: Part) -> list[ir.Value]:
    """Return the tensors of a cache after what rows were rounded to was written to `part` of it."""
    return [
        build.put(value, old, _of_rank(part, value)) for value, old in zip(made, parts, strict=True)
    ]


def read(name: str, parts: Sequence[ir.Value], width: int, part: Part | None) -> ir.Value:
    """Return `part` of a cache, or all of it, in f32."""
    if part is not None:
        parts = [build.cut(value, _of_rank(part, value)) for value in parts]
    return _decoders[name](parts, width)


def _of_rank(part: Part, value: ir.Value) -> Part:
    """Return the part of one of the tensors: its last dimension is whole, or not there."""
    shape = build.shape_of(value)
    outer = len(part.sizes) - 1
    rest = shape[outer:]
    return Part((*part.offsets[:outer], *(0 for _ in rest)), (*part.sizes[:outer], *rest))


# -- f16 -------------------------------------------------------------------------------------------


def _to_f16(rows: ir.Value) -> list[ir.Value]:
    half = ir.F16Type.get()
    return [build.elementwise([rows], half, lambda x, _: arith.truncf(half, x)).result]


def _from_f16(parts: Sequence[ir.Value], _width: int) -> ir.Value:
    f32 = ir.F32Type.get()
    return _marked("f16", build.elementwise(parts, f32, lambda x, _: arith.extf(f32, x)))


# -- i8 --------------------------------------------------------------------------------------------


def _to_i8(rows: ir.Value) -> list[ir.Value]:
    i32, f32 = ir.IntegerType.get_signless(32), ir.F32Type.get()
    largest = reduced(
        rows, [-1], arith.constant(i32, 0), lambda x, most: arith.maxui(magnitude(x), most)
    )
    scales = build.elementwise([largest], f32, scale_of).result
    factors = build.elementwise([largest], f32, reciprocal_of).result
    maps = _row_maps(rows)
    i8 = ir.IntegerType.get_signless(8)
    return [build.elementwise([rows, factors], i8, code_of, maps).result, scales]


def _from_i8(parts: Sequence[ir.Value], _width: int) -> ir.Value:
    f32 = ir.F32Type.get()

    def body(code: ir.Value, scale: ir.Value, _out: ir.Value) -> ir.Value:
        return arith.mulf(arith.sitofp(f32, code), scale)

    return _marked("i8", build.elementwise(parts, f32, body, _row_maps(parts[0])))


def _row_maps(rows: ir.Value) -> list[ir.AffineMap]:
    rank = len(build.shape_of(rows))
    return [build.identity_map(rank), build.dims_map(rank, range(rank - 1))]


# -- i4 --------------------------------------------------------------------------------------------


def _to_i4(rows: ir.Value) -> list[ir.Value]:
    rank, width = len(build.shape_of(rows)), build.shape_of(rows)[-1]
    least, scales, factors = ranges(rows, [-1])
    whole, outer = _row_maps(rows)
    codes = build.elementwise(
        [rows, least, factors], ir.IntegerType.get_signless(32), ranged_code, [whole, outer, outer]
    ).result
    padded = build.pad_end(codes, rank - 1, 1) if width % 2 else codes
    halved = build.expand_last(padded, 2, -(-width // 2), rank - 1)
    return [packed(halved), scales, least]


def _from_i4(parts: Sequence[ir.Value], width: int) -> ir.Value:
    codes = parts[0]
    rank, half = len(build.shape_of(codes)), build.shape_of(codes)[-1]
    outer = range(rank - 1)
    shape = [*build.shape_of(codes)[:-1], 2, half]
    init = build.empty(shape, ir.F32Type.get(), build.dynamic_sizes(codes))
    maps = [
        build.dims_map(rank + 1, [*outer, rank]), *[build.dims_map(rank + 1, outer)] * 2,
        build.identity_map(rank + 1),
    ]  # fmt: skip

    def body(code: ir.Value, scale: ir.Value, least: ir.Value, _out: ir.Value) -> ir.Value:
        return ranged_value(nibble(code, build.loop_index(rank - 1)), scale, least)

    made = _marked("i4", build.generic(parts, init, maps, ["parallel"] * (rank + 1), body))
    return joined(made, width)


def ranges(x: ir.Value, axes: Sequence[int]) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return the least elements along `axes`, the scales of codes, and what codes are scaled by."""
    f32 = ir.F32Type.get()
    ends = [
        reduced(x, axes, arith.constant(f32, sign * float("inf")), lambda x, y, f=choose: f(x, y))
        for choose, sign in ((arith.minimumf, 1), (arith.maximumf, -1))
    ]

    def scaled(of: Callable[[ir.Value, ir.Value], ir.Value]) -> ir.Value:
        def body(least: ir.Value, most: ir.Value, _out: ir.Value) -> ir.Value:
            extent = arith.subf(most, least)
            smallest = arith.constant(f32, caches.SMALLEST_RANGE)
            is_small = arith.cmpf(arith.CmpFPredicate.OLT, extent, smallest)
            number = of(extent, arith.constant(f32, float(caches.LARGEST)))
            return arith.select(is_small, arith.constant(f32, 0.0), number)

        found: ir.Value = build.elementwise(ends, f32, body).result
        return found

    return ends[0], scaled(arith.divf), scaled(lambda extent, largest: arith.divf(largest, extent))


def ranged_code(x: ir.Value, least: ir.Value, factor: ir.Value, out: ir.Value) -> ir.Value:
    """Return the code 0…15 of an element, as an integer of the type of `out`."""
    f32 = ir.F32Type.get()
    value = arith.mulf(arith.subf(x, least), factor)
    is_nan = arith.cmpf(arith.CmpFPredicate.UNO, value, value)
    value = math.roundeven(arith.select(is_nan, arith.constant(f32, 0.0), value))
    value = arith.minimumf(value, arith.constant(f32, float(caches.LARGEST)))
    return arith.fptosi(out.type, value)


def ranged_value(code: ir.Value, scale: ir.Value, least: ir.Value) -> ir.Value:
    """Return what a code 0…15 (i32) is read as."""
    return arith.addf(arith.mulf(arith.sitofp(ir.F32Type.get(), code), scale), least)


def packed(codes: ir.Value) -> ir.Value:
    """Return codes i32 ``[…, 2, half]`` as bytes ``[…, half]``."""
    *outer, _two, half = build.shape_of(codes)
    rank = len(outer) + 2
    i8 = ir.IntegerType.get_signless(8)
    both = [
        build.cut(codes, Part((0,) * (rank - 2) + (side, 0), (*_sizes(codes)[:-2], 1, half)))
        for side in (0, 1)
    ]
    flat = [build.drop_units(one, [rank - 2]) for one in both]

    def body(low: ir.Value, high: ir.Value, _out: ir.Value) -> ir.Value:
        four = arith.constant(low.type, 4)
        return arith.trunci(i8, arith.ori(low, arith.shli(high, four)))

    found: ir.Value = build.elementwise(flat, i8, body).result
    return found


def nibble(byte: ir.Value, side: ir.Value) -> ir.Value:
    """Return the low bits of a byte where the index `side` is 0, else the high ones, as i32."""
    i32 = ir.IntegerType.get_signless(32)
    four = arith.constant(i32, 4)
    amount = arith.muli(arith.index_cast(i32, side), four)
    moved = arith.shrui(arith.extui(i32, byte), amount)
    return arith.andi(moved, arith.constant(i32, caches.LARGEST))


def joined(value: ir.Value, width: int) -> ir.Value:
    """Return f32 ``[…, 2, half]`` as ``[…, width]``."""
    rank = len(build.shape_of(value))
    whole = build.collapse(value, [*([d] for d in range(rank - 2)), [rank - 2, rank - 1]])
    if build.shape_of(whole)[-1] == width:
        return whole
    return build.cut(whole, Part((0,) * (rank - 1), (*_sizes(whole)[:-1], width)))


# -- parts -----------------------------------------------------------------------------------------


def reduced(
    x: ir.Value, axes: Sequence[int], start: ir.Value, combine: Callable[..., ir.Value]
) -> ir.Value:
    """Return `x` with `axes` (negative numbers) reduced by ``combine(element, so_far)``."""
    shape = build.shape_of(x)
    rank = len(shape)
    gone = {rank + axis for axis in axes}
    kept = [d for d in range(rank) if d not in gone]
    sizes = [build.dim(x, d) for d in kept if shape[d] == build.DYNAMIC]
    empty = build.empty([shape[d] for d in kept], start.type, sizes)
    init = linalg.fill(start, outs=[empty])
    kinds = ["reduction" if d in gone else "parallel" for d in range(rank)]
    maps = [build.identity_map(rank), build.dims_map(rank, kept)]
    found: ir.Value = build.generic([x], init, maps, kinds, combine).result
    return found


def _sizes(value: ir.Value) -> list[int | ir.Value]:
    return [
        build.dim(value, axis) if size == build.DYNAMIC else size
        for axis, size in enumerate(build.shape_of(value))
    ]


def _marked(name: str, op: Any) -> ir.Value:
    annotations.set_text(op.operation, annotations.CACHE, name)
    found: ir.Value = op.result
    return found


_encoders = {"f16": _to_f16, "i8": _to_i8, "i4": _to_i4}
_decoders = {"f16": _from_f16, "i8": _from_i8, "i4": _from_i4}
