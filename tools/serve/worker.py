"""One worker: both servers in one event loop, from its settings on stdin to SIGTERM.

``python -m lowc.tools.serve.worker PID`` is started by the supervisor, whose number that is.  It
ends by itself when the supervisor is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn
import uvloop

from ...errors import InternalError
from . import logs, rpc, sources
from .app import make_app
from .connections import limited_protocol
from .metrics import EVERY
from .processes import die_with_parent
from .settings import Settings
from .state import State, make_state

_BACKLOG = 2048
# New objects before Python looks for cycles: a thousand tiles are as many, and have none.
_COLLECTED = (20_000, 20, 20)


class _Server(uvicorn.Server):
    """uvicorn without its answer to signals: a worker ends in steps of its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address that other workers share."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind((host, port))
    made.setblocking(False)
    return made


def http_server(state: State) -> uvicorn.Server:
    """Return the HTTP server of a worker."""
    settings = state.settings
    config = uvicorn.Config(
        make_app(state), host=settings.host, port=settings.port, loop="uvloop",
        http=limited_protocol(state), ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, backlog=_BACKLOG, timeout_keep_alive=75,
        timeout_graceful_shutdown=int(settings.request_seconds) + 1,
        ssl_certfile=settings.certificate or None, ssl_keyfile=settings.key or None,
    )  # fmt: skip
    return _Server(config)


async def serve(state: State) -> None:
    """Serve until SIGTERM; then readiness goes down, and what is asked is answered."""
    settings = state.settings
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, end.set)
    http = http_server(state)
    server = None
    if settings.grpc_port >= 0:
        server = rpc.make_server(state)
        rpc.listen(server, settings)
        await server.start()
    bound = listening_socket(settings.host, settings.port)
    task = asyncio.create_task(http.serve(sockets=[bound]))
    while not http.started and not task.done():
        await asyncio.sleep(0.002)
    if task.done():
        task.result()
        raise InternalError("HTTP did not start", where="lowc serve")
    # What is there now stays: a collection that looks at it all takes longer than an answer.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTED)
    state.metrics.ready.set(int(state.is_ready))
    logs.log("ready", models=state.repository.names, port=settings.port, grpc=settings.grpc_port)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    flushing = asyncio.create_task(_flush(state))
    waiting = asyncio.create_task(end.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    state.is_draining = True
    state.metrics.ready.set(0)
    logs.log("draining", in_flight=state.in_flight)
    await asyncio.sleep(settings.drain_seconds)
    http.should_exit = True
    stops = [task] if server is None else [task, server.stop(settings.request_seconds)]
    await asyncio.gather(*stops)
    flushing.cancel()
    logs.log("ended", in_flight=state.in_flight)


async def _flush(state: State) -> None:
    while True:
        state.metrics.flush()
        await asyncio.sleep(EVERY)


def main() -> None:
    """Run one worker; the first argument is the number of its supervisor."""
    # Ctrl-C goes to all processes of a terminal; it is for the supervisor, which sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(int(sys.argv[1]))
    # LightGBM imports these if they are there, which takes longer than all the rest.
    for name in ("dask", "graphviz", "matplotlib", "pandas", "pyarrow", "sklearn"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    logs.take_over()
    settings = Settings.from_json(sys.stdin.readline())
    state = make_state(settings, sources.all_sources(settings))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(state))


if __name__ == "__main__":
    main()
