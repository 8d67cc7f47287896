"""The page at ``/``, and ``/v1/known``: what its menus offer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import resources

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from ...compiler.recipe import built_in_names
from ...compiler.target import target_names
from .cost_model import CostModel
from .openapi import errors
from .products import FORMS
from .state import State

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
_HEADERS = {
    # Nothing from elsewhere, and no script or style but the two files.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Known(BaseModel):
    """Words that requests may have."""

    forms: list[str]
    units: list[str]
    recipes: list[str]
    targets: list[str]


def page_routes(state: State) -> APIRouter:
    """Return the page and what it asks for first."""
    router = APIRouter()
    folder = resources.files(__package__).joinpath("page")
    for path, (name, kind) in _FILES.items():
        text = folder.joinpath(name).read_bytes()
        router.add_api_route(path, _file(text, kind), include_in_schema=False, methods=["GET"])

    @router.get("/v1/known", tags=["lowc"], summary="Known words", responses=errors())
    async def known() -> Known:
        found = state.repository.newest()
        return Known(
            forms=list(FORMS),
            units=sorted({model.unit for model in found if isinstance(model, CostModel)}),
            recipes=sorted(built_in_names()),
            targets=sorted(target_names()),
        )

    return router


def _file(text: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return Response(text, media_type=kind, headers=_HEADERS)

    return page
