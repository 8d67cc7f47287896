"""The Open Inference Protocol over gRPC."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import grpc

from . import logs, protocol, rest, rpc_tensors
from .faults import GRPC_STATUS, Fault
from .inference import LARGE, Request, infer, infer_at_once
from .models import check_declared, metadata
from .repository import Served
from .state import Held, State

_OPEN = ("ServerLive", "ServerReady")
# Calls whose message is still to come: they have no place of a request yet.
_SPARE = 256
# Of a message, as gRPC itself has it; and of all messages that are on their way at once.
_MOST_MESSAGE, _MOST_ARRIVING = 4 << 20, 1 << 30
Handler = Callable[[Any], Any]


class Service:
    """The calls of the protocol, each from a request message to a response, or the fields of one.

    What takes time returns an awaitable of it.
    """

    def __init__(self, state: State) -> None:
        self._state = state

    def server_live(self, _request: Any) -> dict[str, Any]:
        """Say that the server lives."""
        return {"live": True}

    def server_ready(self, _request: Any) -> dict[str, Any]:
        """Say whether new requests are wanted."""
        return {"ready": self._state.is_ready}

    def model_ready(self, request: Any) -> dict[str, Any]:
        """Say whether a model can be asked."""
        ready = self._state.repository.is_ready(request.name, request.version)
        return {"ready": ready and not self._state.is_draining}

    def server_metadata(self, _request: Any) -> dict[str, Any]:
        """Describe the server."""
        return rest.server_metadata()

    def model_metadata(self, request: Any) -> dict[str, Any]:
        """Describe a model."""
        repository = self._state.repository
        served = repository.find(request.name, request.version)
        return metadata(served.model, repository.versions(request.name))

    def model_infer(self, request: Any) -> dict[str, Any] | Awaitable[dict[str, Any]]:
        """Ask a model, at once if that takes little: a turn of the loop takes longer."""
        settings = self._state.settings
        served = self._state.repository.find(request.model_name, request.model_version)
        check = partial(check_declared, served.model, settings.max_rows)
        decode = partial(rpc_tensors.decode, request, settings.max_elements, check)
        if request.ByteSize() > LARGE:
            return _large(served, decode, settings.max_rows)
        asked = decode()
        answer = infer_at_once(served, asked, settings.max_rows)
        if answer is None:
            return _later(served, asked, settings.max_rows)
        return rpc_tensors.encode(answer)

    def repository_index(self, request: Any) -> dict[str, Any]:
        """List models."""
        return {"models": self._state.repository.index(only_ready=request.ready)}

    async def repository_model_load(self, request: Any) -> dict[str, Any]:
        """Load a model, or read it again."""
        await self._state.repository.load(request.model_name)
        return {}

    async def repository_model_unload(self, request: Any) -> dict[str, Any]:
        """Stop serving a model."""
        await self._state.repository.unload(request.model_name)
        return {}


async def _large(served: Served, decode: Callable[[], Request], most_rows: int) -> dict[str, Any]:
    answer = await infer(served, await asyncio.to_thread(decode), most_rows)
    return await asyncio.to_thread(rpc_tensors.encode, answer)


async def _later(served: Served, asked: Request, most_rows: int) -> dict[str, Any]:
    return rpc_tensors.encode(await infer(served, asked, most_rows))


def make_server(state: State) -> grpc.aio.Server:
    """Return the server of one worker: not listening yet, see :func:`listen`."""
    settings = state.settings
    most = min(settings.max_body, _MOST_MESSAGE)
    calls = min(settings.max_requests + _SPARE, _MOST_ARRIVING // most)
    server = grpc.aio.server(
        maximum_concurrent_rpcs=calls,
        options=[
            ("grpc.so_reuseport", 1),
            # Messages of more are not even read.
            ("grpc.max_receive_message_length", most),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", 16 << 10),
            # Calls that say nothing take places until their time is over: one connection has
            # at most a quarter of them, so that it cannot shut out the others.
            ("grpc.max_concurrent_streams", min(settings.max_requests, max(1, calls // 4))),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ],
    )  # fmt: skip
    spoken, service = protocol.load(), Service(state)
    handlers = {
        # Read as a stream, which looks the same from outside: gRPC itself would wait for the one
        # message of a call for ever.
        name: grpc.stream_unary_rpc_method_handler(
            _guarded(state, name, getattr(service, _snake(name)), method.response),
            request_deserializer=_reader(method.request),
            response_serializer=method.response.SerializeToString,
        )
        for name, method in spoken.methods.items()
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(spoken.service, handlers),)
    )
    return server


def listen(server: grpc.aio.Server, settings: Any) -> None:
    """Bind `server` to its port."""
    address = f"{_bracketed(settings.host)}:{settings.grpc_port}"
    if not settings.certificate:
        server.add_insecure_port(address)
        return
    with open(settings.key, "rb") as key, open(settings.certificate, "rb") as certificate:  # noqa: PTH123
        credentials = grpc.ssl_server_credentials([(key.read(), certificate.read())])
    server.add_secure_port(address, credentials)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)[1:]


def _reader(message: Any) -> Callable[[bytes], Any]:
    """Return what makes a message of bytes, and None of bytes that are none."""

    def read(raw: bytes) -> Any:
        try:
            return message.FromString(raw)
        except Exception:
            return None

    return read


def _guarded(state: State, name: str, handle: Handler, response: Any) -> Any:
    seconds_allowed = state.settings.request_seconds

    async def guarded(_messages: Any, context: Any) -> Any:
        given = dict(context.invocation_metadata() or ())
        request_id = logs.request_id(given.get("x-request-id"))
        start = time.perf_counter()
        status, said = 200, ""
        entered, held = False, Held(state)
        try:
            if name not in _OPEN:
                state.authorize(given.get("authorization"))
            request = await _message(context, state.settings.body_seconds)
            start = time.perf_counter()
            if name not in _OPEN:
                state.enter()
                entered = True
            if request is None or request is grpc.aio.EOF:
                raise Fault(400, "the request is no message of the protocol")
            held.grow(request.ByteSize())
            fields = handle(request)
            if not isinstance(fields, dict):
                async with asyncio.timeout(seconds_allowed):
                    fields = await fields
            return response(**fields)
        except Fault as fault:
            status, said = fault.status, fault.what
        except TimeoutError:
            status, said = 504, f"no answer in {seconds_allowed:g} s"
        except Exception as error:
            trace = traceback.format_exc(limit=-8)
            logs.log("failed", level="error", id=request_id, error=str(error), trace=trace)
            status, said = 500, "the server failed; its log says more"
        finally:
            if entered:
                state.leave()
            held.release()
            _note(state, name, request_id, status, time.perf_counter() - start)
        return await context.abort(grpc.StatusCode[GRPC_STATUS[status]], said)

    return guarded


async def _message(context: Any, seconds: float) -> Any:
    """Return the message of a call, None where it is none.

    Raises
    ------
    Fault
        408, when it does not come in time.
    """
    try:
        async with asyncio.timeout(seconds):
            return await context.read()
    except TimeoutError:
        raise Fault(408, "the message did not arrive in time") from None


def _note(state: State, name: str, request_id: str, status: int, seconds: float) -> None:
    state.metrics.request("grpc", name, status, seconds)
    if state.settings.log_requests:
        logs.log("request", id=request_id, method="gRPC", path=name, status=status,
                 ms=round(seconds * 1e3, 3))  # fmt: skip
