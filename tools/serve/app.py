"""The HTTP application: every route, errors as the protocol wants them, the gate around it."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ... import __version__
from . import rest
from .choose import choose_routes
from .estimate import estimate_routes
from .faults import Fault
from .gate import Gate
from .pages import page_routes
from .predict import predict_routes
from .state import State


def make_app(state: State) -> Gate:
    """Return the ASGI application of one worker."""
    # Its pages of documentation fetch their scripts from elsewhere: /openapi.json is what there is.
    app = FastAPI(
        title="lowc serve", version=__version__, docs_url=None, redoc_url=None,
        summary="How long a matmul takes, which tile it should have, what a module costs.",
        # A redirect would go to whatever host the request names.
        redirect_slashes=False,
    )  # fmt: skip
    app.add_exception_handler(Fault, _fault)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.include_router(rest.model_routes(state))
    app.include_router(rest.health_routes(state))
    app.include_router(rest.repository_routes(state))
    app.include_router(choose_routes(state))
    app.include_router(predict_routes(state))
    app.include_router(page_routes(state))
    app.include_router(estimate_routes(state))

    one_by_one = asyncio.Lock()  # adding up the figures of all workers takes a thread

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        async with one_by_one:
            state.metrics.flush()
            text = await asyncio.to_thread(state.metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    # Made when it is asked for: it takes as long as all the rest.
    app.openapi = functools.cache(lambda: _described(app))  # type: ignore[method-assign]
    return Gate(app, state)


def _described(app: FastAPI) -> dict[str, Any]:
    """Return the schema of `app` without the answers that FastAPI gives and this one does not."""
    schema = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes
    )
    for methods in schema["paths"].values():
        for route in methods.values():
            route["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
    return schema


async def _fault(_request: Request, error: Any) -> Response:
    headers = {"retry-after": "1"} if error.status in (429, 503) else {}
    response = rest.json_response(error.body, error.status)
    response.headers.update(headers)
    return response


async def _http(request: Request, error: Any) -> Response:
    said = {404: f"there is nothing at {request.url.path[:200]!r}", 405: "not with this method"}
    response = rest.json_response(
        {"error": said.get(error.status_code, str(error.detail))}, error.status_code
    )
    response.headers.update(error.headers or {})
    return response


async def _invalid(_request: Request, error: Any) -> Response:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    # Through a fault, whose text can be encoded whatever a key was.
    fault = Fault(400, f"{where or 'the body'}: {first['msg']}"[:500])
    return rest.json_response(fault.body, fault.status)
