"""Codes of a few bits, out of the words of a panel: floats without a conversion.

A field of a word that is masked and given the right exponent *is* a float: with the field's lowest
bit at position p of the mantissa, and the exponent of 2^(23-p), the pattern stands for
``2^(23-p) + code``.  Subtracting ``2^(23-p) + zero`` leaves ``code - zero``, exactly.  So a weight
costs one ternary logic instruction and one subtraction; fields above the mantissa share one shift
of their word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from iree.compiler import ir
from iree.compiler.dialects import arith, vector

from ..formats import panels
from . import emit

MANTISSA = 23
HALF_WORD = 16


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
    """

    bits: int
    chunk: int

    @property
    def name(self) -> str:
        """The codes' format in a symbol."""
        return f"i{self.bits}"

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
        found, start = [], 0
        for plane in panels.planes(self.bits):
            word, way = divmod(quad, plane.ways)
            found.append(
                Field(start + word, 8 * byte + plane.width * way, plane.width, plane.shift)
            )
            start += self.chunk // 4 // plane.ways
        return found

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
        for field in others:
            place = position + field.shift
            moved = self._moved(self.loaded[field.word], place - field.bit)
            bits = arith.ori(bits, self._masked(moved, place, field.width))
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
