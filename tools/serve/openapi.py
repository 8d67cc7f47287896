"""What OpenAPI says of the protocol's requests and answers, which are read without pydantic."""

from __future__ import annotations

from typing import Any

from .datatypes import DATATYPES

TEXT = {"type": "string"}
ERROR = {
    "type": "object", "required": ["error"], "properties": {"error": TEXT},
    "additionalProperties": False,
}  # fmt: skip
_SHAPE = {
    "type": "array", "minItems": 1, "maxItems": 8,
    "items": {"type": "integer", "minimum": 0},
}  # fmt: skip
_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": TEXT,
        "datatype": {"type": "string", "enum": list(DATATYPES)},
        "shape": _SHAPE,
        "parameters": {"type": "object"},
        "data": {"type": "array"},
    },
}
INFER_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": TEXT,
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "minItems": 1, "items": _TENSOR},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": TEXT, "parameters": {"type": "object"}},
            },
        },
    },
}
INFER_ANSWER = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": TEXT,
        "model_version": TEXT,
        "id": TEXT,
        "outputs": {"type": "array", "items": _TENSOR},
    },
}
_SPEC = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": TEXT, "datatype": TEXT,
        "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}},
    },
}  # fmt: skip
SERVER_METADATA = {
    "type": "object",
    "required": ["name", "version", "extensions"],
    "properties": {
        "name": TEXT, "version": TEXT, "extensions": {"type": "array", "items": TEXT},
    },
}  # fmt: skip
MODEL_METADATA = {
    "type": "object",
    "required": ["name", "platform", "inputs", "outputs"],
    "properties": {
        "name": TEXT,
        "versions": {"type": "array", "items": TEXT},
        "platform": TEXT,
        "inputs": {"type": "array", "items": _SPEC},
        "outputs": {"type": "array", "items": _SPEC},
    },
}
INDEX_REQUEST = {
    "type": "object", "properties": {"ready": {"type": "boolean"}},
}  # fmt: skip
INDEX_ANSWER = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name", "version", "state", "reason"],
        "properties": {
            "name": TEXT, "version": TEXT, "reason": TEXT,
            "state": {"type": "string", "enum": ["READY", "UNAVAILABLE"]},
        },
    },
}  # fmt: skip
_REASONS = {
    400: "The request is not what the schema or the model asks for",
    401: "A bearer token is needed",
    403: "Model control is off",
    404: "There is no such model",
    408: "The body did not arrive in time",
    413: "Too large",
    415: "An encoding that is not known",
    429: "Too much at once",
    503: "Not ready",
    504: "No answer in time",
}


def flag(name: str) -> dict[str, Any]:
    """Return the schema of an answer that is one true or false, and a model's name perhaps."""
    return {
        "type": "object", "required": [name],
        "properties": {name: {"type": "boolean"}, "name": TEXT},
    }  # fmt: skip


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the answers of a route that refuses with `statuses`, and with those of all routes."""
    content = {"application/json": {"schema": ERROR}}
    return {
        status: {"description": _REASONS[status], "content": content}
        for status in sorted({400, 401, 408, 413, 415, 429, 504, *statuses})
    }


def described(
    schema: dict[str, Any] | None,
    request: dict[str, Any] | None = None,
    *,
    refuses: tuple[int, ...] = (),
    may_be_empty: bool = False,
) -> dict[str, Any]:
    """Return keyword arguments of a FastAPI route: the schemas of its answer and its body.

    `refuses` are the statuses that come to those of all routes.
    """
    answer: dict[str, Any] = {"description": "The answer"}
    if schema is not None:
        answer["content"] = {"application/json": {"schema": schema}}
    responses: dict[int | str, dict[str, Any]] = {200: answer, **errors(*refuses)}
    extra: dict[str, Any] = {}
    if request is not None:
        content = {"application/json": {"schema": request}}
        extra["requestBody"] = {"required": not may_be_empty, "content": content}
    return {"responses": responses, "openapi_extra": extra or None}
