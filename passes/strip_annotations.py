"""``lowc-strip-annotations``: leave nothing behind that only lowc understands."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from iree.compiler import ir

from . import annotations
from .base import Pass


@dataclass(frozen=True)
class StripAnnotations(Pass):
    """Remove every ``lowc.*`` attribute, which ``iree-compile`` would refuse.

    Before::

        %y = linalg.matmul {lowc.matmul = "fc", lowc.kind = "weight"} ins(…)

    After::

        %y = linalg.matmul ins(…)
    """

    name: ClassVar[str] = "lowc-strip-annotations"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Remove the attributes; change nothing else."""
        for op in annotations.operations(module):
            for name in [named.name for named in _named(op) if named.name.startswith("lowc.")]:
                del op.attributes[name]


def _named(op: object) -> list[ir.NamedAttribute]:
    attributes = op.attributes  # type: ignore[attr-defined]
    return [attributes[index] for index in range(len(attributes))]
