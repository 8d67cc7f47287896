"""Weights that several products share: one of the products decides the columns of their panels.

A prompt and the next token are multiplied by one weight.  Kernels of other rows like other panels
best, but a weight is stored once: the product with the most work decides, or the one whose tile
was asked for, whatever their order.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir

from . import annotations
from .base import Refusal
from .kernels.tiles import ISAS

ROWS = 1024  # that a product is taken to have if the number is known at run time only

FamilyOf = Callable[[Any, str], Any]


@dataclass(frozen=True)
class Panels:
    """Columns of the panels of a weight, and the name of the product that decides them."""

    columns: int
    of: str

    @property
    def reason(self) -> str:
        """Why a product has them, for the report."""
        return f"panels of {self.columns} columns, which '{self.of}' has of this weight"


@dataclass(frozen=True)
class Shared:
    """The products of one weight, which is stored in panels: the one that decides, and the rest."""

    first: Any
    rest: tuple[Any, ...]

    def write(self, columns: int) -> None:
        """Write onto the rest that the first one has panels of so many columns."""
        panels = Panels(columns, annotations.text(self.first, annotations.MATMUL))
        for op in self.rest:
            attribute = annotations.to_attribute(dataclasses.asdict(panels), op.context)
            op.attributes[annotations.PANELS] = attribute


def panels_on(op: Any) -> Panels | None:
    """Return the panels that another product decides for the weight of `op`, if one does."""
    if annotations.PANELS not in op.attributes:
        return None
    return Panels(**annotations.from_attribute(op.attributes[annotations.PANELS]))


def columns_on(op: Any) -> int | None:
    """Return the columns of :func:`panels_on`."""
    panels = panels_on(op)
    return None if panels is None else panels.columns


def settle(
    module: ir.Module, unit: str, family_of: FamilyOf, asked: Callable[[Any], int | None]
) -> list[Shared]:
    """Decide the panels of the weights that several products share; write them onto the products.

    ``asked(op)`` are the columns of the tile that is on a product, or None.  What was decided
    before stays.
    """
    if unit not in ISAS:
        return []
    users: dict[str, list[tuple[Any, Any]]] = {}
    for op in annotations.matmuls(module):
        family = family_of(op, unit)
        stored_as = getattr(family, "stored_as", None)
        if stored_as is None:
            continue
        plan = family.match(op, unit)
        name = "" if isinstance(plan, Refusal) else stored_as(plan)
        if name:
            users.setdefault(name, []).append((op, plan))
    found = []
    for several in users.values():
        if len(several) < 2 or any(annotations.PANELS in op.attributes for op, _ in several):
            continue
        first, plan = max(several, key=lambda user: (asked(user[0]) is not None, *_work(user[1])))
        shared = Shared(first, tuple(op for op, _ in several if op != first))
        shared.write(asked(first) or plan.kernel.tile.columns)
        found.append(shared)
    return found


def _work(plan: Any) -> Sequence[int]:
    """Return what orders products of one weight: all rows, and those of one batch."""
    batch, m = (ROWS if size is None else size for size in plan.kernel.sizes[:2])
    return batch * m, m
