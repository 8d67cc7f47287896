"""Weights that several products share: one of the products decides the columns of their panels.

A prompt and the next token are multiplied by one weight.  Kernels of other rows like other panels
best, but a weight is stored once: the product with the most work decides, or the one whose tile
was asked for, whatever their order.

Some kernels of one row read panels that no kernel of more rows can (``panels_as(plan)`` of a family
says "" of such a plan).  They give way where a product of the weight has another kernel.
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
    """Columns of the panels of a weight, the name of the product that decides them, and what of.

    ``kind`` says what lies in the panels where that is not the same for all products of a weight.
    """

    columns: int
    of: str
    kind: str = ""

    @property
    def reason(self) -> str:
        """Why a product has them, for the report."""
        kind = f"{self.kind} in " if self.kind else ""
        return f"{kind}panels of {self.columns} columns, which '{self.of}' has of this weight"


@dataclass(frozen=True)
class Shared:
    """The products of one weight, which is stored in panels: the one that decides, and the rest.

    ``kind`` is as :class:`Panels` has it.
    """

    first: Any
    rest: tuple[Any, ...]
    kind: str = ""

    def write(self, columns: int) -> None:
        """Write onto the rest that the first one has panels of so many columns."""
        panels = Panels(columns, annotations.text(self.first, annotations.MATMUL), self.kind)
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
    users: dict[str, list[tuple[Any, Any, str | None]]] = {}
    for op in annotations.matmuls(module):
        family = family_of(op, unit)
        stored_as = getattr(family, "stored_as", None)
        if stored_as is None:
            continue
        plan = family.match(op, unit)
        name = "" if isinstance(plan, Refusal) else stored_as(plan)
        if name:
            as_ = family.panels_as(plan) if hasattr(family, "panels_as") else None
            users.setdefault(name, []).append((op, plan, as_))
    found = []
    for several in users.values():
        if len(several) < 2 or any(annotations.PANELS in op.attributes for op, *_ in several):
            continue
        rest = [op for op, _, kind in several if not kind]
        able = [user for user in several if user[2] != ""]
        if not rest or not able:
            continue  # All of them read the same panels.
        first, plan, kind = max(able, key=lambda one: (asked(one[0]) is not None, *_work(one[1])))
        shared = Shared(first, tuple(op for op in rest if op != first), kind or "")
        shared.write(asked(first) or plan.kernel.tile.columns)
        found.append(shared)
    return found


def _work(plan: Any) -> Sequence[int]:
    """Return what orders products of one weight: all rows, and those of one batch."""
    batch, m = (ROWS if size is None else size for size in (plan.kernel.batch, plan.kernel.m))
    return batch * m, m
