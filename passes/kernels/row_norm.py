"""RMSNorm of a few rows, in front of what each workgroup of a product does to its rows.

``y = w * (x * 1 / sqrt(mean(x^2) + epsilon))``, all in f32 and in this order; the squares are added
up in the lanes of a vector.  A row of 1024 takes some 0.2 microseconds, less than the threads of a
device wait for each other between two dispatches.

Source: RMSNorm (arXiv 1910.07467).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from iree.compiler import ir
from iree.compiler.dialects import arith, math, vector

from . import emit

UNROLLED = 4  # vectors, each with a sum of its own


@dataclass(frozen=True)
class RowNorm:
    """RMSNorm of rows of `k` elements; `lanes` of a vector."""

    k: int
    epsilon: float
    lanes: int

    @property
    def name(self) -> str:
        """A part of a symbol that two of them share only if they are the same."""
        return f"rms{self.k}v{self.lanes}e{self.epsilon.hex()}"

    def row(self, source: ir.Value, weight: ir.Value, target: ir.Value, number: ir.Value) -> None:
        """Build row `number` of `target` from that of `source`, ``f32 [rows, k]``, and a weight."""
        f32, lanes = ir.F32Type.get(), self.lanes
        zero = emit.splat(lanes, f32, 0.0)

        def square(at: ir.Value, mask: ir.Value | None, total: ir.Value) -> ir.Value:
            value = emit.load(lanes, source, [number, at], mask)
            return arith.addf(total, arith.mulf(value, value))

        sums = self._over(square, [zero] * UNROLLED)
        while len(sums) > 1:
            sums = [arith.addf(a, b) for a, b in zip(sums[::2], sums[1::2], strict=True)]
        total = vector.reduction(f32, vector.CombiningKind.ADD, sums[0])
        mean = arith.divf(total, arith.constant(f32, float(self.k)))
        root = math.sqrt(arith.addf(mean, arith.constant(f32, self.epsilon)))
        scale = vector.broadcast(
            emit.vector_type(lanes, f32), arith.divf(arith.constant(f32, 1.0), root)
        )

        def scaled(at: ir.Value, mask: ir.Value | None, total: ir.Value) -> ir.Value:
            value = arith.mulf(emit.load(lanes, source, [number, at], mask), scale)
            value = arith.mulf(emit.load(lanes, weight, [at], mask), value)
            emit.store(value, target, [number, at], mask)
            return total

        self._over(scaled, [zero] * UNROLLED)

    def _over(
        self,
        step: Callable[[ir.Value, ir.Value | None, ir.Value], ir.Value],
        carried: list[ir.Value],
    ) -> list[ir.Value]:
        """Build ``step(place, mask, carried[i])`` for all vectors of a row, i going round."""
        block = UNROLLED * self.lanes
        done = self.k // block * block

        def steps(i: ir.Value, *carried: ir.Value) -> list[ir.Value]:
            places = [arith.addi(i, emit.index(n * self.lanes)) for n in range(UNROLLED)]
            return [step(at, None, one) for at, one in zip(places, carried, strict=True)]

        if done:
            carried = emit.loop(emit.index(0), emit.index(done), emit.index(block), steps, carried)
        for number, at in enumerate(range(done, self.k, self.lanes)):
            left = self.k - at
            mask = None if left >= self.lanes else emit.mask_of(self.lanes, emit.index(left))
            carried[number] = step(emit.index(at), mask, carried[number])
        return carried
