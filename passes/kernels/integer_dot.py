"""Products of four small integers in one 32-bit lane: what each vector unit has for them.

Weights are unsigned codes of `bits` bits in the order of :func:`..formats.panels.pack_panels`:
a chunk of K at a time, in whole words of every column.  Activations are signed; each quad (four of
K) is broadcast to all columns.  A strategy says how a quad of activations is stored
(:attr:`IntegerDot.stride` words of 32 bits), how a quad of codes is taken from the words, and how
both are multiplied:

========= ========================================== ===================== ======================
strategy  instructions for a vector of quads         activations           codes
========= ========================================== ===================== ======================
vnni      ``vpdpbusd``                               4 bytes               up to 8 bits
bytes     ``vpmaddubsw``, ``vpaddw``; now and then   4 bytes               up to 7 bits
          ``vpmaddwd``, ``vpaddd``
shorts    2 x (``vpmaddwd``, ``vpaddd``)             (0, 2), (1, 3) as i16 8 bits
lanes     4 x (multiply, add)                        4 x i32               up to 8 bits
========= ========================================== ===================== ======================

All are exact: no sum of pairs saturates, which ``vpmaddubsw`` does beyond 16 bits.

``vpdpbusd`` has room for codes that are not shifted down: a code that stands at bit p of its byte
counts 2^p times.  So few rows, of which taking codes apart is most of the work, have a sum for each
p, and shift that once for a group (:meth:`IntegerDot.levels`).

On Zen 4 two vector instructions start in a cycle.  Shifts are beside ``vpdpbusd``; what else could
take a field out of bytes (``vpmultishiftqb``, ``vgf2p8affineqb``) starts on the ports of
``vpdpbusd``, and multiplications for the scales do so too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith, vector

from ..formats import panels
from ..formats.activations import LARGEST, longest_group
from . import emit
from .tiles import CODE_BYTES, Isa

# Gives a word of one chunk and vector of columns by its number, planes in order.
Words = Callable[[int], ir.Value]


@dataclass(frozen=True)
class IntegerDot:
    """How codes of `bits` bits, in chunks of `chunk` of K, are multiplied on `isa`."""

    isa: Isa
    bits: int
    chunk: int

    @property
    def quads(self) -> int:
        """Quads of a chunk."""
        return self.chunk // 4

    @property
    def vectors(self) -> int:
        """Vectors of words that a chunk takes."""
        return self.bits * self.chunk // panels.CHUNK

    @property
    def strategy(self) -> str:
        """A name of the table above."""
        if self.isa.name == "portable":
            return "lanes"
        if self.isa.vnni:
            return "vnni"
        return "shorts" if self.bits == 8 else "bytes"

    @property
    def stride(self) -> int:
        """Words of 32 bits that a quad of activations takes."""
        return CODE_BYTES[self.strategy]

    @property
    def pairs(self) -> int:
        """How many sums of two products fit one i16, one after another."""
        return (2**15 - 1) // (2 * (2**self.bits - 1) * LARGEST)

    @property
    def parts(self) -> tuple[tuple[panels.Part, ...], ...]:
        """Where the codes of each quad are (:func:`..formats.panels.parts`)."""
        return panels.parts(self.bits, self.quads)

    def levels(self, places: int, rows: int, group: int) -> tuple[int, ...]:
        """Return at which bits of a byte the codes that are multiplied begin, 0 first.

        Only 0, unless more sums fit the registers of `places` of a register tile with so many
        `rows`, cannot overflow in a `group`, and save shifts.
        """
        levels = tuple(sorted({_place(pieces) for pieces in self.parts}))
        fit = len(levels) * places <= self.isa.registers // 2
        if self.strategy != "vnni" or not fit or group > longest_group(255):
            return (0,)
        saved = sum(
            (part.bit != part.shift) - (part.bit - part.shift != _place(pieces))
            for pieces in self.parts
            for part in pieces
        )
        # A further sum takes a shift and an addition in the end.
        return levels if saved * (group // self.chunk) > 2 * rows * (len(levels) - 1) else (0,)

    def level(self, number: int) -> int:
        """Return the bit of a byte at which the codes of quad `number` begin."""
        return _place(self.parts[number])

    def of_sums(self, zeros: ir.Value, sums: ir.Value, group: int) -> ir.Value:
        """Multiply zero points by the sums of `group` activations, in i32 lanes."""
        if self.strategy == "lanes" or group * LARGEST >= 2**15:
            return arith.muli(zeros, sums)
        # Both fit 16 bits, the zeros' upper halves are 0: one multiplication of shorts.
        return multiply_shorts(self.isa.lanes, zeros, sums)

    def activation(self, source: ir.Value, at: Sequence[ir.Value]) -> list[ir.Value]:
        """Broadcast a quad of activations that begins at word `at` of `source`."""
        found = []
        for i in range(self.stride):
            place = [*at[:-1], arith.addi(at[-1], emit.index(i))] if i else at
            found.append(emit.broadcast_scalar(self.isa.lanes, source, place))
        return found


def _place(pieces: Sequence[panels.Part]) -> int:
    """Return the bit of a byte at which a code stands whose highest bits are where they are."""
    return pieces[0].bit - pieces[0].shift


class Codes:
    """The codes of one chunk and vector of columns, in quads that are asked for in order.

    Pieces of a quad are put together as the vectors go by, so that no register holds a vector until
    the last quad.  `stay` says whether codes stay at the bit where they stand.
    """

    def __init__(self, dot: IntegerDot, words: Words, *, stay: bool) -> None:
        self.dot, self.words, self.stay = dot, words, stay
        self._joined: dict[tuple[int, int], ir.Value] = {}

    def quad(self, number: int) -> list[ir.Value]:
        """Take the codes of quad `number` from the words of its chunk."""
        dot = self.dot
        if dot.strategy == "shorts":
            word, mask = self.words(number), self._splat(0x00FF00FF)
            low = arith.andi(word, mask)
            return [low, arith.andi(arith.shrui(word, self._splat(8)), mask)]
        downs = [8 * j for j in range(4)] if dot.strategy == "lanes" else [0]
        pieces = dot.parts[number]
        if len(pieces) > 1:
            return [self._joined[number, down] for down in downs]
        found = [self._piece(number, pieces[0], down) for down in downs]
        is_last = number + 1 == dot.quads or dot.parts[number + 1][0].vector != pieces[0].vector
        if is_last or len(dot.parts[number + 1]) > 1:
            self._join(pieces[0].vector, downs)
        return found

    def _join(self, vector_number: int, downs: Sequence[int]) -> None:
        """Add the pieces in a vector to the quads that they are of."""
        for number, pieces in enumerate(self.dot.parts):
            for part in pieces if len(pieces) > 1 else ():
                if part.vector != vector_number:
                    continue
                for down in downs:
                    piece, before = (
                        self._piece(number, part, down),
                        self._joined.get((number, down)),
                    )
                    joined = piece if before is None else arith.ori(before, piece)
                    self._joined[number, down] = joined

    def _piece(self, number: int, part: panels.Part, down: int) -> ir.Value:
        """Return a part of the code that begins at bit `down` of each lane.

        In "lanes" it is all that is left of a lane, else all four bytes have their codes.
        """
        place = part.shift + (self.dot.level(number) if self.stay else 0)
        piece = self._shifted(self.words(part.vector), part.bit + down - place)
        is_alone = self.dot.strategy == "lanes"
        if part.width == 8 and not is_alone:
            return piece
        mask = ((1 << part.width) - 1) << place
        return arith.andi(piece, self._splat(mask if is_alone else mask * 0x01010101))

    def _shifted(self, word: ir.Value, down: int) -> ir.Value:
        if down > 0:
            return arith.shrui(word, self._splat(down))
        return arith.shli(word, self._splat(-down)) if down else word

    def _splat(self, value: int) -> ir.Value:
        return emit.splat(self.dot.isa.lanes, emit.integer(32), value)


class Accumulator:
    """The running sums of one chunk for every place of a register tile, in i32 lanes.

    With several `levels` there is a sum for each: those of a place follow one another.
    """

    def __init__(
        self, dot: IntegerDot, sums: Sequence[ir.Value], levels: Sequence[int] = (0,)
    ) -> None:
        self.dot, self.sums, self.levels = dot, list(sums), levels
        self._pairs: list[ir.Value | None] = [None] * len(self.sums)
        self._held = [0] * len(self.sums)

    def add(self, place: int, codes: Sequence[ir.Value], quad: Sequence[ir.Value]) -> None:
        """Add the products of one quad of codes and activations to the sums at `place`."""
        strategy = self.dot.strategy
        if strategy == "vnni":
            bits = self.dot.isa.lanes * 32
            name = f"llvm.x86.avx512.vpdpbusd.{bits}"
            operands = [self.sums[place], self._bytes(codes[0]), self._bytes(quad[0])]
            self.sums[place] = emit.intrinsic(name, operands, self.sums[place].type)
        elif strategy == "bytes":
            self._add_pairs(place, self._multiply_bytes(codes[0], quad[0]))
        elif strategy == "shorts":
            for code, activation in zip(codes, quad, strict=True):
                self._add_shorts(place, code, activation)
        else:
            for code, activation in zip(codes, quad, strict=True):
                product = arith.muli(code, activation)
                self.sums[place] = arith.addi(self.sums[place], product)

    def codes(self, words: Words) -> Codes:
        """Return the codes of a chunk and vector of columns, as these sums take them."""
        return Codes(self.dot, words, stay=len(self.levels) > 1)

    def place(self, number: int, which: int) -> int:
        """Return which sum takes the products of quad `number`, for place `which` of the tile."""
        if len(self.levels) == 1:
            return which
        return which * len(self.levels) + self.levels.index(self.dot.level(number))

    def finish(self) -> list[ir.Value]:
        """Return the sums, nothing held back."""
        for place in range(len(self.sums)):
            self._flush(place)
        return self.sums

    def _add_pairs(self, place: int, product: ir.Value) -> None:
        held = self._pairs[place]
        self._pairs[place] = product if held is None else arith.addi(held, product)
        self._held[place] += 1
        if self._held[place] == self.dot.pairs:
            self._flush(place)

    def _flush(self, place: int) -> None:
        held, self._pairs[place], self._held[place] = self._pairs[place], None, 0
        if held is not None:
            lanes = self.dot.isa.lanes * 2
            self._add_shorts(place, held, emit.splat(lanes, emit.integer(16), 1))

    def _add_shorts(self, place: int, a: ir.Value, b: ir.Value) -> None:
        product = multiply_shorts(self.dot.isa.lanes, a, b)
        self.sums[place] = arith.addi(self.sums[place], product)

    def _multiply_bytes(self, codes: ir.Value, quad: ir.Value) -> ir.Value:
        wide = self.dot.isa.lanes == 16
        name = "llvm.x86.avx512.pmaddubs.w.512" if wide else "llvm.x86.avx2.pmadd.ub.sw"
        type_ = emit.vector_type(self.dot.isa.lanes * 2, emit.integer(16))
        return emit.intrinsic(name, [self._bytes(codes), self._bytes(quad)], type_)

    def _bytes(self, value: ir.Value) -> ir.Value:
        return vector.bitcast(emit.vector_type(self.dot.isa.lanes * 4, emit.integer(8)), value)


def multiply_shorts(lanes: int, a: ir.Value, b: ir.Value) -> ir.Value:
    """Return the sum of two products of 16 bits in each 32-bit lane."""
    name = "llvm.x86.avx512.pmaddw.d.512" if lanes == 16 else "llvm.x86.avx2.pmadd.wd"
    shorts = emit.vector_type(lanes * 2, emit.integer(16))
    operands = [vector.bitcast(shorts, value) for value in (a, b)]
    product: ir.Value = emit.intrinsic(name, operands, emit.vector_type(lanes, emit.integer(32)))
    return product
