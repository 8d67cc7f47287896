"""What a process that reads MLIR does: run a recipe's passes, tell what became of matmuls."""

from __future__ import annotations

import dataclasses
from typing import Any

from ...errors import UserError, nearest

EXAMPLE = {
    "mlir": (
        "func.func @main(%x: tensor<4x8xf32>, %y: tensor<8x16xf32>) -> tensor<4x16xf32> {\n"
        "  %c = arith.constant 0.0 : f32\n  %e = tensor.empty() : tensor<4x16xf32>\n"
        "  %f = linalg.fill ins(%c : f32) outs(%e : tensor<4x16xf32>) -> tensor<4x16xf32>\n"
        "  %r = linalg.matmul ins(%x, %y : tensor<4x8xf32>, tensor<8x16xf32>)\n"
        "       outs(%f : tensor<4x16xf32>) -> tensor<4x16xf32>\n"
        "  return %r : tensor<4x16xf32>\n}\n"
    ),
    "recipe": "f32",
    "target": "cpu",
}


def prepare() -> None:
    """Find out once what all readers need: IREE is asked for the vectors of each target."""
    from ...compiler import energy
    from ...compiler.backend import vector_unit
    from ...compiler.target import load_target, target_names

    energy.load_table()
    for name in target_names():
        vector_unit(load_target(name))


def read(request: dict[str, str]) -> dict[str, Any]:
    """Return the report of a module's text under a built-in recipe.

    Raises
    ------
    UserError
        When the text is no MLIR, or the recipe or the target is no built-in one.
    """
    from ...compiler import report
    from ...compiler.backend import vector_unit
    from ...compiler.frontend import model_of_module, parse_module
    from ...compiler.pipeline import passes_for
    from ...compiler.recipe import built_in_names, load_recipe
    from ...compiler.target import load_target, target_names
    from ...passes.count_operations import count
    from ...passes.runner import PassFailure, Runner
    from .products_pass import ListProducts

    _one_of(request["recipe"], built_in_names(), "recipe")
    _one_of(request["target"], target_names(), "target")
    recipe, target = load_recipe(request["recipe"]), load_target(request["target"])
    model = model_of_module(parse_module(request["mlir"], "mlir"), "mlir")
    # Without weights there is no budget to spend: every rule's own planes hold.
    recipe = dataclasses.replace(recipe, budget=None)
    exported = count(model.module)
    listed = ListProducts(unit=vector_unit(target))
    runner = Runner(passes_for(recipe, target, tiles=listed))
    try:
        runner.run(model.module)
    except PassFailure as failure:
        raise failure.cause from failure
    facts = report.facts(model.module, runner.remarks, exported)
    return {"recipe": recipe.name, "target": target.name, "products": listed.found, **facts}


def _one_of(word: str, known: Any, kind: str) -> None:
    # A name is looked up, never opened: it could be a path.
    if word not in set(known):
        raise UserError(f"there is no {kind} '{word[:60]}'", hint=nearest(word[:60], known))
