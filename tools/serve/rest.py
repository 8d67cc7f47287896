"""The Open Inference Protocol over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from ... import __version__
from . import messages, openapi
from .faults import Fault
from .inference import LARGE, infer
from .models import check_declared, metadata
from .openapi import described
from .state import State

NAME = "lowc"
EXTENSIONS = ["binary_tensor_data", "model_repository"]
BINARY_REQUEST = {
    "type": "string", "format": "binary",
    "description": "JSON of Inference-Header-Content-Length bytes, then the tensors",
}  # fmt: skip


class PlainRoute(APIRoute):
    """A route whose function takes the request and parts of the path, and returns a response.

    FastAPI's own would look for more to solve and to check, which takes longer than an answer.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what calls the function."""
        endpoint = self.endpoint

        async def handle(request: Request) -> Response:
            found: Response = await endpoint(request, **request.path_params)
            return found

        return handle


def json_response(data: Any, status: int = 200) -> Response:
    """Return `data` as the body of a response."""
    return Response(orjson.dumps(data), status, media_type=messages.JSON)


def server_metadata() -> dict[str, Any]:
    """Return what the protocol tells of the server."""
    return {"name": NAME, "version": __version__, "extensions": EXTENSIONS}


def health_routes(state: State) -> APIRouter:
    """Return what says whether the server lives and what it is."""
    router = APIRouter(tags=["Open Inference Protocol"], route_class=PlainRoute)

    @router.get("/v2/health/live", summary="Alive?", **described(openapi.flag("live")))
    async def live(_request: Request) -> Response:
        return json_response({"live": True})

    @router.get(
        "/v2/health/ready", summary="Ready for requests?",
        **described(openapi.flag("ready"), refuses=(503,)),
    )  # fmt: skip
    async def ready(_request: Request) -> Response:
        if not state.is_ready:
            raise Fault(503, "the server is not ready")
        return json_response({"ready": True})

    @router.get("/v2", summary="Metadata of the server", **described(openapi.SERVER_METADATA))
    async def server(_request: Request) -> Response:
        return json_response(server_metadata())

    return router


def model_routes(state: State) -> APIRouter:
    """Return what is asked of a model, by its newest version or by a named one."""
    router = APIRouter(tags=["Open Inference Protocol"], route_class=PlainRoute)
    repository, settings = state.repository, state.settings

    async def run(request: Request, model: str, version: str = "") -> Response:
        body = await request.body()
        length = request.headers.get(messages.HEADER_LENGTH)
        served = repository.find(model, version)
        check = partial(check_declared, served.model, settings.max_rows)
        limits = (length, settings.max_elements, check)
        if len(body) > LARGE:
            asked = await asyncio.to_thread(messages.decode, body, *limits)
            answer = await infer(served, asked, settings.max_rows)
            encoded = await asyncio.to_thread(messages.encode, answer)
        else:
            asked = messages.decode(body, *limits)
            encoded = messages.encode(await infer(served, asked, settings.max_rows))
        return Response(encoded.body, headers=encoded.headers)

    async def ready(_request: Request, model: str, version: str = "") -> Response:
        if not repository.is_ready(model, version) or state.is_draining:
            raise Fault(503, f"model '{model}' is not ready")
        return json_response({"name": model, "ready": True})

    async def about(_request: Request, model: str, version: str = "") -> Response:
        served = repository.find(model, version)
        return json_response(metadata(served.model, repository.versions(model)))

    infer_schema = described(openapi.INFER_ANSWER, openapi.INFER_REQUEST, refuses=(404,))
    content = infer_schema["openapi_extra"]["requestBody"]["content"]
    content[messages.BINARY] = {"schema": BINARY_REQUEST}
    for prefix, which in (
        ("/v2/models/{model}", "newest"), ("/v2/models/{model}/versions/{version}", "named"),
    ):  # fmt: skip
        versioned = which == "named"
        router.add_api_route(
            f"{prefix}/infer", run if versioned else _newest(run), methods=["POST"],
            summary=f"Ask a model, its {which} version", **infer_schema,
        )  # fmt: skip
        router.add_api_route(
            f"{prefix}/ready", ready if versioned else _newest(ready),
            summary=f"Is a model ready, its {which} version?",
            **described(openapi.flag("ready"), refuses=(404, 503)),
        )  # fmt: skip
        router.add_api_route(
            prefix, about if versioned else _newest(about),
            summary=f"Metadata of a model, its {which} version",
            **described(openapi.MODEL_METADATA, refuses=(404,)),
        )  # fmt: skip
    return router


def _newest(handler: Any) -> Any:
    async def newest(request: Request, model: str) -> Response:
        return await handler(request, model)

    return newest


def repository_routes(state: State) -> APIRouter:
    """Return what lists, loads and unloads models."""
    router = APIRouter(tags=["Model repository"], route_class=PlainRoute)

    @router.post(
        "/v2/repository/index", summary="Models, their versions and states",
        **described(openapi.INDEX_ANSWER, openapi.INDEX_REQUEST, may_be_empty=True),
    )  # fmt: skip
    async def index(request: Request) -> Response:
        body = await request.body()
        data = messages.read_json(body) if body else {}
        ready = data.get("ready", False) if isinstance(data, dict) else None
        if not isinstance(ready, bool):
            raise Fault(400, "the body must be an object, and 'ready' true or false")
        return json_response(state.repository.index(only_ready=ready))

    @router.post(
        "/v2/repository/models/{model}/load", summary="Load a model, or read it again",
        **described({"type": "object"}, refuses=(403, 404)),
    )  # fmt: skip
    async def load(_request: Request, model: str) -> Response:
        await state.repository.load(model)
        return json_response({})

    @router.post(
        "/v2/repository/models/{model}/unload", summary="Stop serving a model",
        **described({"type": "object"}, refuses=(403, 404)),
    )  # fmt: skip
    async def unload(_request: Request, model: str) -> Response:
        await state.repository.unload(model)
        return json_response({})

    return router
