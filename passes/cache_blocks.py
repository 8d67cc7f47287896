"""Keys in 4 bits for each channel and block of tokens: how they are stored, written and read.

:class:`.formats.caches.KeyBlocks` is the definition.  With ``half = ceil(width / 2)`` a cache f32
``[positions, heads, width]`` becomes::

    codes   i8  [blocks, 32, heads, half]      two codes in a byte
    scales  f32 [blocks, heads, 2, half]
    least   f32 [blocks, heads, 2, half]
    newest  f32 [32, heads, 2, half]           the block that is written to
    number  i32 [1]                            which one that is

What reads them ends in an operation marked as ``lowc.cache``, whose inputs are these tensors (of
the first three, the blocks that are read) and whose result is f32 ``[blocks, 32, heads, 2, half]``.
"""

from collections.abc import Sequence

from iree.compiler import ir
from iree.compiler.dialects import arith, linalg, tensor

from . import annotations, build
from .build import Part
from .cache_rows import Shapes, joined, nibble, packed, ranged_code, ranged_value, ranges
from .formats.caches import BLOCK

NAME = "i4 by channels"


def parts_of(shape: Sequence[int]) -> Shapes:
    """Return the tensors that a cache of `shape` is stored in: their shapes and elements."""
    positions, heads, width = shape
    blocks, half = -(-positions // BLOCK), -(-width // 2)
    f32, of_channels = ir.F32Type.get(), [blocks, heads, 2, half]
    i8, i32 = (ir.IntegerType.get_signless(bits) for bits in (8, 32))
    return {
        "codes": ([blocks, BLOCK, heads, half], i8),
        "scales": (of_channels, f32),
        "least": (of_channels, f32),
        "newest": ([BLOCK, heads, 2, half], f32),
        "number": ([1], i32),
    }


def write(
    parts: Sequence[ir.Value], rows: ir.Value, start: int | ir.Value, size: int | ir.Value
) -> list[ir.Value]:
    """Return the tensors of a cache after f32 `rows` ``[tokens, heads, width]`` were written.

    As with ``tensor.insert_slice``, `size` says how many of them.
    """
    codes, scales, least, newest, number = parts
    blocks, _, heads, half = build.shape_of(codes)
    place = _Place(start, size, blocks)
    kept = _block(parts, place.first)
    made = _rows_in_blocks(rows, kept, place, [heads, 2, half])
    low, steps, factors = ranges(made, [-4])
    maps = [build.identity_map(5), *[build.dims_map(5, (0, 2, 3, 4))] * 2]
    i32 = ir.IntegerType.get_signless(32)
    coded = packed(build.elementwise([made, low, factors], i32, ranged_code, maps).result)
    count = place.count
    whole = Part((place.last_of_count, 0, 0, 0, 0), (1, BLOCK, heads, 2, half))
    last = build.drop_units(build.cut(made, whole), [0])
    filler = arith.index_cast(i32, place.last)
    made = [coded, steps, low]
    if place.is_none is None:
        numbered = linalg.fill(filler, outs=[build.empty([1], i32)])
    else:  # nothing is written, and what is there stays
        count, is_none = arith.select(place.is_none, _i(0), place.count), place.is_none
        made = [build.cut(one, _blocks(one, 0, count)) for one in made]

        def body(old: ir.Value, new: ir.Value, _out: ir.Value) -> ir.Value:
            return arith.select(is_none, old, new)

        last = build.elementwise([newest, last], ir.F32Type.get(), body).result
        numbered = build.elementwise(
            [number], i32, lambda old, _: arith.select(is_none, old, filler)
        ).result
    pairs = zip(made, (codes, scales, least), strict=True)
    written = [build.put(one, old, _blocks(one, place.first, count)) for one, old in pairs]
    return [*written, last, numbered]


def _blocks(value: ir.Value, first: int | ir.Value, count: int | ir.Value) -> Part:
    """Return so many blocks of `value` from the first one on."""
    inner = build.shape_of(value)[1:]
    return Part((first, *[0] * len(inner)), (count, *inner))


def read(parts: Sequence[ir.Value], width: int, part: Part | None, positions: int) -> ir.Value:
    """Return `part` of a cache ``[positions, heads, width]``, or all of it, in f32."""
    codes, scales, least, newest, number = parts
    blocks, _, heads, half = build.shape_of(codes)
    part = part or Part((0, 0, 0), (positions, heads, width))
    end = _sum(part.offsets[0], part.sizes[0])
    count = -(-end // BLOCK) if isinstance(end, int) else arith.ceildivui(end, _i(BLOCK))
    if count != blocks:
        codes = build.cut(codes, Part((0, 0, 0, 0), (count, BLOCK, heads, half)))
        scales, least = (
            build.cut(one, Part((0, 0, 0, 0), (count, heads, 2, half))) for one in (scales, least)
        )
    whole = _values([codes, scales, least, newest, number], build.index(0))
    flat = joined(build.collapse(whole, [[0, 1], [2], [3], [4]]), width)
    is_all = (list(part.offsets), list(part.sizes)) == ([0, 0, 0], build.shape_of(flat))
    return flat if is_all else build.cut(flat, part)


class _Place:
    """Which blocks `size` rows from `start` on are in: the first one and how many.

    ``before`` is how many rows of the first block come before them.  ``is_none`` says whether there
    are none, which count as one block; it is None of a single row.
    """

    def __init__(self, start: int | ir.Value, size: int | ir.Value, blocks: int) -> None:
        begin, count = (_i(one) if isinstance(one, int) else one for one in (start, size))
        block, final, one = _i(BLOCK), _i(blocks - 1), _i(1)
        # What is written lies in the cache; only no rows at all may begin behind it.
        self.first = arith.minui(arith.divui(begin, block), final)
        self.before = arith.subi(begin, arith.muli(self.first, block))
        self.after = arith.addi(self.before, count)
        self.last, self.last_of_count = self.first, _i(0)
        self.count: int | ir.Value = 1
        self.is_none: ir.Value | None = None
        if size == 1:
            return
        self.is_none = arith.cmpi(arith.CmpIPredicate.eq, count, _i(0))
        end = arith.divui(arith.subi(arith.maxui(arith.addi(begin, count), one), one), block)
        self.last = arith.maxui(arith.minui(end, final), self.first)
        self.last_of_count = arith.subi(self.last, self.first)
        self.count = arith.addi(self.last_of_count, one)


def _block(parts: Sequence[ir.Value], number: ir.Value) -> ir.Value:
    """Return one block as it is read: f32 ``[BLOCK, heads, 2, half]``."""
    codes, scales, least, *rest = parts
    _, _, heads, half = build.shape_of(codes)
    of_channels = Part((number, 0, 0, 0), (1, heads, 2, half))
    one = [
        build.cut(codes, Part((number, 0, 0, 0), (1, BLOCK, heads, half))),
        build.cut(scales, of_channels), build.cut(least, of_channels),
    ]  # fmt: skip
    return build.drop_units(_values([*one, *rest], number), [0])


def _values(parts: Sequence[ir.Value], first: ir.Value) -> ir.Value:
    """Return what blocks from `first` on are read as: f32 ``[blocks, 32, heads, 2, half]``."""
    codes = parts[0]
    count, block, heads, half = build.shape_of(codes)
    init = build.empty([count, block, heads, 2, half], ir.F32Type.get(), build.dynamic_sizes(codes))
    of_channels = build.dims_map(5, (0, 2, 3, 4))
    maps = [
        build.dims_map(5, (0, 1, 2, 4)), of_channels, of_channels, build.dims_map(5, (1, 2, 3, 4)),
        ir.AffineMap.get(5, 0, [ir.AffineConstantExpr.get(0)]), build.identity_map(5),
    ]  # fmt: skip

    def body(
        code: ir.Value,
        scale: ir.Value,
        least: ir.Value,
        new: ir.Value,
        number: ir.Value,
        _out: ir.Value,
    ) -> ir.Value:
        value = ranged_value(nibble(code, build.loop_index(3)), scale, least)
        here = arith.addi(build.loop_index(0), first)
        is_newest = arith.cmpi(arith.CmpIPredicate.eq, arith.index_cast(number.type, here), number)
        return arith.select(is_newest, new, value)

    made = build.generic(parts, init, maps, ["parallel"] * 5, body)
    annotations.set_text(made.operation, annotations.CACHE, NAME)
    result: ir.Value = made.result
    return result


def _rows_in_blocks(
    rows: ir.Value, kept: ir.Value, place: _Place, inner: Sequence[int]
) -> ir.Value:
    """Return whole blocks f32 ``[count, BLOCK, heads, 2, half]``.

    What comes before the rows in the first block is `kept`, what comes behind them is zero.
    """
    tokens, _heads, width = build.shape_of(rows)
    half = inner[-1]
    if tokens == 1:
        return _row_in_block(rows, kept, place.before, inner)
    f32, count = ir.F32Type.get(), place.count
    shape = [count if isinstance(count, int) else build.DYNAMIC, BLOCK, *inner]
    init = build.empty(shape, f32, [] if isinstance(count, int) else [count])
    maps = [build.dims_map(5, (1, 2, 3, 4)), build.identity_map(5)]
    most = arith.maxsi(arith.subi(build.dim(rows, 0), _i(1)), _i(0))

    def body(old: ir.Value, _out: ir.Value) -> ir.Value:
        b, g, h, side, i = (build.loop_index(loop) for loop in range(5))
        at = arith.addi(arith.muli(b, _i(BLOCK)), g)
        channel = arith.addi(arith.muli(side, _i(half)), i)
        token = arith.minsi(arith.maxsi(arith.subi(at, place.before), _i(0)), most)
        new = tensor.extract(rows, [token, h, arith.minui(channel, _i(width - 1))])
        less, zero = arith.CmpIPredicate.ult, arith.constant(f32, 0.0)
        is_there = arith.andi(
            arith.cmpi(less, at, place.after), arith.cmpi(less, channel, _i(width))
        )
        return arith.select(
            arith.cmpi(less, at, place.before), old, arith.select(is_there, new, zero)
        )

    found: ir.Value = build.generic([kept], init, maps, ["parallel"] * 5, body).result
    return found


def _row_in_block(
    row: ir.Value, kept: ir.Value, before: ir.Value, inner: Sequence[int]
) -> ir.Value:
    """Do the same for a single row, without looking elements up."""
    width, half = build.shape_of(row)[-1], inner[-1]
    padded = build.pad_end(row, 2, 1) if width % 2 else row
    halves = build.drop_units(build.expand_last(padded, 2, half, 2), [0])
    init = build.empty([1, BLOCK, *inner], ir.F32Type.get())
    maps = [build.dims_map(5, (1, 2, 3, 4)), build.dims_map(5, (2, 3, 4)), build.identity_map(5)]

    def body(old: ir.Value, new: ir.Value, _out: ir.Value) -> ir.Value:
        g, zero = build.loop_index(1), arith.constant(ir.F32Type.get(), 0.0)
        is_here = arith.cmpi(arith.CmpIPredicate.eq, g, before)
        is_before = arith.cmpi(arith.CmpIPredicate.ult, g, before)
        return arith.select(is_before, old, arith.select(is_here, new, zero))

    found: ir.Value = build.generic([kept, halves], init, maps, ["parallel"] * 5, body).result
    return found


def _i(value: int) -> ir.Value:
    return build.index(value)


def _sum(a: int | ir.Value, b: int | ir.Value) -> int | ir.Value:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    if a == 0:
        return b
    return arith.addi(*(_i(one) if isinstance(one, int) else one for one in (a, b)))
