"""A matmul of f32 activations and weights in few bits for CPUs.

Of a few rows each weight is used so seldom that its bytes are the limit: codes are taken apart in
registers, and a group is scaled once, after its products are summed::

    for g in groups:
      sum[r, v] = 0
      for k in group:
        sum[r, v] += splat(A[m + r, k]) * (code[v] - zero[g, v])
      total[r, v] += sum[r, v] * scale[g, v]

Codes of small floats have no zero points; how they are decoded is :mod:`.small_float_codes`.

For more rows a block of K of some panels is made f32, ``(code - zero) * scale``, in a scratch
buffer, and multiplied as in :mod:`.float_matmul`.  A kernel for any number of rows has both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith, scf

from . import emit
from .executable import Interface
from .float_matmul import FloatBody, FloatMatmul
from .float_tiles import FEW_ROWS
from .packed_codes import (
    Decoder,
    IntegerDecoder,
    PackedCodes,
    TableDecoder,
    raised_zeros,
    table_of,
)
from .small_float_codes import SmallFloatCodes, SmallFloatDecoding
from .tiles import AHEAD_BYTES

LINE_BYTES = 64


@dataclass(frozen=True)
class DequantMatmul(FloatMatmul):
    """``C[batch, m, n] = sum over k of A[batch, m, k] * (code - zero)[batch, k, n] * scale``.

    Bindings: A in f32; words of codes ``[batch of B, panels, words, columns]``, scales and, unless
    symmetric, zeros ``[batch of B, panels, G, columns]`` in f32 and i8; if it has halves, factors
    ``[batch of B, panels, columns]`` in f32, and scales are f16; C.  N and K are known, and K is a
    whole number of groups.

    Attributes
    ----------
    codes : PackedCodes
        Bits and order of the codes, and what they mean.
    group : int
        Weights along K that share a scale.
    symmetric : bool
        Whether no zero points are stored: that of integers is the middle of the codes.
    has_halves : bool
        Whether scales are f16, with a factor for each column (:mod:`..formats.half_scales`).
    """

    codes: PackedCodes = dataclasses.field(kw_only=True)
    group: int = dataclasses.field(kw_only=True)
    symmetric: bool = dataclasses.field(kw_only=True)
    has_halves: bool = dataclasses.field(default=False, kw_only=True)

    @property
    def in_place(self) -> bool:
        """Codes are made f32 first."""
        return False

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        flags = "b" * self.b_batch + "c" * self.copies
        halves = "h" * self.has_halves
        kind = f"{self.codes.name}g{self.group}{'' if self.symmetric else 'z'}{halves}"
        return f"dequant_{kind}_{self.sizes_name}_{self.tile.name}{flags}{self.epilogue_name}"

    def describe(self) -> str:
        """Say which kernel it is."""
        if self.m is None:
            how = f"codes in registers up to {FEW_ROWS} rows, else made f32 by blocks"
        else:
            how = "codes in registers" if self.m <= FEW_ROWS else "codes made f32 by blocks"
        if isinstance(self.codes, SmallFloatCodes):
            how = f"{how}, {self.codes.describe(self.tile.lanes)}"
        elif self.codes.looked_up:
            how = f"{how}, looked up in a register"
        how = f"{how}, scales in f16" if self.has_halves else how
        return f"{super().describe()}, {how}"

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        _DequantBody(self, interface).emit()


class _DequantBody(FloatBody):
    def __init__(self, kernel: DequantMatmul, interface: Interface) -> None:
        self.dequant = kernel
        self.in_registers = kernel.m is not None and kernel.m <= FEW_ROWS
        super().__init__(kernel, interface)

    def bind(self) -> None:
        kernel = self.dequant
        columns, groups = self.tile.columns, (kernel.k or 0) // kernel.group
        words = (kernel.k or 0) // kernel.codes.chunk * kernel.codes.words
        self.a = self.buffer(0, ("batch", "m", "k"), self.f32)
        self.b = self.panel_buffer(1, words, columns, self.i32)
        scale, bound = emit.integer(16) if kernel.has_halves else self.f32, 3
        self.scales = self.panel_buffer(2, groups, columns, scale)
        if not kernel.symmetric:
            self.zeros = self.panel_buffer(bound, groups, columns, emit.integer(8))
            bound += 1
        if kernel.has_halves:
            self.factors = self.panel_buffer(bound, 1, columns, self.f32)
            bound += 1
        self.bind_result(bound)

    def reserve(self) -> None:
        codes = self.dequant.codes
        self.decoding = None
        if isinstance(codes, SmallFloatCodes):
            self.decoding = SmallFloatDecoding(codes, self.lanes)
        self.table = table_of(codes) if codes.looked_up else None
        if not self.in_registers:
            super().reserve()

    def emit(self) -> None:
        if self.dequant.m is not None:
            super().emit()
            return
        few = arith.cmpi(arith.CmpIPredicate.ule, self.m, emit.index(FEW_ROWS))
        choice = scf.IfOp(few, [], has_else=True)
        whole = self.tile
        with ir.InsertionPoint(choice.then_block):
            self.in_registers = True
            self.tile = dataclasses.replace(whole, rows=FEW_ROWS, k_block=self.dequant.k or 0)
            super().emit()
            scf.YieldOp([])
        with ir.InsertionPoint(choice.else_block):
            self.in_registers, self.tile = False, whole
            super().emit()
            scf.YieldOp([])

    # -- more rows ---------------------------------------------------------------------------------

    def prepare(self, m: ir.Value, rows: int) -> None:
        if not self.in_registers:
            super().prepare(m, rows)

    def pack_panels(self, first: ir.Value, last: ir.Value) -> None:
        if not self.in_registers:
            super().pack_panels(first, last)

    def pack(self, p: ir.Value, place: ir.Value) -> None:
        """Make the codes of panel `p` f32, from the block of K on."""
        chunk = self.dequant.codes.chunk

        def step(k: ir.Value) -> None:
            number = arith.divui(arith.addi(self.kb, k), emit.index(chunk))
            group = arith.divui(arith.addi(self.kb, k), emit.index(self.dequant.group))
            for v in range(self.tile.vectors):
                lane = emit.index(v * self.lanes)
                scale = self._scale(p, group, v)
                decoder = self._decoder(p, number, v, self._zeros(p, group, v))
                for i in range(chunk):
                    at = [place, arith.addi(k, emit.index(i)), lane]
                    emit.store(arith.mulf(decoder.value(i), scale), self.packed, at)

        emit.each(emit.index(0), self.count, chunk, step)

    # -- few rows ----------------------------------------------------------------------------------

    def sums(
        self, m: ir.Value, rows: int, p: ir.Value, started: Sequence[ir.Value]
    ) -> Sequence[ir.Value]:
        if not self.in_registers:
            return super().sums(m, rows, p, started)
        kernel = self.dequant
        zero = emit.splat(self.lanes, self.f32, 0.0)
        # One row has too few sums to hide the latency of an addition: neighbours take turns.
        turns = _turns(rows * self.tile.vectors)
        chunks = kernel.group // kernel.codes.chunk

        def group(g: ir.Value, *totals: ir.Value) -> Sequence[ir.Value]:
            zeros = [self._zeros(p, g, v) for v in range(self.tile.vectors)]
            first = arith.muli(g, emit.index(chunks))

            def chunk(number: ir.Value, *carried: ir.Value) -> Sequence[ir.Value]:
                return self._chunk(m, rows, p, number, zeros, carried, turns)

            parts = [zero] * (turns * len(totals))
            if chunks == 1:
                parts = list(chunk(first, *parts))
            else:
                last = arith.addi(first, emit.index(chunks))
                parts = emit.loop(first, last, emit.index(1), chunk, parts)
            scales = [self._scale(p, g, v) for v in range(self.tile.vectors)]
            found = []
            for i, total in enumerate(totals):
                part = parts[i]
                for turn in range(1, turns):
                    part = arith.addf(part, parts[turn * len(totals) + i])
                found.append(emit.multiply_add(part, scales[i % self.tile.vectors], total))
            return found

        groups = emit.index((kernel.k or 0) // kernel.group)
        return emit.loop(emit.index(0), groups, emit.index(1), group, started)

    def _chunk(
        self,
        m: ir.Value,
        rows: int,
        p: ir.Value,
        number: ir.Value,
        zeros: Sequence[dict[int, ir.Value]],
        sums: Sequence[ir.Value],
        turns: int,
    ) -> list[ir.Value]:
        """Add the products of one chunk of K."""
        codes, totals = self.dequant.codes, list(sums)
        self._fetch(p, number)
        decoders = [self._decoder(p, number, v, zero) for v, zero in enumerate(zeros)]
        start = arith.muli(number, emit.index(codes.chunk))
        for i in range(codes.chunk):
            k = arith.addi(start, emit.index(i))
            weights = [decoder.value(i) for decoder in decoders]
            for r in range(rows):
                at = [self.item, arith.addi(m, emit.index(r)), k]
                left = emit.broadcast_scalar(self.lanes, self.a, at)
                for v, weight in enumerate(weights):
                    place = (i % turns) * rows * len(weights) + r * len(weights) + v
                    totals[place] = emit.multiply_add(left, weight, totals[place])
        return totals

    def _fetch(self, p: ir.Value, number: ir.Value) -> None:
        """Ask for the words that are read some chunks later."""
        words, columns = self.dequant.codes.words, self.tile.columns
        row = arith.addi(
            arith.muli(number, emit.index(words)),
            emit.index(max(words, AHEAD_BYTES // (4 * columns))),
        )
        for word in range(words):
            for column in range(0, columns, LINE_BYTES // 4):
                at = [self.b_item, p, arith.addi(row, emit.index(word)), emit.index(column)]
                emit.prefetch(self.b, at)

    # -- a panel's vectors -------------------------------------------------------------------------

    def _decoder(
        self, p: ir.Value, number: ir.Value, v: int, zeros: dict[int, ir.Value]
    ) -> Decoder:
        codes = self.dequant.codes
        row = arith.muli(number, emit.index(codes.words))
        words = [
            emit.load(
                self.lanes, self.b,
                [self.b_item, p, arith.addi(row, emit.index(i)), emit.index(v * self.lanes)],
            )
            for i in range(codes.words)
        ]  # fmt: skip
        if self.decoding is not None:
            return self.decoding.decoder(words)
        if self.table is not None:
            return TableDecoder(codes, words, self.table)
        return IntegerDecoder(codes, words, self.lanes, zeros)

    def _scale(self, p: ir.Value, group: ir.Value, v: int) -> ir.Value:
        at = [self.b_item, p, group, emit.index(v * self.lanes)]
        scale = emit.load(self.lanes, self.scales, at)
        if self.dequant.has_halves:
            factor = emit.load(self.lanes, self.factors, [at[0], at[1], emit.index(0), at[3]])
            scale = arith.mulf(emit.from_halves(scale, self.lanes), factor)
        power = self.dequant.codes.power(self.lanes)
        return arith.mulf(scale, emit.splat(self.lanes, self.f32, 2.0**power)) if power else scale

    def _zeros(self, p: ir.Value, group: ir.Value, v: int) -> dict[int, ir.Value]:
        """Return what codes made floats are too large by, for each place; nothing of floats."""
        codes = self.dequant.codes
        if isinstance(codes, SmallFloatCodes) or codes.looked_up:
            return {}
        if self.dequant.symmetric:
            return raised_zeros(codes, 1 << (codes.bits - 1), self.lanes)
        at = [self.b_item, p, group, emit.index(v * self.lanes)]
        number = arith.extui(
            emit.vector_type(self.lanes, self.i32), emit.load(self.lanes, self.zeros, at)
        )
        zero = arith.sitofp(emit.vector_type(self.lanes, self.f32), number)
        return raised_zeros(codes, zero, self.lanes)


def _turns(sums: int) -> int:
    """Return in how many parts each of so few sums of a group is kept."""
    return 4 if sums == 1 else 2 if sums < 6 else 1
