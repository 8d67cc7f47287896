"""Load a server of the Open Inference Protocol: ``python -m lowc.tools.serve.load --help``.

It asks one model for one row a time, over HTTP or gRPC, of lowc or anyone else.  ``--rate`` sends
at that rate whatever comes back, and a request's time counts from when it was due; without it every
connection asks again as soon as it is answered, which finds the throughput.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import click
import numpy as np
import uvloop

Ask = Callable[[int], Awaitable[None]]


@dataclass
class Outcome:
    """Seconds of each answered request, and how many failed."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0
    first_failure: str = ""

    def summary(self, took: float) -> dict[str, Any]:
        """Return the figures of a run that took so many seconds."""
        times = np.array(self.seconds or [float("nan")]) * 1e3
        return {
            "requests_per_second": round(len(self.seconds) / took, 1),
            "failed": self.failed,
            **({"first_failure": self.first_failure} if self.failed else {}),
            **{f"p{p}_ms": round(float(np.percentile(times, p)), 3) for p in (50, 90, 99)},
            "max_ms": round(float(times.max()), 3),
        }


@dataclass(frozen=True)
class Goal:
    """What is asked: a model, its input, and rows that take turns."""

    model: str
    name: str
    rows: np.ndarray

    def body(self, i: int) -> bytes:
        """Return the JSON of a request."""
        row = self.rows[i % len(self.rows)]
        tensor = {
            "name": self.name, "datatype": "FP64", "shape": [1, len(row)], "data": row.tolist(),
        }  # fmt: skip
        return json.dumps({"inputs": [tensor]}).encode()


class HttpConnection:
    """One kept-alive connection; no more of HTTP than servers answer with."""

    def __init__(self, host: str, port: int, goal: Goal) -> None:
        self._where = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        head = (
            f"POST /v2/models/{goal.model}/infer HTTP/1.1\r\nhost: {host}\r\n"
            "content-type: application/json\r\ncontent-length: "
        )
        self._requests = [
            head.encode() + b"%d\r\n\r\n%s" % (len(body), body)
            for body in map(goal.body, range(len(goal.rows)))
        ]

    async def ask(self, i: int) -> None:
        """Ask once.

        Raises
        ------
        RuntimeError, OSError
            When the answer is another one than 200, or there is none.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._where)
        reader, writer = self._streams
        try:
            writer.write(self._requests[i % len(self._requests)])
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.split(b"content-length:")[1].split(b"\r\n", 1)[0])
            body = await reader.readexactly(length)
        except (asyncio.IncompleteReadError, OSError, IndexError):
            self._streams = None
            raise
        if b" 200 " not in head[:20]:
            raise RuntimeError(body[:200].decode(errors="replace"))


def _grpc_asker(host: str, port: int, goal: Goal) -> Ask:
    """Return one channel, for any number of requests at once."""
    import grpc

    from . import protocol

    spoken = protocol.load()
    method = spoken.methods["ModelInfer"]
    # Without the option all channels of a process are one connection.
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.aio.insecure_channel(f"{host}:{port}", options)
    call = channel.unary_unary(f"/{spoken.service}/ModelInfer")
    # Bytes out and bytes in, as over HTTP: a client that is busy finds no server's limit.
    requests = [
        method.request(
            model_name=goal.model,
            inputs=[{"name": goal.name, "datatype": "FP64", "shape": (1, len(row)),
                     "contents": {"fp64_contents": row.tolist()}}],
        ).SerializeToString()
        for row in goal.rows
    ]  # fmt: skip

    async def ask(i: int) -> None:
        await call(requests[i % len(requests)], timeout=30)

    return ask


async def saturate(askers: list[Ask], seconds: float) -> dict[str, Any]:
    """Let each of `askers` ask again and again for so long."""
    outcome, numbers = Outcome(), itertools.count()
    start = time.perf_counter()

    async def keep_on(ask: Ask) -> None:
        while time.perf_counter() - start < seconds:
            await _timed(ask, next(numbers), time.perf_counter(), outcome)

    await asyncio.gather(*map(keep_on, askers))
    return outcome.summary(time.perf_counter() - start)


async def at_rate(askers: list[Ask], seconds: float, rate: float) -> dict[str, Any]:
    """Ask `rate` times a second; whoever has no free connection waits, and that counts."""
    outcome, free = Outcome(), asyncio.Queue[Ask]()
    for ask in askers:
        free.put_nowait(ask)

    async def one(i: int, due: float) -> None:
        ask = await free.get()
        try:
            await _timed(ask, i, due, outcome)
        finally:
            free.put_nowait(ask)

    loop, tasks, ended = asyncio.get_running_loop(), [], threading.Event()
    start = time.perf_counter()

    def begin(i: int, due: float) -> None:
        tasks.append(loop.create_task(one(i, due)))

    def pace() -> None:
        # Timers of uvloop and asyncio count whole milliseconds, which would be the server's then.
        for i in range(int(seconds * rate)):
            due = start + i / rate
            if (rest := due - time.perf_counter()) > 0:
                time.sleep(rest)
            if ended.is_set():
                return
            loop.call_soon_threadsafe(begin, i, due)

    try:
        await asyncio.to_thread(pace)
    finally:
        ended.set()  # or Ctrl-C would wait until all seconds are over
    await asyncio.gather(*tasks)
    return outcome.summary(time.perf_counter() - start)


async def _timed(ask: Ask, i: int, since: float, outcome: Outcome) -> None:
    try:
        await ask(i)
    except Exception as error:
        outcome.failed += 1
        outcome.first_failure = outcome.first_failure or _said(error)
        return
    outcome.seconds.append(time.perf_counter() - since)


def _said(error: Exception) -> str:
    """Return one line; gRPC's own has eight, of which two say something."""
    details = getattr(error, "details", None)
    if callable(details):
        error = RuntimeError(f"{error.code().name}: {details()}")  # type: ignore[attr-defined]
    return " ".join(str(error).split())[:200] or type(error).__name__


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True)
@click.option("--grpc", "by_grpc", is_flag=True, help="Ask over gRPC; the port is that of gRPC.")
@click.option("--model", required=True, help="Name of the model.")
@click.option("--input", "name", default="features", show_default=True, help="Its input.")
@click.option("--width", default=6, show_default=True, help="Numbers of a row.")
@click.option("--rate", type=float, help="Requests a second; without it, as many as go.")
@click.option("--seconds", default=5.0, show_default=True)
@click.option("--connections", type=click.IntRange(1), default=16, show_default=True,
              help="Requests at once.")  # fmt: skip
@click.option("--channels", type=click.IntRange(1), default=1, show_default=True,
              help="Connections of gRPC, which takes many requests at once on each.")  # fmt: skip
def main(
    host: str, port: int, by_grpc: bool, model: str, name: str, width: int, rate: float | None,
    seconds: float, connections: int, channels: int,
) -> None:  # fmt: skip
    """Load a server, and print its throughput and the times of answers as JSON."""
    rows = np.random.default_rng(0).uniform(1, 8, (64, width)).round(3)
    goal = Goal(model, name, rows)

    async def run() -> dict[str, Any]:
        if by_grpc:
            made = [_grpc_asker(host, port, goal) for _ in range(min(channels, connections))]
            askers = [made[i % len(made)] for i in range(connections)]
        else:
            askers = [HttpConnection(host, port, goal).ask for _ in range(connections)]
        try:
            await asyncio.gather(*(ask(0) for ask in set(askers)))
        except Exception as error:
            raise click.ClickException(f"{host}:{port} gives no answer: {_said(error)}") from error
        gc.disable()  # a pause of the client would be the server's
        if rate is None:
            return await saturate(askers, seconds)
        return await at_rate(askers, seconds, rate)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        json.dump(runner.run(run()), sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
