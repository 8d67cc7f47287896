"""``POST /v1/choose-tiles``: the best tiles of matmuls, their times, and what limits them."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from ...passes.tiling import choice, features, space
from ...passes.tiling.choice import Prediction
from ...passes.tiling.problem import Problem
from ...passes.tiling.roofline import panel_bytes
from ...passes.tiling.tilings import KernelTiling, LinalgTiling, Tiling
from .cost_model import CostModel
from .faults import Fault, short
from .openapi import errors
from .products import Matmul, only_products, problem_of
from .read_route import ReadRoute
from .repository import Repository
from .state import State

MOST_MATMULS = 256
MOST_ALL = 8
_REMEMBERED = 512


class ChooseRequest(BaseModel):
    """Matmuls, and how much is to be said of each."""

    model_config = ConfigDict(extra="forbid", strict=True)

    matmuls: Annotated[list[Matmul], Field(min_length=1, max_length=MOST_MATMULS)]
    top: Annotated[int, Field(ge=1, le=64, description="How many of the best tiles to tell")] = 8
    all: Annotated[
        bool, Field(description="Tell every tile, not only the best; of 8 matmuls at most")
    ] = False


class Tile(BaseModel):
    """A tile and what it is believed to take.

    ``rows`` and ``columns`` are those of the block in registers, ``block_rows`` and
    ``block_columns`` those of a workgroup; 0 where IREE decides.
    """

    tile: str
    seconds: float
    spread: Annotated[float, Field(description="Standard deviation of the logarithm of the time")]
    rows: int
    columns: int
    block_rows: int
    block_columns: int


class LeastTimes(BaseModel):
    """What the product takes at least on the model's machine, at its measured rates."""

    memory_seconds: Annotated[float, Field(description="To move each byte once")]
    operation_seconds: Annotated[float, Field(description="To do each operation at full rate")]
    by: Literal["bytes", "operations"]
    bytes_moved: float
    products: int


class Chosen(BaseModel):
    """The tile for one matmul."""

    form: str
    shape: list[int]
    target: str
    model: str
    tile: str
    is_default: bool
    seconds: float | None
    default_seconds: float | None
    reason: str
    count: Annotated[int, Field(description="Legal tiles of the product")]
    best: list[Tile]
    limits: LeastTimes
    tiles: list[Tile] | None = None


class ChooseAnswer(BaseModel):
    """A tile for each matmul, in their order."""

    matmuls: list[Chosen]


def choose_routes(state: State) -> APIRouter:
    """Return the endpoint; predictions are made in a thread, and the last ones remembered.

    One thread for all matmuls of a request: two would wait for each other, at Python's lock.
    """
    router = APIRouter(tags=["lowc"], route_class=ReadRoute)
    settings = state.settings

    @router.post(
        "/v1/choose-tiles", summary="The best tiles of matmuls", responses=errors(404),
        response_model=ChooseAnswer,
    )  # fmt: skip
    async def choose_tiles(request: ChooseRequest) -> Response:
        if request.all and len(request.matmuls) > MOST_ALL:
            raise Fault(400, f"all tiles are told of {MOST_ALL} matmuls at most")
        until = time.monotonic() + settings.request_seconds
        answer: ChooseAnswer = await state.calculate(_answer, state.repository, request, until)
        # FastAPI would make dictionaries of it first.
        return Response(answer.model_dump_json(), media_type="application/json")

    return router


def _answer(repository: Repository, request: ChooseRequest, until: float) -> ChooseAnswer:
    found = []
    for matmul in request.matmuls:
        if time.monotonic() > until:  # Nobody waits for the others any more.
            raise Fault(504, "there is no time for so many matmuls")
        model = model_for(repository, matmul.target)
        problem = problem_of(matmul, model.unit if matmul.target == "cpu" else matmul.target)
        found.append(answer_of(model, problem, request.top, request.all))
    return ChooseAnswer(matmuls=found)


def model_for(repository: Repository, target: str) -> CostModel:
    """Return the newest model for `target`, a vector unit or ``cpu``, which any is for.

    Raises
    ------
    Fault
        404, when there is none.
    """
    models = repository.newest()
    known = [model for model in models if isinstance(model, CostModel) and not model.form]
    # Its own unit's model before one of the family.
    for model in sorted(known, key=lambda one: one.unit != target):
        if target == "cpu" or model.is_for(target):
            return model
    raise Fault(404, f"there is no model for {short(target)}")


def answer_of(model: CostModel, problem: Problem, top: int, tell_all: bool) -> Chosen:
    """Return what is said of one product; a list of all tiles, which is long, is not kept."""
    with only_products(problem):
        best = _best_of(model, problem, top)
        if not tell_all:
            return best
        tilings = space.candidates(problem)
        found = predicted(model, problem, tilings)
        return best.model_copy(update={"tiles": _all(problem, found, tilings)})


@functools.lru_cache(maxsize=_REMEMBERED)
def _best_of(model: CostModel, problem: Problem, top: int) -> Chosen:
    tilings = space.candidates(problem)
    found = predicted(model, problem, tilings)
    is_known = problem.is_static
    chosen = choice.choose(problem, _Known(model, found), top)
    place = tilings.index(chosen.tiling)
    order = np.argsort(found.seconds, kind="stable")
    described = [_tile(problem, found, tilings, int(i)) for i in order[:top]]
    return Chosen(
        form=problem.form, shape=[size or 0 for size in problem.sizes], target=problem.unit,
        model=f"{model.name} {model.version}", tile=chosen.tiling.text,
        is_default=chosen.is_default, seconds=float(found.seconds[place]) if is_known else None,
        default_seconds=float(found.seconds[0]) if is_known else None, reason=chosen.reason,
        count=len(tilings), best=described, limits=limits_of(model, problem),
    )  # fmt: skip


class _Known:
    """A ranker that was asked already."""

    def __init__(self, model: CostModel, found: Prediction) -> None:
        self.name, self._found = model.ranker.name, found

    def predict(self, _problem: Problem, _tilings: object) -> Prediction:
        """Return what it said."""
        return self._found


def predicted(model: CostModel, problem: Problem, tilings: Sequence[Tiling]) -> Prediction:
    """Return what a model says of all tiles of a problem.

    Raises
    ------
    Fault
        400, when it is no number.
    """
    found = model.ranker.predict(problem, tilings)
    if not (np.isfinite(found.seconds).all() and np.isfinite(found.spread).all()):
        raise Fault(400, f"{problem} is beyond what the model can say")
    return found


def _all(problem: Problem, found: Prediction, tilings: Sequence[Tiling]) -> list[Tile]:
    return [_tile(problem, found, tilings, i) for i in range(len(tilings))]


def _tile(problem: Problem, found: Prediction, tilings: Sequence[Tiling], i: int) -> Tile:
    rows, columns, block_rows, block_columns = _blocks(problem, tilings[i])
    return Tile(
        tile=tilings[i].text, seconds=float(found.seconds[i]), spread=float(found.spread[i]),
        rows=rows, columns=columns, block_rows=block_rows, block_columns=block_columns,
    )  # fmt: skip


def _blocks(problem: Problem, tiling: Tiling) -> tuple[int, int, int, int]:
    """Return rows and columns of the block in registers, and of a workgroup."""
    if isinstance(tiling, KernelTiling):
        tile = tiling.tile
        width = tile.vectors * tile.lanes
        return tile.rows, width, tile.row_chunk, width * tile.panels
    if isinstance(tiling, LinalgTiling):
        if not tiling.parallel:
            return (0, 0, 0, 0)
        (rows, columns), (down, across) = tiling.parallel[-3:-1], tiling.distribution[-3:-1]
        return rows, columns, down, across
    return tiling.tile.rows, tiling.tile.columns, tiling.tile.rows, tiling.tile.columns


def limits_of(model: CostModel, problem: Problem) -> LeastTimes:
    """Return the least times of a static product on the model's machine."""
    machine = model.ranker.machine
    batch, m, n, k = (size or 1 for size in problem.sizes)
    weights = panel_bytes(problem, n) * (batch if problem.own_batch else 1)
    moved = 4 * batch * m * (k + n) + weights
    memory = moved / (machine.bandwidth or features.BANDWIDTH)
    rate = machine.multiply_rate or features.MULTIPLY_RATE
    operations = problem.products * features.cost(problem) / rate
    return LeastTimes(
        memory_seconds=memory, operation_seconds=operations, bytes_moved=math.ceil(moved),
        products=problem.products, by="bytes" if memory > operations else "operations",
    )  # fmt: skip
