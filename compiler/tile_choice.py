"""How the tiles of a model are chosen: by a cost model, by measuring, or by what was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from iree.compiler import ir

from ..errors import LowcError
from ..passes.annotations import TILE
from ..passes.select_tiles import SelectTiles
from ..passes.tiling import rankers
from .backend import REFUSED, vector_unit
from .measuring import top
from .measuring.fingerprint import fingerprint
from .target import Target


def is_refusal(error: LowcError) -> bool:
    """Whether IREE's code generation refused a module, as it does for tiles that it cannot have."""
    return error.what.startswith(REFUSED)


def said_of_refused(names: Sequence[str], error: LowcError) -> str:
    """Return what a user is told of products whose chosen tiles were left out, and why."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"IREE tiles {', '.join(names[:3])}{more} by itself: with the chosen tiles {error.what}"


def without_tiles(report: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return a report that says that the tiles of some products are IREE's own after all."""
    changed = {
        "tile": None,
        "predicted_seconds": None,
        "tile_reason": "IREE refused the chosen tile",
    }
    rows = [{**row, **changed} if row["name"] in names else row for row in report["matmuls"]]
    return {**report, "matmuls": rows}


def with_tiles(error: LowcError, told: Mapping[str, str]) -> LowcError:
    """Return an error of code generation that names the tiles it was told, by their products.

    Only where it refused the module: then one of them may be why.
    """
    if not told or not is_refusal(error):
        return error
    first = ", ".join(f"'{tile}' of '{name}'" for name, tile in list(told.items())[:3])
    more = f" and {len(told) - 3} more" if len(told) > 3 else ""
    hint = (
        f"it was told the tiles {first}{more}: without --cost-model, --measure-top and "
        f"'{TILE}' it takes its own"
    )
    whole = f"{hint}; {error.hint}" if error.hint else hint
    return type(error)(error.what, where=error.where, hint=whole, detail=error.detail)


@dataclass(frozen=True)
class TileChoice:
    """How tiles are chosen.

    Attributes
    ----------
    cost_model : str
        What ranks the tiles of a product: ``none``, ``roofline``, or a folder with a fitted model.
    measure_top : int
        Time so many of the best tiles of each product on this machine, and keep the fastest; what
        ranks them without a model is ``roofline``.
    measured : mapping
        What was timed on this machine before: seconds by tile, by the key of the product.
    tell : callable, optional
        Called with a sentence when another measurement is waited for, and when the cost model was
        fitted on another machine.
    """

    cost_model: str = rankers.NONE
    measure_top: int = 0
    measured: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    tell: Callable[[str], object] | None = None

    def __post_init__(self) -> None:
        """Raise a UserError, before anything takes long, if there is no such cost model."""
        rankers.check(self.cost_model)

    def selection(
        self, target: Target, before: Callable[[SelectTiles], ir.Module], *, kernels: bool
    ) -> SelectTiles:
        """Return the pass that chooses, when all that is to be measured has been.

        ``before(selection)`` is a module that has come to where that pass stands.

        Raises
        ------
        UserError
            When tiles are to be measured for another machine, or the model cannot be read.
        """
        machine = fingerprint(target)
        chosen = SelectTiles(
            unit=vector_unit(target),
            kernels=kernels,
            cost_model=self.cost_model,
            machine=machine.to_json(),
            measured=top.to_text(self.measured),
        )
        name = rankers.ROOFLINE if self.cost_model == rankers.NONE else self.cost_model
        ranker = rankers.ranker(name, machine)
        warning = rankers.warning(ranker)
        if warning and self.tell is not None:
            self.tell(warning)
        if self.measure_top < 1:
            return chosen
        top.check(target)
        module = before(chosen)
        with module.context:
            problems = top.problems_of(module, chosen.unit, kernels=kernels)
        found = top.measure_top(problems, ranker, self.measure_top, target, self.tell)
        return dataclasses.replace(chosen, measured=top.to_text({**self.measured, **found}))
