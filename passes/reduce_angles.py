"""``lowc-reduce-angles``: whole turns are taken off an angle before its sine or cosine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import annotations
from .base import Pass, RemarkKind
from .contraction import module_path

NAMES = ("math.sin", "math.cos")
# A turn in parts whose products with up to 65,536 turns are exact in f32: eight bits each, but for
# the last one (W. J. Cody, W. Waite, Software Manual for the Elementary Functions, 1980).
TURN = (6.28125, 0.00193023681640625, 5.066394805908203e-06, 3.968374e-09)


@dataclass(frozen=True)
class ReduceAngles(Pass):
    """Bring the angles of sines and cosines in f32 to half a turn at most.

    IREE 3.13 takes off half turns by one product with pi in f32, whose error grows with the angle:
    by 6e-5 at 2048 and 3e-3 at 100,000, which positions in long texts are.  Here it is 3e-7 up to
    65,536 turns (411,774), and behind that it grows as before.

    Before::

        %y = math.sin %x : f32

    After::

        %t = math.roundeven(%x * 0.159154937)
        %a = %x - %t * 6.28125
        %b = %a - %t * 0.00193023682
        %c = %b - %t * 5.0663948e-06
        %r = %c - %t * 3.96837396e-09
        %y = math.sin %r : f32
    """

    name: ClassVar[str] = "lowc-reduce-angles"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Rewrite every sine and cosine of f32."""
        for op in annotations.operations(module.operation):
            if op.name not in NAMES or op.operands[0].type != ir.F32Type.get(op.context):
                continue
            with ir.InsertionPoint(op), op.location:
                op.operands[0] = reduced(op.operands[0])
            where = module_path(op.location) or op.name
            remark(RemarkKind.NOTE, op, where, "whole turns are taken off its angle first")


def reduced(angle: ir.Value) -> ir.Value:
    """Return `angle` less the nearest number of whole turns."""
    turns = arith.mulf(angle, _number(angle.type, 0.15915494309189535))
    turns = ir.Operation.create("math.roundeven", results=[angle.type], operands=[turns]).result
    for part in TURN:
        angle = arith.subf(angle, arith.mulf(turns, _number(angle.type, part)))
    return angle


def _number(type_: ir.Type, value: float) -> ir.Value:
    return arith.constant(type_, ir.FloatAttr.get(type_, value))
