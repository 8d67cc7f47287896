"""``POST /v1/predict-tiles``: what a compiler asks that uses this server as its cost model."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from ...passes.tiling import space
from ...passes.tiling.problem import Problem
from .choose import model_for, predicted
from .faults import Fault
from .openapi import errors
from .products import check_problem, only_products
from .read_route import ReadRoute
from .repository import Repository
from .state import State

MOST_PROBLEMS = 64


class PredictRequest(BaseModel):
    """Problems as lowc's compiler writes them (``lowc.passes.tiling.problem``)."""

    model_config = ConfigDict(extra="forbid", strict=True)

    problems: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MOST_PROBLEMS)]


class TileTimes(BaseModel):
    """Times of all tiles of one problem; the first is the default."""

    tiles: list[str]
    seconds: list[float]
    spread: Annotated[list[float], Field(description="Of the logarithm of the gain over the first")]


class PredictAnswer(BaseModel):
    """Predictions in the order of the problems."""

    model: str
    machine: Annotated[str, Field(description="What the model was fitted on")]
    predictions: list[TileTimes]


def predict_routes(state: State) -> APIRouter:
    """Return the endpoint."""
    router = APIRouter(tags=["lowc"], route_class=ReadRoute)
    settings = state.settings

    @router.post(
        "/v1/predict-tiles", summary="Times of all tiles of a compiler's problems",
        responses=errors(404),
    )  # fmt: skip
    async def predict_tiles(request: PredictRequest) -> PredictAnswer:
        until = time.monotonic() + settings.request_seconds
        answer: PredictAnswer = await state.calculate(_answer, state.repository, request, until)
        return answer

    return router


def _answer(repository: Repository, request: PredictRequest, until: float) -> PredictAnswer:
    problems = [_problem(value) for value in request.problems]
    if len({problem.unit for problem in problems}) > 1:
        raise Fault(400, "the problems of one request are for one unit")
    model = model_for(repository, problems[0].unit)
    found = []
    for problem in problems:
        if time.monotonic() > until:  # Nobody waits for the others any more.
            raise Fault(504, "there is no time for so many problems")
        found.append(_times(model, problem))
    return PredictAnswer(
        model=model.ranker.manifest.name, machine=model.ranker.machine.name, predictions=found
    )


def _problem(value: dict[str, Any]) -> Problem:
    try:
        problem = Problem.from_json(json.dumps(value))
    except (ValueError, TypeError) as error:
        raise Fault(400, f"{error}"[:300]) from None
    return check_problem(problem)


def _times(model: Any, problem: Problem) -> TileTimes:
    with only_products(problem):
        tilings = space.candidates(problem)
        found = predicted(model, problem, tilings)
    return TileTimes(
        tiles=[one.text for one in tilings], seconds=found.seconds.tolist(),
        spread=found.spread.tolist(),
    )  # fmt: skip
