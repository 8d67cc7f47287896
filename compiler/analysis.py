"""What a recipe would make of a model: import and passes alone, no parameters and no code."""

from typing import Any

from ..passes.count_operations import count
from ..passes.runner import PassFailure, Runner
from . import planes, report
from .frontend import open_model
from .pipeline import passes_for
from .recipe import Recipe, load_recipe
from .target import Target, load_target


def analyse(
    model: Any, recipe: str | Recipe = "f32", target: str | Target = "cpu"
) -> dict[str, Any]:
    """Return the report of :func:`lowc.compile` on matmuls and energy, without compiling.

    Parameters
    ----------
    model, recipe, target
        As for :func:`lowc.compile`.  A :class:`Model` is rewritten: pass a copy of it.  A budget of
        planes is spent by the weights alone, or, if it goes by inputs, alike on all.

    Raises
    ------
    UserError, InternalError
        As :func:`lowc.compile` does.
    """
    chosen, goal = load_recipe(recipe), load_target(target)
    with open_model(model) as imported:
        if chosen.budget is not None and not chosen.budget.by_inputs:
            chosen = planes.allot(imported, chosen, {}).recipe
        exported = count(imported.module)
        runner = Runner(passes_for(chosen, goal))
        try:
            runner.run(imported.module)
        except PassFailure as failure:
            raise failure.cause from failure
        found = report.facts(imported.module, runner.remarks, exported)
    return {"recipe": chosen.name, "target": goal.name, **found}
