"""Rows of a key-value cache as vectors of f32, in whatever format it is stored.

``passes/cache_rows.py`` and ``cache_blocks.py`` say how the tensors of a format lie; the numbers
are those of ``passes/formats/caches.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from iree.compiler import ir
from iree.compiler.dialects import arith, scf

from ..formats.caches import BLOCK, LARGEST
from . import emit
from .executable import Interface

Get = Callable[[int, int], ir.Value]  # the vector of a row's channels from one on

_DYNAMIC = ir.ShapedType.get_dynamic_size()
_LINE = 64  # bytes


@dataclass(frozen=True)
class Heads:
    """Which rows there are: so many of `width` channels, read in vectors of `lanes`."""

    heads: int
    width: int
    lanes: int

    def fits(self, name: str) -> bool:
        """Whether rows of a format fall into whole vectors."""
        part = self.width // 2 if name == "i4" else self.width
        return part % self.lanes == 0 and (name != "i4" or self.width % 2 == 0)


class Rows:
    """A cache whose rows stand each for itself: f32, f16, i8, or i4 as values have it."""

    bindings: ClassVar[dict[str, int]] = {"f32": 1, "f16": 1, "i8": 2, "i4": 3}

    def __init__(
        self, name: str, of: Heads, interface: Interface, first: int, filled: ir.Value
    ) -> None:
        self.name, self.of, self.f32 = name, of, ir.F32Type.get()
        i8 = emit.integer(8)
        width = of.width // 2 if name == "i4" else of.width
        element = {"f32": self.f32, "f16": ir.F16Type.get()}.get(name, i8)
        self.line = _LINE * 8 // element.width
        self.stored = width
        self.codes = interface.buffer(
            first, emit.buffer_type([_DYNAMIC, of.heads, width], element), [filled], is_input=True
        )
        of_rows = emit.buffer_type([_DYNAMIC, of.heads], self.f32)
        self.of_rows = [
            interface.buffer(first + number, of_rows, [filled], is_input=True)
            for number in range(1, self.bindings[name])
        ]

    def vectors(self, place: ir.Value, head: ir.Value, starts: Sequence[int]) -> list[ir.Value]:
        """Return the vectors that begin at channels `starts` of the row at `place`."""
        lanes = self.of.lanes
        shared = [emit.broadcast_scalar(lanes, source, [place, head]) for source in self.of_rows]
        return [self._vector(place, head, start, shared) for start in starts]

    def _vector(
        self, place: ir.Value, head: ir.Value, start: int, shared: Sequence[ir.Value]
    ) -> ir.Value:
        lanes = self.of.lanes
        at = [place, head, emit.index(start % self.stored)]
        loaded: ir.Value = emit.load(lanes, self.codes, at)
        wide = emit.vector_type(lanes, self.f32)
        if self.name == "f32":
            return loaded
        if self.name == "f16":
            return arith.extf(wide, loaded)
        if self.name == "i8":
            signed = arith.extsi(emit.vector_type(lanes, emit.integer(32)), loaded)
            return arith.mulf(arith.sitofp(wide, signed), shared[0])
        codes = nibbles(loaded, lanes, is_high=start >= self.stored)
        return emit.multiply_add(codes, shared[0], shared[1])

    def tile(self, places: Sequence[ir.Value], head: ir.Value, scratch: ir.Value | None) -> Get:
        """Return how the rows at `places` are read, made f32 once if there is `scratch`."""
        if scratch is None:
            return lambda j, start: self.vectors(places[j], head, [start])[0]
        starts = range(0, self.of.width, self.of.lanes)
        for j, place in enumerate(places):
            for start, value in zip(starts, self.vectors(place, head, starts), strict=True):
                emit.store(value, scratch, [emit.index(j), emit.index(start)])
        return _from(scratch, self.of.lanes)

    def ask(self, place: ir.Value, head: ir.Value, starts: range) -> None:
        """Ask for the lines that channels from the first to the last of `starts` are in."""
        first, stop = starts.start % self.stored, min(self.stored, starts.stop)
        for at in range(first, max(stop, first + 1), self.line):
            emit.prefetch(self.codes, [place, head, emit.index(at)])


class Blocks:
    """Keys in 4 bits for each channel and block of tokens, the newest block in f32."""

    bindings = 5

    def __init__(self, of: Heads, interface: Interface, first: int, filled: ir.Value) -> None:
        self.of, self.f32 = of, ir.F32Type.get()
        half = of.width // 2
        blocks = arith.ceildivui(filled, emit.index(BLOCK))
        codes = emit.buffer_type([_DYNAMIC, BLOCK, of.heads, half], emit.integer(8))
        of_channels = emit.buffer_type([_DYNAMIC, of.heads, of.width], self.f32)
        newest = emit.buffer_type([BLOCK, of.heads, of.width], self.f32)
        number = emit.buffer_type([1], emit.integer(32))
        self.half = half
        self.codes = interface.buffer(first, codes, [blocks], is_input=True)
        self.scales = interface.buffer(first + 1, of_channels, [blocks], is_input=True)
        self.least = interface.buffer(first + 2, of_channels, [blocks], is_input=True)
        self.newest = interface.buffer(first + 3, newest, [], is_input=True)
        held = interface.buffer(first + 4, number, [], is_input=True)
        self.number = arith.index_cast(ir.IndexType.get(), emit.load_scalar(held, [emit.index(0)]))

    def tile(self, places: Sequence[ir.Value], head: ir.Value, scratch: ir.Value | None) -> Get:
        """Make the rows at `places`, which are of one block, f32 in `scratch`."""
        assert scratch is not None  # noqa: S101  (for mypy)
        lanes, block = self.of.lanes, emit.index(BLOCK)
        here = arith.divui(places[0], block)
        rows = [arith.remui(place, block) for place in places]
        is_newest = arith.cmpi(arith.CmpIPredicate.eq, here, self.number)
        starts = range(0, self.of.width, lanes)
        branch = scf.IfOp(is_newest, has_else=True)
        with ir.InsertionPoint(branch.then_block):
            for j, row in enumerate(rows):
                for start in starts:
                    at = emit.index(start)
                    value = emit.load(lanes, self.newest, [row, head, at])
                    emit.store(value, scratch, [emit.index(j), at])
            scf.YieldOp([])
        with ir.InsertionPoint(branch.else_block):
            for start in starts:
                self._decode(start, [here, *rows], head, scratch)
            scf.YieldOp([])
        return _from(scratch, lanes)

    def _decode(
        self, start: int, places: Sequence[ir.Value], head: ir.Value, scratch: ir.Value
    ) -> None:
        lanes, (block, *rows) = self.of.lanes, places
        at = emit.index(start)
        scales, least = (
            emit.load(lanes, source, [block, head, at]) for source in (self.scales, self.least)
        )
        for j, row in enumerate(rows):
            loaded = emit.load(lanes, self.codes, [block, row, head, emit.index(start % self.half)])
            codes = nibbles(loaded, lanes, is_high=start >= self.half)
            emit.store(emit.multiply_add(codes, scales, least), scratch, [emit.index(j), at])

    def ask(self, place: ir.Value, head: ir.Value, starts: range) -> None:
        """Ask for the codes of a row."""
        block = emit.index(BLOCK)
        at = [arith.divui(place, block), arith.remui(place, block), head, emit.index(0)]
        emit.prefetch(self.codes, at)


Reader = Rows | Blocks


def keys(name: str, of: Heads, interface: Interface, first: int, filled: ir.Value) -> Reader:
    """Return the reader of keys in a format, whose buffers begin at binding `first`."""
    if name == "i4":
        return Blocks(of, interface, first, filled)
    return Rows(name, of, interface, first, filled)


def bindings_of_keys(name: str) -> int:
    """Return how many buffers keys in a format have."""
    return Blocks.bindings if name == "i4" else Rows.bindings[name]


def nibbles(loaded: ir.Value, lanes: int, *, is_high: bool) -> ir.Value:
    """Return the low or the high halves of bytes as f32."""
    i32 = emit.integer(32)
    wide = arith.extui(emit.vector_type(lanes, i32), loaded)
    if is_high:
        codes = arith.shrui(wide, emit.splat(lanes, i32, 4))
    else:
        codes = arith.andi(wide, emit.splat(lanes, i32, LARGEST))
    return arith.sitofp(emit.vector_type(lanes, ir.F32Type.get()), codes)


def _from(scratch: ir.Value, lanes: int) -> Get:
    return lambda j, start: emit.load(lanes, scratch, [emit.index(j), emit.index(start)])
