"""What a request is refused with: a status of HTTP, the same of gRPC, and one sentence."""

from __future__ import annotations

# Status of HTTP → name of gRPC's.
GRPC_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    413: "RESOURCE_EXHAUSTED",
    415: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    431: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class Fault(Exception):
    """A request that gets no answer but this one.

    Parameters
    ----------
    status : int
        A key of :data:`GRPC_STATUS`.
    what : str
        One sentence without a full stop.
    """

    def __init__(self, status: int, what: str) -> None:
        # A client's words may hold half a surrogate pair, which no UTF-8 has.
        what = what.encode("utf-8", "replace").decode()
        super().__init__(what)
        self.status = status
        self.what = what

    @property
    def body(self) -> dict[str, str]:
        """The JSON of the answer."""
        return {"error": self.what}


def short(value: object, limit: int = 60) -> str:
    """Return what a client sent, for a message: never more than a line."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
