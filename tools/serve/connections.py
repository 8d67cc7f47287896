"""Connections of HTTP: how many, how long headers may be, and how long a client takes for them."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .state import State

MOST_HEADER_BYTES = 32 << 10
LEAST_READ = 16 << 10  # bytes of a long answer that a client takes in the time of a body
_TOO_LONG = (
    b"431 Request Header Fields Too Large",
    b"headers have at most %d bytes" % MOST_HEADER_BYTES,
)
_NO_REQUEST = (b"400 Bad Request", b"this is no HTTP request")
_REFUSED = (
    b"HTTP/1.1 %s\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s"
)


class Limited(HttpToolsProtocol):
    """uvicorn's protocol with the limits of `state`, which a subclass has."""

    state: ClassVar[State]
    _timer: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _unfinished = 0
    _is_whole = False
    _in_headers = True

    def connection_made(self, transport: Any) -> None:
        """Count a connection, or refuse it."""
        super().connection_made(transport)
        count = len(self.connections)
        self.state.metrics.connections.set(count)
        if count > self.state.settings.max_connections:
            self._refuse(b"429 Too Many Requests", b"there are too many connections")
            return
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count one less."""
        super().connection_lost(exc)
        self.state.metrics.connections.set(len(self.connections))
        self._stop_waiting()
        self._stop_watching()

    def data_received(self, data: bytes) -> None:
        """Take bytes; what does not even reach the end of its headers may not be endless."""
        if self._in_headers and self._timer is None:
            self._wait_for_headers()
        self._is_whole = False
        super().data_received(data)
        if self._in_headers and not self._is_whole:
            self._unfinished += len(data)
            if self._unfinished > MOST_HEADER_BYTES:
                self._refuse(*_TOO_LONG)

    def pause_writing(self) -> None:
        """Watch a client that does not read its answer: it holds the memory of it."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Watch no longer."""
        super().resume_writing()
        self._stop_watching()

    def _watch(self, before: int | None = None) -> None:
        left = self.transport.get_write_buffer_size()
        if before is not None and left > before - LEAST_READ:
            self.transport.abort()
            return
        self._writing = self.loop.call_later(self.state.settings.body_seconds, self._watch, left)

    def _stop_watching(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def on_url(self, url: bytes) -> None:
        """Count the bytes of a path."""
        self._header_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the bytes of a header; the parser says of an error what it says of any."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MOST_HEADER_BYTES:
            raise ValueError("the headers are too long")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Let the body have its own time."""
        self._in_headers = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Wait for the next request's headers."""
        super().on_message_complete()
        self._in_headers = self._is_whole = True
        self._header_bytes = self._unfinished = 0

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        is_long = self._header_bytes > MOST_HEADER_BYTES
        self._refuse(*(_TOO_LONG if is_long else _NO_REQUEST))

    def _wait_for_headers(self) -> None:
        self._timer = self.loop.call_later(self.state.settings.body_seconds, self._too_late)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        self._refuse(b"408 Request Timeout", b"the headers did not arrive in time")

    def _refuse(self, status: bytes, what: bytes) -> None:
        self._stop_waiting()
        if not self.transport.is_closing():
            body = b'{"error": "%s"}' % what
            self.transport.write(_REFUSED % (status, len(body), body))
            self.transport.close()


def limited_protocol(state: State) -> type[Limited]:
    """Return uvicorn's protocol with the limits of `state`."""
    return type("LimitedByState", (Limited,), {"state": state})
