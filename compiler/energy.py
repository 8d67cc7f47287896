"""What operations cost in picojoules, by a table of prices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from ..passes.count_operations import Tally
from .energy_table import DEFAULT, PARTS, Table, load_table

__all__ = ["DEFAULT", "EnergyEstimate", "Table", "load_table", "price"]


@dataclass(frozen=True)
class EnergyEstimate:
    """Picojoules of some operations.

    Attributes
    ----------
    arithmetic_pj : float
        Multiplying and accumulating: what papers count.
    guard_pj : float
        Comparisons, selections, logic and shifts around it.
    memory_pj : float
        Bits moved.
    unpriced : dict
        Kind to number of the operations that the table has no price for; they are in no sum.
    """

    arithmetic_pj: float = 0.0
    guard_pj: float = 0.0
    memory_pj: float = 0.0
    unpriced: dict[str, int] = field(default_factory=dict)

    @property
    def compute_pj(self) -> float:
        """Arithmetic and guards."""
        return self.arithmetic_pj + self.guard_pj


def price(operations: Mapping[str, int], table: Table, *, bits: int = 0) -> EnergyEstimate:
    """Price operations by kind, and bits moved."""
    costs: dict[str, list[float]] = {part: [] for part in PARTS}
    unpriced: dict[str, int] = {}
    for kind, number in sorted(operations.items()):
        found = table.price_of(kind)
        if found is None:
            unpriced[kind] = number
        else:
            costs[found.part].append(number * found.picojoules)
    # Exact sums: what did not change must show a saving of zero.
    core, guard = (math.fsum(costs[part]) for part in PARTS)
    return EnergyEstimate(core, guard, bits * table.picojoules_per_bit, unpriced)


def saving(cost: float, instead_of: float) -> float | None:
    """Return the part of `instead_of` that `cost` saves, None if there was nothing to save."""
    return 1 - cost / instead_of if instead_of > 0 else None


def iterations_of(shape: str) -> int:
    """Return the product of the sizes of `shape` (``12x128x?x32``), dynamic ones taken as 1."""
    sizes = shape.split("x") if shape else []
    return math.prod(1 if size == "?" else int(size) for size in sizes)


def summary(exported: Tally, counted: Tally, table: Table) -> dict[str, Any]:
    """Return the energy of a call as data, beside that of the model as it was exported.

    ``saving`` is of arithmetic and guards together, ``core_saving`` of arithmetic alone.
    """
    before, after = _priced(exported, table), _priced(counted, table)
    old, new = before["picojoules"], after["picojoules"]
    return {
        "table": table.name,
        "source": table.source,
        "dynamic": exported.dynamic or counted.dynamic,
        **after,
        "saving": saving(
            new["arithmetic"] + new["guards"], old["arithmetic"] + old["guards"]
        ),
        "core_saving": saving(new["arithmetic"], old["arithmetic"]),
        "exported": {key: value for key, value in before.items() if key != "unpriced"},
    }  # fmt: skip


def joules_text(picojoules: float) -> str:
    """Return an energy for people: ``0.05 pJ``, ``12.3 nJ``, ``6.63 mJ``."""
    value, unit = picojoules, "pJ"
    for larger in ("nJ", "µJ", "mJ", "J"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def change_text(saved: float | None) -> str:
    """Return a saving as a change in per cent: ``-73.0 %``; nothing if there was none to make."""
    if saved is None:
        return ""
    percent = round(-100 * saved, 1)
    return f"{percent:+.1f} %" if percent else "0.0 %"


def tallies_of(data: Any, where: str) -> tuple[Tally, Tally]:
    """Return what :func:`summary` was made of: (exported, counted).

    Raises
    ------
    UserError
        When `data`, from a file called `where`, is not such a summary.
    """
    try:
        return Tally.from_dict(data["exported"]), Tally.from_dict(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            "the report in the module has no count of operations", where=where,
            hint="compile the model again with this lowc",
        ) from error  # fmt: skip


def _priced(tally: Tally, table: Table) -> dict[str, Any]:
    found = price(tally.operations, table, bits=tally.bits)
    data = tally.to_dict()
    data.pop("dynamic", None)
    return data | {
        "picojoules": {
            "arithmetic": found.arithmetic_pj,
            "guards": found.guard_pj,
            "memory": found.memory_pj,
            "memory_of_weights": tally.weight_bits * table.picojoules_per_bit,
        },
        "unpriced": found.unpriced,
    }
