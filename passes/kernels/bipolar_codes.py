"""Rows of f32 as bipolar integers, on vectors: codes, scales, and the fields of these.

The definition is :mod:`..formats.bipolar_products`.  A plane that is alone is stored as *minus*
signs: XOR sees no difference as long as both operands are stored so, and the sign of a number is
one comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith, math, vector

from ..formats import bipolar, powers
from ..formats.bipolar_products import HALFWAY, INFINITY, LARGEST, SMALLEST, SPECIAL, WORD
from ..formats.floats import F32
from . import emit

_U, _F = arith.CmpIPredicate, arith.CmpFPredicate


@dataclass(frozen=True)
class BipolarCodes:
    """How rows are coded: `planes`, and `scales` as ``f32`` or as the fields of ``power``."""

    planes: int
    k: int
    scales: str

    @property
    def name(self) -> str:
        """The codes in a symbol."""
        return f"{self.planes}{self.scales[0]}"

    @property
    def words(self) -> int:
        """Words of a plane of a row."""
        return -(-self.k // WORD)

    @property
    def levels(self) -> int:
        """How many powers of two the products of two planes have."""
        return 2 * self.planes - 1


class Coder:
    """Builds the codes on vectors of a width of its own; of a scalar too where `lanes` is 0."""

    def __init__(self, codes: BipolarCodes, lanes: int) -> None:
        self.codes, self.lanes = codes, lanes
        self.f32, self.i32 = ir.F32Type.get(), emit.integer(32)

    def magnitude(self, x: ir.Value) -> ir.Value:
        """Return the pattern of a magnitude."""
        return arith.andi(self._cast(self.i32, x), self.int(F32.magnitude_mask))

    def number(self, magnitude: ir.Value) -> ir.Value:
        """Return the f32 of a pattern."""
        return self._cast(self.f32, magnitude)

    def reach(self, highest: ir.Value) -> ir.Value:
        """Return what a row is multiplied by, given its largest magnitude as a pattern."""
        zero, most = self.float(0.0), self._cast(self.f32, highest)
        found = arith.divf(self.float(bipolar.largest(self.codes.planes) / 2), most)
        found = arith.maxnumf(found, self.float(float(SMALLEST)))
        return arith.select(arith.cmpf(_F.OGT, most, zero), found, zero)

    def scale(self, highest: ir.Value, total: ir.Value) -> ir.Value:
        """Return the scale of a row as the bits of an i32, given `highest` and the sum."""
        if self.codes.planes == 1:
            most = arith.minnumf(total, self.float(float(LARGEST)))
            found = arith.mulf(most, self.float(1 / self.codes.k))
        else:
            most = self._cast(self.f32, highest)
            found = arith.mulf(most, self.float(1 / bipolar.largest(self.codes.planes)))
        is_finite = arith.cmpi(_U.ult, highest, self.int(INFINITY))
        if self.codes.scales == "f32":
            found = arith.select(is_finite, found, self.float(float("nan")))
            return self._cast(self.i32, found)
        moved = arith.addi(self._cast(self.i32, found), self.int((1 << 23) - HALFWAY))
        exponent = arith.shrsi(moved, self.int(F32.mantissa_bits))
        field = arith.subi(exponent, self.int(127 - powers.EXPONENT_BIAS))
        field = arith.maxsi(field, self.int(0))
        return arith.select(is_finite, field, self.int(SPECIAL))

    def planes(self, x: ir.Value, reach: ir.Value | None, exists: Any = None) -> list[ir.Value]:
        """Return for each plane where the bit of a number is set; not where it does not exist."""
        if self.codes.planes == 1:
            return [arith.cmpf(_F.OLT, x, self.float(0.0))]
        half = float(1 << (self.codes.planes - 1))
        step = math.floor(arith.mulf(x, reach))
        step = arith.minnumf(arith.maxnumf(step, self.float(-half)), self.float(half - 1))
        code = arith.addi(arith.fptosi(self._type(self.i32), step), self.int(int(half)))
        if exists is not None:
            code = arith.select(exists, code, self.int(0))
        return [
            arith.cmpi(_U.ne, arith.andi(code, self.int(1 << i)), self.int(0))
            for i in range(self.codes.planes)
        ]

    def int(self, value: int) -> ir.Value:
        """Return an integer constant."""
        if not self.lanes:
            return emit.wrapped(self.i32, value)
        return emit.splat(self.lanes, self.i32, value & 0xFFFFFFFF)

    def float(self, value: float) -> ir.Value:
        """Return a float constant."""
        if not self.lanes:
            return arith.constant(self.f32, value)
        return emit.splat(self.lanes, self.f32, value)

    def _type(self, element: ir.Type) -> ir.Type:
        return emit.vector_type(self.lanes, element) if self.lanes else element

    def _cast(self, element: ir.Type, value: ir.Value) -> ir.Value:
        if not self.lanes:
            return value if value.type == element else arith.bitcast(element, value)
        type_ = self._type(element)
        return value if value.type == type_ else vector.bitcast(type_, value)
