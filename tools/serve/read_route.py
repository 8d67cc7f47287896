"""Routes whose bodies the gate has read: FastAPI would read them again, by a slower parser."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response


class _Read(Request):
    async def json(self) -> Any:
        """Return the values that the gate found in the body."""
        return self.scope["state"]["json"]


class ReadRoute(APIRoute):
    """A route whose body is JSON that :class:`.gate.Gate` has looked at."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what FastAPI makes of the function, for requests that were read."""
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await answer(_Read(request.scope, request.receive))

        return handle
