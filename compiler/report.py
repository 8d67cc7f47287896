"""What became of every matmul, read from the annotations that the passes left."""

from collections.abc import Iterable
from typing import Any

from iree.compiler import ir

from ..passes import annotations
from ..passes.base import Remark, RemarkKind


def matmul_rows(module: ir.Module) -> list[dict[str, Any]]:
    """Return one row per named matmul, in the order of the program.

    ``shape`` is batch x M x N x K; ``bits_per_weight`` counts scales and zero points and is None
    for a product of two activations; ``tile``, ``predicted_seconds`` and ``energy_picojoules`` are
    None until something chooses or predicts them.
    """
    rows: dict[str, dict[str, Any]] = {}
    for op in annotations.matmuls(module):
        name = annotations.text(op, annotations.MATMUL)
        form = annotations.from_attribute(op.attributes[annotations.FORM])
        kind = annotations.text(op, annotations.KIND)
        bits = _bits(op, kind)
        rows.setdefault(
            name,
            {
                "name": name,
                "kind": kind,
                "shape": annotations.text(op, annotations.SHAPE),
                "form": "exact" if bits is None or bits == _full_bits(op) else form["form"],
                "requested": form["form"],
                "lowering": annotations.text(op, annotations.LOWERING),
                "tile": None,
                "predicted_seconds": None,
                "energy_picojoules": None,
                "bits_per_weight": bits,
            },
        )
    return list(rows.values())


def remark_rows(remarks: Iterable[Remark]) -> list[dict[str, str]]:
    """Return what passes applied or refused; notes are left out."""
    return [
        {
            "pass": remark.pass_name,
            "kind": str(remark.kind),
            "subject": remark.subject,
            "message": remark.message,
        }
        for remark in remarks
        if remark.kind is not RemarkKind.NOTE
    ]


def _bits(op: Any, kind: str) -> float | None:
    if kind != "weight":
        return None
    if annotations.BITS in op.attributes:
        return ir.FloatAttr(op.attributes[annotations.BITS]).value
    return _full_bits(op)


def _full_bits(op: Any) -> float:
    element = ir.RankedTensorType(op.operands[1].type).element_type
    return float(getattr(element, "width", 32))
