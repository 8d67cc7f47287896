"""Codes of small floats, out of the words of a panel: fp8, ``f4E2M1`` and ``nf4`` made f32.

Codes of 4 bits are looked up: 16 values are one vector register, or two of 8, and ``vpermps``
takes from it by the low bits of each lane.  A unit without such an instruction reads a table in
memory, lane by lane.

fp8, and ``f4E2M1`` where there is no look-up, are moved to where f32 has exponent and mantissa,
below a constant high part of the exponent.  What was stored as subnormal then counts as having a
leading 1, one binade too low: with L the smallest number that was stored as normal, and v what the
pattern stands for now, ``min(v, 2 v - L)`` is right for both.  All of that is exact, and no operand
is subnormal in f32, so it does not matter whether the processor flushes those.  Values come out too
small by a power of two, which goes into the scale.  That is exact too, but a scale of f8E5M2 above
2^112, of weights above 2^127.8, becomes infinite.

The definition is ``formats/small_floats.py``.  Patterns of infinity and NaN are none that a weight
has; they get finite values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from iree.compiler import ir
from iree.compiler.dialects import arith, memref, vector

from ..formats.small_floats import SMALL_FLOATS, Minifloat, SmallFloat
from . import emit
from .packed_codes import MANTISSA, Decoder, PackedCodes

WIDE, NARROW = 16, 8  # lanes of AVX-512 and AVX2; fewer are the portable form
SIGN = 31  # its bit in f32
BIAS = 127


@dataclass(frozen=True)
class SmallFloatCodes(PackedCodes):
    """Chunks of codes that are patterns of a float or places in a table.

    Attributes
    ----------
    format : str
        A key of :data:`..formats.small_floats.SMALL_FLOATS`.
    """

    format: str = field(kw_only=True)

    @classmethod
    def of(cls, name: str, lanes: int) -> SmallFloatCodes:
        """Return the codes of the format `name` for vectors of `lanes`.

        Codes of 4 and 8 bits lie in the same order in chunks of any length.  In a short one LLVM
        has little that it could decode long before it is used, and so keep on the stack.
        """
        return cls(SMALL_FLOATS[name].bits, 16 if lanes == WIDE else 8, format=name)

    @property
    def name(self) -> str:
        """The format in a symbol."""
        return self.format

    @property
    def small(self) -> SmallFloat:
        """The format's definition."""
        return SMALL_FLOATS[self.format]

    def is_looked_up(self, lanes: int) -> bool:
        """Whether values come from a table on vectors of `lanes`."""
        return not isinstance(self.small, Minifloat) or (self.bits == 4 and lanes >= NARROW)

    def describe(self, lanes: int) -> str:
        """Say how codes are decoded on vectors of `lanes`."""
        if not self.is_looked_up(lanes):
            return f"{self.format} decoded by shifts"
        place = "registers" if lanes >= NARROW else "memory"
        return f"{self.format} looked up in {place}"

    def power(self, lanes: int) -> int:
        """Return by which power of two decoded weights are too small on vectors of `lanes`."""
        if self.is_looked_up(lanes):
            return 0
        assert isinstance(self.small, Minifloat)  # noqa: S101  (for mypy: others are looked up)
        return BIAS - self.small.bias - _high_exponent(self.small)


def _high_exponent(fmt: Minifloat) -> int:
    """Return the largest exponent field of f32 below the bias that leaves the stored bits free."""
    free = fmt.bits - 1 - fmt.mantissa_bits
    return (BIAS - fmt.bias) >> free << free


class SmallFloatDecoding:
    """What every chunk of a kernel needs to decode `codes` on vectors of `lanes`.

    Built at the start of the function: a table in memory is written once.
    """

    def __init__(self, codes: SmallFloatCodes, lanes: int) -> None:
        self.codes, self.lanes = codes, lanes
        self.tables: list[ir.Value] = []
        if not codes.is_looked_up(lanes):
            return
        values = codes.small.decode(np.arange(1 << codes.bits, dtype=np.uint8))
        parts = [values[i : i + lanes] for i in range(0, len(values), lanes)]
        self.tables = [_constant(part) for part in parts]
        if lanes < NARROW:
            self.tables = [_in_memory(self.tables, lanes)]

    def decoder(self, words: Sequence[ir.Value]) -> Decoder:
        """Return the weights of one chunk, given its words."""
        if self.tables:
            return _LookUp(self, words)
        return _Pattern(self, words)


def _constant(values: np.ndarray) -> ir.Value:
    type_ = emit.vector_type(len(values), ir.F32Type.get())
    return arith.constant(type_, ir.DenseElementsAttr.get(np.ascontiguousarray(values), type=type_))


def _in_memory(parts: Sequence[ir.Value], lanes: int) -> ir.Value:
    table = emit.scratch([len(parts) * lanes], ir.F32Type.get())
    for i, part in enumerate(parts):
        emit.store(part, table, [emit.index(i * lanes)])
    return table


class _Chunk:
    """The codes of one chunk of one vector of columns."""

    def __init__(self, decoding: SmallFloatDecoding, words: Sequence[ir.Value]) -> None:
        self.decoding, self.words = decoding, words
        self.codes, self.lanes = decoding.codes, decoding.lanes
        self.type = emit.vector_type(self.lanes, ir.F32Type.get())

    def moved(self, k: int, place: int) -> ir.Value:
        """Return the `k`-th code with its lowest bit at bit `place`, other codes around it."""
        (where,) = self.codes.fields(k)
        word, by = self.words[where.word], place - where.bit
        if not by:
            return word
        amount = self.splat(abs(by))
        return arith.shli(word, amount) if by > 0 else arith.shrui(word, amount)

    def splat(self, pattern: int) -> ir.Value:
        """Return a vector of integers."""
        return emit.splat(self.lanes, emit.integer(32), pattern)


class _LookUp(_Chunk):
    """Values from the table; ``vpermps`` reads no more bits of a lane than a place has."""

    def value(self, k: int) -> ir.Value:
        """Return the `k`-th weight of the chunk before its scale."""
        tables, place = self.decoding.tables, self.moved(k, 0)
        if self.lanes == WIDE:
            name = "llvm.x86.avx512.permvar.sf.512"
            return emit.intrinsic(name, [tables[0], place], self.type)
        if self.lanes == NARROW:
            low, high = (
                emit.intrinsic("llvm.x86.avx2.permps", [table, place], self.type)
                for table in tables
            )
            # The highest bit of the place is the lane's sign, which is what a blend looks at.
            top = self.moved(k, 32 - self.codes.bits)
            is_high = arith.cmpi(arith.CmpIPredicate.slt, top, self.splat(0))
            return arith.select(is_high, high, low)
        return self._gathered(tables[0], arith.andi(place, self.splat(15)))

    def _gathered(self, table: ir.Value, places: ir.Value) -> ir.Value:
        """Read lane by lane: LLVM has no look-up in registers that every processor can do."""
        found = []
        for lane in range(self.lanes):
            place = arith.index_castui(ir.IndexType.get(), vector.extract(places, [], [lane]))
            found.append(memref.load(table, [place]))
        return vector.from_elements(self.type, found)


class _Pattern(_Chunk):
    """Values calculated from patterns, too small by 2 to :meth:`SmallFloatCodes.power`."""

    def value(self, k: int) -> ir.Value:
        """Return the `k`-th weight of the chunk before its scale."""
        fmt = self.codes.small
        assert isinstance(fmt, Minifloat)  # noqa: S101  (for mypy: others are looked up)
        i32 = emit.vector_type(self.lanes, emit.integer(32))
        lowest, high = MANTISSA - fmt.mantissa_bits, _high_exponent(fmt)
        magnitude = self.splat(((1 << (fmt.bits - 1)) - 1) << lowest)
        kept = arith.andi(self.moved(k, lowest), magnitude)
        pattern = arith.ori(kept, self.splat(high << MANTISSA))
        read = vector.bitcast(self.type, pattern)
        smallest = emit.splat(self.lanes, ir.F32Type.get(), -(2.0 ** (high + 1 - BIAS)))
        two = emit.splat(self.lanes, ir.F32Type.get(), 2.0)
        no_nan = arith.FastMathFlags.nnan
        value = arith.minnumf(read, emit.multiply_add(read, two, smallest), fastmath=no_nan)
        sign = arith.andi(self.moved(k, SIGN + 1 - fmt.bits), self.splat(1 << SIGN))
        return vector.bitcast(self.type, arith.ori(vector.bitcast(i32, value), sign))
