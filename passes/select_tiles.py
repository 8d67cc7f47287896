"""``lowc-select-tiles``: choose the tile of every product by a cost model, or by measurements."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from iree.compiler import ir

from ..errors import UserError
from . import annotations, shared_panels
from .base import Pass, Refusal, RemarkKind
from .kernels import tiles
from .outline_kernels import family_of
from .tiling import attribute, choice, families, rankers, tilings
from .tiling.choice import Choice
from .tiling.problem import BACKENDS, Problem
from .tiling.record import Machine
from .tiling.tilings import KernelTiling, Tiling

Measured = dict[str, dict[Tiling, float]]  # key of a problem → seconds of its tiles


@dataclass(frozen=True)
class SelectTiles(Pass):
    """Choose how the loops of each product are cut, among all tiles that it can have.

    The ranker estimates what a call takes with each of them.  The default tile stays where another
    one gains less than the estimate is sure of; and where tiles were measured, the fastest of them
    is taken, never one that is slower than the default.  A tile that is on a product already stays.
    Of a weight that several products share, the one with the most rows chooses the panels, and the
    others among tiles for these.

    Before::

        %y = linalg.matmul {lowc.matmul = "fc", lowc.form = {form = "exact"}} ins(%x, %w : ...) ...

    After::

        %y = linalg.matmul {lowc.matmul = "fc", lowc.form = {form = "exact"},
            lowc.tile = "t8x3v16k384g4c128", lowc.predicted = 7.1e-04 : f64,
            lowc.why = "roofline: the best of 136, 5 % before the default"} ins(%x, %w : ...) ...

    Parameters
    ----------
    unit : str
        The vector unit or the code of a GPU, as for ``lowc-outline-kernels``.
    kernels : bool
        Whether products get lowc's kernels; else all are tiled for IREE's code generation.
    cost_model : str
        ``none`` chooses by what was measured alone; ``roofline`` is an estimate without data;
        ``learned`` was fitted on this machine, or comes with lowc; else a folder with a fitted
        model.
    top_k : int
        How many of the best a remark names.
    machine : str
        What it will run on, as JSON (:class:`.tiling.record.Machine`).
    measured : str
        What was measured there: ``{problem's key: {tile: seconds}}`` as JSON; ``Infinity`` of a
        tile that failed.
    """

    unit: tiles.Unit = "none"
    kernels: bool = True
    cost_model: str = rankers.NONE
    top_k: int = 3
    machine: str = ""
    measured: str = ""
    name: ClassVar[str] = "lowc-select-tiles"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Write the tile, what it is expected to take, and why, onto every product."""
        known = _measured(self.measured)
        ranker = rankers.ranker(self.cost_model, _machine(self.machine, self.unit))
        if self.unit == "none" or (ranker is None and not known):
            return
        several = []
        if self.kernels:
            several = shared_panels.settle(module, self.unit, family_of, attribute.columns_asked)
        found: dict[tuple[Problem, KernelTiling | None], Choice] = {}
        for op, problem in products(module, self.unit, kernels=self.kernels):
            key = problem, self._of_stored(op)
            if key not in found:
                of_problem = known.get(problem.key)
                found[key] = choice.choose(problem, ranker, self.top_k, of_problem, stored=key[1])
            self._write(op, found[key], remark)
            for shared in several:
                tiling = found[key].tiling
                if shared.first == op and isinstance(tiling, KernelTiling):
                    shared.write(tiling.tile.columns)
        # After the choices: whether a server answered is known then.
        if found and (warning := getattr(ranker, "warning", "")):
            remark(RemarkKind.WARNING, None, self.name, warning)

    def _of_stored(self, op: Any) -> KernelTiling | None:
        """Return the default tile where another product has decided the panels of the weight."""
        if annotations.PANELS not in op.attributes:
            return None
        tiling = families.tiling_of(family_of(op, self.unit).match(op, self.unit).kernel)
        return tiling if isinstance(tiling, KernelTiling) else None

    def _write(self, op: Any, chosen: Choice, remark: Callable[..., None]) -> None:
        name = annotations.text(op, annotations.MATMUL)
        if not chosen.is_default:
            annotations.set_text(op, annotations.TILE, chosen.tiling.text)
        annotations.set_text(op, annotations.WHY, chosen.reason)
        if chosen.seconds is not None:
            number = ir.FloatAttr.get(ir.F64Type.get(op.context), chosen.seconds)
            op.attributes[annotations.PREDICTED] = number
        best = ", ".join(tiling.text for tiling in chosen.best[: self.top_k])
        text = f"tile {chosen.tiling.text} ({chosen.reason}); the best: {best}"
        remark(RemarkKind.NOTE, op, name, text)


def products(
    module: ir.Module, unit: str, *, kernels: bool = True
) -> Iterator[tuple[Any, Problem]]:
    """Yield the products whose tile can be chosen; those that have one already are left out.

    Those come last that have the panels of another product, whose tile may change until then.
    """
    for op in sorted(
        annotations.matmuls(module), key=lambda op: annotations.PANELS in op.attributes
    ):
        if annotations.TILE in op.attributes:
            continue
        family = family_of(op, unit)
        plan: Any = Refusal("kernels are off")
        if family is not None and kernels:
            plan = family.match(op, unit)
        if not isinstance(plan, Refusal):
            if families.has_space(plan.kernel):
                yield op, families.problem_of(plan.kernel, unit)
        elif unit in tiles.ISAS or unit in BACKENDS:
            found = attribute.linalg_problem(op, unit)
            if not isinstance(found, Refusal):
                yield op, found.problem


def _machine(text: str, unit: str) -> Machine:
    try:
        return Machine.from_json(text) if text else Machine("", unit)
    except ValueError as error:
        raise UserError(f"the machine cannot be read: {error}", where=SelectTiles.name) from error


def _measured(text: str) -> Measured:
    if not text:
        return {}
    try:
        return {
            str(key): {tilings.parse(tile): float(seconds) for tile, seconds in times.items()}
            for key, times in json.loads(text).items()
        }
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"what was measured cannot be read: {error}", where=SelectTiles.name
        ) from error
