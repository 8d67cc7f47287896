"""Codes of a few bits, out of the words of a panel: floats without a conversion.

A field of a word that is masked and given the right exponent *is* a float: with the field's lowest
bit at position p of the mantissa, and the exponent of 2^(23-p), the pattern stands for
``2^(23-p) + code``.  Subtracting ``2^(23-p) + zero`` leaves ``code - zero``, exactly.  So a weight
costs one ternary logic instruction and one subtraction; fields above the mantissa share one shift
of their word.

Codes of up to 4 bits with their zero point in the middle may be looked up instead, a shift and one
``vpermps`` in a table of 16.  On Zen 4 that is 1.5 cycles a vector with its multiply-add, against
2.0; on Intel's AVX-512 both are three instructions for two ports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from iree.compiler import ir
from iree.compiler.dialects import arith, vector

from ..formats import panels
from . import emit

MANTISSA = 23
HALF_WORD = 16
PLACES = 16  # of a table in a register of 16 f32


@dataclass(frozen=True)
class Field:
    """Bits of a code from `shift` on: `width` bits of word number `word`, from its bit `bit` on."""

    word: int
    bit: int
    width: int
    shift: int


@dataclass(frozen=True)
class PackedCodes:
    """Chunks of unsigned codes as :func:`..formats.panels.pack_panels` orders them.

    Attributes
    ----------
    bits : int
        Bits of a code, 1 to 8.
    chunk : int
        Weights along K in a chunk.
    looked_up : bool
        Whether codes are looked up; for vectors of 16 and a zero point of ``2^(bits-1)``.
    """

    bits: int
    chunk: int
    looked_up: bool = field(default=False, kw_only=True)

    @property
    def name(self) -> str:
        """The codes' format in a symbol."""
        return f"i{self.bits}{'t' if self.looked_up else ''}"

    @property
    def words(self) -> int:
        """Words of a column in a chunk."""
        return self.bits * self.chunk // 32

    def power(self, lanes: int) -> int:
        """Return by which power of two decoded weights are too small on vectors of `lanes`."""
        return 0

    def fields(self, k: int) -> list[Field]:
        """Return where the bits of the `k`-th weight of a chunk are, the lowest first."""
        quad, byte = divmod(k, 4)
        pieces = panels.parts(self.bits, self.chunk // 4)[quad]
        return [
            Field(part.vector, 8 * byte + part.bit, part.width, part.shift)
            for part in reversed(pieces)
        ]

    def position(self, k: int) -> int:
        """Return the mantissa bit at which the `k`-th code stands when it is made a float."""
        bit = self.fields(k)[0].bit
        return bit if bit + self.bits <= MANTISSA else bit - HALF_WORD

    def positions(self) -> list[int]:
        """Return every position that a code may have."""
        return sorted({self.position(k) for k in range(self.chunk)})


class Decoder(Protocol):
    """The weights of one chunk of one vector of columns."""

    def value(self, k: int) -> ir.Value:
        """Return the `k`-th weight before its scale, in f32."""


class IntegerDecoder:
    """Integer weights, given their words and what :func:`raised_zeros` made of zero points."""

    def __init__(
        self,
        codes: PackedCodes,
        words: Sequence[ir.Value],
        lanes: int,
        zeros: dict[int, ir.Value],
    ) -> None:
        self.codes, self.loaded, self.lanes, self.zeros = codes, words, lanes, zeros
        self.i32, self.f32 = emit.integer(32), ir.F32Type.get()
        self.shifted: dict[int, ir.Value] = {}

    def value(self, k: int) -> ir.Value:
        """Return the `k`-th code less its zero point."""
        return arith.subf(self.raised(k), self.zeros[self.codes.position(k)])

    def raised(self, k: int) -> ir.Value:
        """Return ``2^(23-p) + code`` of the `k`-th weight, p its position."""
        lowest, *others = self.codes.fields(k)
        position = self.codes.position(k)
        word = self.loaded[lowest.word]
        if position != lowest.bit:
            word = self._half(lowest.word)
        bits = self._masked(word, position, lowest.width)
        for other in others:
            place = position + other.shift
            moved = self._moved(self.loaded[other.word], place - other.bit)
            bits = arith.ori(bits, self._masked(moved, place, other.width))
        exponent = (127 + MANTISSA - position) << MANTISSA
        pattern = arith.ori(bits, emit.splat(self.lanes, self.i32, exponent))
        return vector.bitcast(emit.vector_type(self.lanes, self.f32), pattern)

    def _half(self, word: int) -> ir.Value:
        if word not in self.shifted:
            self.shifted[word] = self._moved(self.loaded[word], -HALF_WORD)
        return self.shifted[word]

    def _moved(self, word: ir.Value, by: int) -> ir.Value:
        if not by:
            return word
        amount = emit.splat(self.lanes, self.i32, abs(by))
        return arith.shli(word, amount) if by > 0 else arith.shrui(word, amount)

    def _masked(self, word: ir.Value, place: int, width: int) -> ir.Value:
        return arith.andi(word, emit.splat(self.lanes, self.i32, ((1 << width) - 1) << place))


def can_look_up(bits: int, lanes: int, *, symmetric: bool) -> bool:
    """Whether codes of `bits` can be looked up: the low bits of a lane must be all of a code."""
    return symmetric and lanes == PLACES and bits in (1, 2, 4)


class TableDecoder:
    """Integer weights, looked up in `table` of :func:`table_of` by the low 4 bits of a word."""

    def __init__(self, codes: PackedCodes, words: Sequence[ir.Value], table: ir.Value) -> None:
        self.codes, self.words, self.table = codes, words, table

    def value(self, k: int) -> ir.Value:
        """Return the `k`-th code less its zero point."""
        (where,) = self.codes.fields(k)
        place = self.words[where.word]
        if where.bit:
            place = arith.shrui(place, emit.splat(PLACES, emit.integer(32), where.bit))
        type_ = emit.vector_type(PLACES, ir.F32Type.get())
        return emit.intrinsic("llvm.x86.avx512.permvar.sf.512", [self.table, place], type_)


def table_of(codes: PackedCodes) -> ir.Value:
    """Return the value of each code; what lies above it in the 4 bits does not matter."""
    values = np.arange(PLACES) % (1 << codes.bits) - (1 << (codes.bits - 1))
    type_ = emit.vector_type(PLACES, ir.F32Type.get())
    return arith.constant(type_, ir.DenseElementsAttr.get(values.astype(np.float32), type=type_))


def raised_zeros(codes: PackedCodes, zero: ir.Value | int, lanes: int) -> dict[int, ir.Value]:
    """Return ``2^(23-p) + zero`` for every position p; `zero` is a number or f32 per column."""
    f32 = ir.F32Type.get()
    found = {}
    for position in codes.positions():
        base = 2.0 ** (MANTISSA - position)
        if isinstance(zero, int):
            found[position] = emit.splat(lanes, f32, base + zero)
        else:
            found[position] = arith.addf(zero, emit.splat(lanes, f32, base))
    return found
