"""Turn the budget of a recipe into a number of planes for each matmul (``allocation.py``).

A rule of form ``binary`` may leave the choice among several numbers of planes open.  What each
would lose is measured: on the product where a calibration has told what the matmul reads, else on
the weight; the part that is lost counts as often as there are weights.  (On MiniLM, three planes on
average, the error of embeddings falls by 9 % so, and rises by 7 % where all layers count alike.)
Codes for that are made without the descent that follows error feedback: what is better then is
better after it too, and it is most of the time that coding takes.
"""

import dataclasses
import glob
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from iree.compiler import ir
from numpy.typing import NDArray

from ..errors import UserError
from ..passes import annotations, binary_weights
from ..passes.assign_forms import AssignForms, form_of
from ..passes.base import Refusal
from ..passes.forms import Form, Rule, first_match, rules_to_text
from ..passes.name_matmuls import NameMatmuls
from ..passes.runner import Runner
from . import parameters
from .allocation import Layer, allocate, relative_errors
from .derivations import apply_layout
from .frontend import Model
from .recipe import Budget, Recipe

Moments = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Allotment:
    """The recipe with the budget spent, and what it was spent on.

    ``calibrated`` of the matmuls in `planes` were measured on their products.
    """

    recipe: Recipe
    planes: dict[str, int]
    average: float
    calibrated: int

    def describe(self) -> str:
        """Say in a line how many matmuls got how many planes."""
        counts = {p: list(self.planes.values()).count(p) for p in sorted(set(self.planes.values()))}
        shares = ", ".join(f"{p} in {count}" for p, count in counts.items())
        by = f"{self.calibrated} of {len(self.planes)} matmuls measured on inputs"
        return f"planes of signs: {shares or 'none'}; {self.average:.4g} on average; {by}"

    def facts(self) -> dict[str, Any]:
        """Return what the report has of it."""
        return {"average": self.average, "calibrated": self.calibrated, "of": self.planes}


def allot(model: Model, recipe: Recipe, moments: Moments) -> Allotment:
    """Spend the budget of `recipe`, which has one, on the matmuls of `model`.

    A budget that goes by inputs needs moments; without any, its rules hold as they are.
    Uses of one weight get the same planes, as they share its codes.  A matmul that cannot be coded
    has no part in the budget.  `model` is not changed.

    Raises
    ------
    UserError
        The budget is too small for any choice; rules differ about one weight; a weight holds NaN or
        infinity; SciPy is missing.
    """
    budget = recipe.budget
    if budget is None:
        return Allotment(recipe, {}, 0.0, 0)
    weights, refused = _weights(model.copy(), recipe, budget)
    layers = [_layer(model, weight, moments) for weight in weights]
    try:
        chosen = allocate(layers, budget.average)
    except UserError as error:
        raise UserError(error.what, where=f"recipe '{recipe.name}'", hint=error.hint) from error
    total = sum(layer.weights for layer in layers)
    spent = sum(layer.weights * chosen[layer.name] for layer in layers)
    planes = {name: chosen[weight.names[0]] for weight in weights for name in weight.names}
    return Allotment(
        decided(recipe, planes, refused),
        planes,
        spent / total if total else 0.0,
        sum(len(weight.names) for weight in weights if weight.names[0] in moments),
    )


def decided(recipe: Recipe, planes: Mapping[str, int], others: Collection[str] = ()) -> Recipe:
    """Return `recipe` with the planes of each matmul in rules of their own, and no budget.

    A rule whose choice is spent stays for `others`, matmuls that cannot be coded, or if it decides
    for none, which is then warned of.
    """
    budget = recipe.budget
    if budget is None:
        return recipe
    rules: list[Rule] = []
    for number, rule in enumerate(recipe.rules):
        if number not in dict(budget.choices):
            rules.append(rule)
            continue
        mine = [name for name in planes if first_match(recipe.rules, name) is rule]
        rules += [
            Rule(glob.escape(name), dataclasses.replace(rule.form, planes=planes[name]))
            for name in mine
        ]
        is_left = any(first_match(recipe.rules, name) is rule for name in others)
        if is_left or not mine:
            rules.append(rule)
    return dataclasses.replace(recipe, rules=tuple(rules), budget=None)


@dataclass
class _Weight:
    """A weight in rows, the matmuls that use it, and its plan by number of planes."""

    plans: dict[int, binary_weights.Plan]
    names: list[str]
    source: str
    layout: str
    shape: tuple[int, int, int]
    wanted: tuple[Form, tuple[int, ...]]  # what its rule says


def _weights(model: Model, recipe: Recipe, budget: Budget) -> tuple[list[_Weight], list[str]]:
    """Return the weights of matmuls whose planes are open, and the matmuls that cannot be coded.

    `model` is annotated.
    """
    Runner([NameMatmuls(), AssignForms(rules=rules_to_text(recipe.rules))]).run(model.module)
    choices = {id(recipe.rules[number]): planes for number, planes in budget.choices}
    found: dict[tuple[str, str], _Weight] = {}
    refused = []
    for op in annotations.matmuls(model.module):
        name = annotations.text(op, annotations.MATMUL)
        rule = first_match(recipe.rules, name)
        if id(rule) not in choices:
            continue
        wanted = (form_of(op), choices[id(rule)])
        plans = _plans(model.module, op, wanted[1])
        if not plans:
            refused.append(name)
            continue
        rows = next(iter(plans.values())).found
        layout = json.dumps(rows.layout)
        weight = found.setdefault(
            (rows.source, layout),
            _Weight(plans, [], rows.source, layout, (rows.batch, rows.n, rows.k), wanted),
        )
        if weight.wanted != wanted:
            raise UserError(
                f"'{weight.names[0]}' and '{name}' share a weight, and their rules differ",
                where=f"recipe '{recipe.name}', parameter '{rows.source}'",
                hint="one rule for both: its codes, and so its planes, are the same",
            )
        if name not in weight.names:
            weight.names.append(name)
    return list(found.values()), refused


def _plans(module: ir.Module, op: Any, planes: tuple[int, ...]) -> dict[int, binary_weights.Plan]:
    form = form_of(op)
    tried = {
        p: binary_weights.match(module, op, dataclasses.replace(form, planes=p)) for p in planes
    }
    return {p: plan for p, plan in tried.items() if not isinstance(plan, Refusal)}


def _layer(model: Model, weight: _Weight, moments: Moments) -> Layer:
    batch, n, k = weight.shape
    stored = parameters.read(model, weight.source)
    matrices = apply_layout(stored, json.loads(weight.layout)).reshape(batch, n, k)
    formats = {planes: plan.fmt for planes, plan in weight.plans.items()}
    measured = next((moments[name] for name in weight.names if name in moments), None)
    errors = dict.fromkeys(formats, 0.0)
    for matrix in matrices:
        values = np.ascontiguousarray(matrix, np.float32)
        try:
            found = relative_errors(values, formats, measured)
        except ValueError as error:
            raise UserError(
                f"the weight cannot be stored anew: {error}", where=f"parameter '{weight.source}'"
            ) from error
        for planes, lost in found.items():
            errors[planes] += lost * n * k
    return Layer(weight.names[0], batch * n * k, errors, {p: float(p) for p in formats})
