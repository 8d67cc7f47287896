"""What became of every matmul, read from the annotations that the passes left."""

from collections.abc import Iterable
from typing import Any

from iree.compiler import ir

from ..passes import annotations
from ..passes.base import Remark, RemarkKind
from ..passes.contraction import Contraction, Weight, find_weight, match_contraction
from ..passes.parameters import stored_bits


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
        bits = _bits(module, op, kind)
        rows.setdefault(
            name,
            {
                "name": name,
                "kind": kind,
                "shape": annotations.text(op, annotations.SHAPE),
                "form": form["form"] if annotations.BITS in op.attributes else "exact",
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


def _bits(module: ir.Module, op: Any, kind: str) -> float | None:
    """Return the bits that one weight of `op` is stored in."""
    if kind != "weight":
        return None
    if annotations.BITS in op.attributes:
        return float(ir.FloatAttr(op.attributes[annotations.BITS]).value)
    found = match_contraction(op)
    weight = find_weight(found) if isinstance(found, Contraction) else found
    return float(stored_bits(module, weight)) if isinstance(weight, Weight) else None
