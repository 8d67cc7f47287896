"""``POST /v1/estimate``: what the matmuls of an MLIR module cost, each and together."""

from __future__ import annotations

import math
import time
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from ...passes.tiling.problem import Problem
from . import choose
from .choose import Chosen
from .faults import Fault
from .openapi import errors
from .read_route import ReadRoute
from .reading_client import ReadingClient
from .repository import Repository
from .state import State


class EstimateRequest(BaseModel):
    """A module and how it is to be compiled."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mlir: Annotated[
        str, Field(min_length=1, description="Text of a module with one public function")
    ]
    recipe: Annotated[str, Field(max_length=300, description="A built-in recipe")] = "f32"
    target: Annotated[str, Field(max_length=300, description="cpu, vulkan or cuda")] = "cpu"


class MatmulEstimate(BaseModel):
    """One matmul of the module; what is not known is null."""

    name: str
    shape: Annotated[str, Field(description="batch x M x N x K; ? is known at run time only")]
    form: str
    lowering: str
    tile: str | None
    seconds: float | None
    bytes_moved: float | None
    energy_picojoules: Annotated[float | None, Field(description="Arithmetic and guards")]
    energy_exact_picojoules: Annotated[float, Field(description="With f32 multiplications")]


class EnergyEstimate(BaseModel):
    """Picojoules of one call of the whole module, by a table of prices."""

    table: str
    arithmetic: float
    guards: float
    memory: float
    exact_arithmetic: Annotated[float, Field(description="With f32 multiplications")]
    saving: Annotated[float | None, Field(description="Part of the arithmetic and guards saved")]


class EstimateAnswer(BaseModel):
    """What one call of the module costs."""

    recipe: str
    target: str
    matmuls: list[MatmulEstimate]
    seconds: Annotated[float | None, Field(description="Of all matmuls; null if one is not known")]
    bytes_moved: float
    weight_bytes: float
    energy: EnergyEstimate
    remarks: list[str]


def estimate_routes(state: State) -> APIRouter:
    """Return the endpoint; MLIR is read by a process that may crash."""
    router = APIRouter(tags=["lowc"], route_class=ReadRoute)
    client, most = ReadingClient(state.settings), state.settings.max_mlir

    @router.post(
        "/v1/estimate", summary="What an MLIR module costs", responses=errors(400, 503),
    )  # fmt: skip
    async def estimate(request: EstimateRequest) -> EstimateAnswer:
        if len(request.mlir) > most or len(request.mlir.encode()) > most:
            raise Fault(413, f"MLIR has at most {most} bytes")
        until = time.monotonic() + state.settings.request_seconds
        report = await client.read(request.model_dump())
        answer: EstimateAnswer = await state.calculate(answer_of, report, state.repository, until)
        return answer

    return router


def answer_of(
    report: dict[str, Any], repository: Repository, until: float = math.inf
) -> EstimateAnswer:
    """Return the answer for what :func:`.reading.read` says; times are by the served models.

    Raises
    ------
    Fault
        504, when the monotonic clock is past `until`: nobody waits any more.
    """
    rows = []
    for row in report["matmuls"]:
        if time.monotonic() > until:
            raise Fault(504, "there is no time for so many matmuls")
        if row["kind"] != "elementwise":
            rows.append(_row(row, report["products"].get(row["name"]), repository))
    energy = report["energy"]
    parts, exact = energy["picojoules"], energy["exported"]["picojoules"]
    times = [row.seconds for row in rows if row.seconds is not None]
    bits = sum(energy[key] for key in ("weight_bits", "read_bits", "written_bits"))
    return EstimateAnswer(
        recipe=report["recipe"], target=report["target"], matmuls=rows,
        seconds=math.fsum(times) if len(times) == len(rows) else None,
        bytes_moved=bits / 8, weight_bytes=energy["weight_bits"] / 8,
        energy=EnergyEstimate(
            table=energy["table"], arithmetic=parts["arithmetic"], guards=parts["guards"],
            memory=parts["memory"], exact_arithmetic=exact["arithmetic"], saving=energy["saving"],
        ),
        remarks=[f"{one['subject']}: {one['message']}" for one in report["remarks"][:200]],
    )  # fmt: skip


def _chosen(known: Problem, repository: Repository) -> Chosen | None:
    """Return the tile of a product by the model for its unit, if there is one."""
    try:
        return choose.answer_of(choose.model_for(repository, known.unit), known, 1, False)
    except Fault:
        return None


def _row(row: dict[str, Any], problem: str | None, repository: Repository) -> MatmulEstimate:
    moved = row["bits_moved"]
    tile, seconds = row["tile"], None
    if problem is not None:
        known = Problem.from_json(problem)
        if 0 in known.sizes:
            seconds = 0.0  # and there is nothing to cut into tiles
        elif chosen := _chosen(known, repository):
            tile, seconds = chosen.tile, chosen.seconds
    return MatmulEstimate(
        name=row["name"], shape=row["shape"], form=row["form"], lowering=row["lowering"],
        tile=tile, seconds=seconds,
        bytes_moved=None if moved is None else moved / 8,
        energy_picojoules=row["energy_picojoules"],
        energy_exact_picojoules=row["energy_exact_picojoules"],
    )  # fmt: skip
