"""What every HTTP request passes: its name, its size, its time, its place, its token, its log line.

An ASGI application around the others.  It reads the body itself, within the limits, so that nobody
behind it waits for a slow client.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from . import logs, messages
from .encodings import unpacked
from .faults import Fault
from .state import Held, State

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Answered without a token, and when all places are taken.
_OPEN = frozenset({"/", "/page.js", "/page.css", "/v2/health/live", "/v2/health/ready"})
_UNCOUNTED = frozenset({*_OPEN, "/metrics", "/v2"})
# Bytes of bodies that are never long, and of what is looked at in the event loop.
_MOST_OF = {"/v2/repository/": 64 << 10, "/v1/": 256 << 10}
_ESTIMATE = "/v1/estimate"  # has a module's text
_LOOKED_AT_HERE = 16 << 10


class _Gone(Exception):
    """The client closed the connection before its request was there."""


class _Answering:
    """The sending side of one request: adds its name, and remembers the status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._header = (b"x-request-id", request_id.encode())
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), self._header]
        await self._send(message)

    async def refuse(self, fault: Fault) -> None:
        """Answer with a fault, if nothing was answered yet."""
        if self.status:
            return
        body = orjson.dumps(fault.body)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if fault.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if fault.status in (429, 503):
            headers.append((b"retry-after", b"1"))
        if fault.status in (408, 413):
            headers.append((b"connection", b"close"))
        await self({"type": "http.response.start", "status": fault.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


class Gate:
    """Let requests through to `app`."""

    def __init__(self, app: App, state: State) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id")
        name = logs.request_id(given.decode("latin-1") if given else None)
        scope.setdefault("state", {})["request_id"] = name
        answering = _Answering(send, name)
        start = time.perf_counter()
        try:
            start = await self._answer(scope, receive, answering, headers)
        except _Gone:
            answering.status = 499
        except Fault as fault:
            await answering.refuse(fault)
        except Exception as error:
            trace = traceback.format_exc(limit=-8)
            logs.log("failed", level="error", id=name, error=str(error), trace=trace)
            await answering.refuse(Fault(500, "the server failed; its log says more"))
        self._note(scope, name, answering.status, time.perf_counter() - start)

    async def _answer(
        self, scope: Scope, receive: Receive, send: _Answering, headers: dict[bytes, bytes]
    ) -> float:
        state, path = self._state, scope["path"]
        if path not in _OPEN:
            state.authorize(headers.get(b"authorization"))
        held = Held(state)
        try:
            most = _most_of(path, state.settings.max_body)
            body = await self._read(receive, headers, held, most)
            if encoding := headers.pop(b"content-encoding", b""):
                held.grow(most)
                body = await asyncio.to_thread(unpacked, body, encoding, most)
                held.shrink(most - len(body))
                scope["headers"] = [*headers.items()]
            if body and path.startswith("/v1/"):
                scope["state"]["json"] = await _looked_at(body)
            return await self._pass_on(scope, _given(body, receive), send)
        finally:
            held.release()

    async def _pass_on(self, scope: Scope, receive: Receive, send: _Answering) -> float:
        state, path = self._state, scope["path"]
        start = time.perf_counter()
        if path in _UNCOUNTED:
            await self._app(scope, receive, send)
            return start
        state.enter()
        try:
            async with asyncio.timeout(state.settings.request_seconds):
                await self._app(scope, receive, send)
        except TimeoutError:
            raise Fault(504, f"no answer in {state.settings.request_seconds:g} s") from None
        finally:
            state.leave()
        return start

    async def _read(
        self, receive: Receive, headers: dict[bytes, bytes], held: Held, most: int
    ) -> bytes:
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or len(declared) > 18 or int(declared) > most:
            raise Fault(413, f"a body has at most {most} bytes")
        parts = bytearray()
        try:
            async with asyncio.timeout(self._state.settings.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    body = message.get("body", b"")
                    if len(parts) + len(body) > most:
                        raise Fault(413, f"a body has at most {most} bytes")
                    held.grow(len(body))
                    if not message.get("more_body"):
                        return bytes(parts + body) if parts else body
                    parts += body
        except TimeoutError:
            raise Fault(408, "the body did not arrive in time") from None

    def _note(self, scope: Scope, name: str, status: int, seconds: float) -> None:
        route = scope.get("route")
        endpoint = getattr(route, "path", "none")
        self._state.metrics.request("http", endpoint, status, seconds)
        if self._state.settings.log_requests:
            client = scope.get("client")
            # As it was sent: unquoted, it may hold what ends lines for whoever reads the log.
            path = scope["raw_path"][:200].decode("ascii", "backslashreplace")
            logs.log(
                "request", id=name, method=scope["method"], path=path, status=status,
                ms=round(seconds * 1e3, 3), client=client[0] if client else "",
            )  # fmt: skip


def _most_of(path: str, most: int) -> int:
    """Return how many bytes the body of a request for `path` may have."""
    if path == _ESTIMATE:
        return most
    return min([most, *(bound for start, bound in _MOST_OF.items() if path.startswith(start))])


async def _looked_at(body: bytes) -> Any:
    """Return the values of JSON; refuse what is deep or has many parts before FastAPI sees it."""
    if len(body) > _LOOKED_AT_HERE:
        return await asyncio.to_thread(messages.read_small_json, body)
    return messages.read_small_json(body)


def _given(body: bytes, receive: Receive) -> Receive:
    is_given = False

    async def give() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return give
