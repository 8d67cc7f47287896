"""Kill a server under load: `python tests/serving/restarts.py --count 50`.

In turn a worker, which the server starts again, and all of the server, which is started again here.
Clients of both protocols ask on, try again what was not answered, and compare every number.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import lightgbm
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from serving import records, trained

_MAIN = "import sys; from lowc.tools.cli import main; sys.exit(main())"
_MODEL = "times"
_TRIES = 10_000
_PASSING = (
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED,
)  # fmt: skip
_FOR_EVER = 1800.0


@dataclass
class Outcome:
    """What clients saw, and seconds from a kill or a start until the port was ready again."""

    answers: int = 0
    tries: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    worker_seconds: list[float] = field(default_factory=list)
    server_seconds: list[float] = field(default_factory=list)


class _Server:
    """`lowc serve` at ports that stay the same."""

    def __init__(self, folder: Path, repository: Path, workers: int) -> None:
        self.port, self.grpc_port, self.workers = _free_port(), _free_port(), workers
        self._folder, self._repository = folder, repository
        self._start()

    def _start(self) -> None:
        with (self._folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _MAIN, "serve", "--port", str(self.port),
                 "--grpc-port", str(self.grpc_port), "--workers", str(self.workers),
                 "--model-repository", str(self._repository), "--no-log-requests"],
                stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip

    def wait(self) -> None:
        """Wait until it is ready."""
        until = time.monotonic() + _FOR_EVER
        while time.monotonic() < until:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if _http(self.port, "GET", "/v2/health/ready")[0] == 200:
                    return
            time.sleep(0.002)
        raise TimeoutError("it is not ready again")

    def kill(self) -> float:
        """Kill all of it, start it, and return the seconds from the start until it is ready."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        start = time.monotonic()
        self._start()
        self.wait()
        return time.monotonic() - start

    def kill_worker(self) -> float:
        """Kill a worker, and return the seconds until there is another one that is ready."""
        ready = self._count("ready")
        start = time.monotonic()
        self._workers()[0].kill()
        while self._count("ready") == ready:
            if time.monotonic() - start > _FOR_EVER:
                raise TimeoutError("no worker is ready again")
            time.sleep(0.002)
        return time.monotonic() - start

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()

    def _workers(self) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children()
        return [
            one for one in found if any(part.endswith("serve.worker") for part in one.cmdline())
        ]

    def _count(self, event: str) -> int:
        return (self._folder / "log").read_text().count(f'"event":"{event}"')


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _http(port: int, method: str, path: str, data: object = None) -> tuple[int, object]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        body = None if data is None else json.dumps(data)
        connection.request(method, path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def _by_http(port: int) -> Callable[[np.ndarray], float]:
    def ask(row: np.ndarray) -> float:
        tensor = {
            "name": "features",
            "datatype": "FP64",
            "shape": [1, len(row)],
            "data": row.tolist(),
        }
        status, found = _http(port, "POST", f"/v2/models/{_MODEL}/infer", {"inputs": [tensor]})
        if status in (408, 429, 503, 504):
            raise OSError(status)
        if status != 200:
            raise ValueError(f"{status}: {found}")
        return float(found["outputs"][0]["data"][0])  # type: ignore[index]

    return ask


def _by_grpc(port: int) -> Callable[[np.ndarray], float]:
    from lowc.tools.serve import protocol

    spoken = protocol.load()
    method = spoken.methods["ModelInfer"]

    def ask(row: np.ndarray) -> float:
        tensor = {"name": "features", "datatype": "FP64", "shape": [1, len(row)],
                  "contents": {"fp64_contents": row.tolist()}}  # fmt: skip
        options = [("grpc.use_local_subchannel_pool", 1)]
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
                call = channel.unary_unary(
                    f"/{spoken.service}/ModelInfer",
                    request_serializer=method.request.SerializeToString,
                    response_deserializer=method.response.FromString,
                )
                found = call(method.request(model_name=_MODEL, inputs=[tensor]), timeout=10)
        except grpc.RpcError as error:
            if error.code() not in _PASSING:
                raise ValueError(f"{error.code()}: {error.details()}") from None
            raise OSError(error.details()) from None
        return float(found.outputs[0].contents.fp64_contents[0])

    return ask


def _client(
    ask: Callable[[np.ndarray], float], wanted: np.ndarray, stop: threading.Event, outcome: Outcome
) -> None:
    rows, i = trained.rows(len(wanted)), 0
    while not stop.is_set():
        i = (i + 1) % len(rows)
        for attempt in range(_TRIES):
            outcome.tries += 1
            try:
                found = ask(rows[i])
            except (OSError, http.client.HTTPException):
                time.sleep(min(0.01 * (attempt + 1), 0.2))
                continue
            except Exception as error:
                outcome.wrong.append(str(error)[:200])
                break
            outcome.answers += 1
            if found != wanted[i]:
                outcome.wrong.append(f"row {i}: {found}, not {wanted[i]}")
            break
        else:
            outcome.lost.append(f"row {i}")


@contextlib.contextmanager
def _loaded(server: _Server, booster: lightgbm.Booster, outcome: Outcome) -> Iterator[None]:
    wanted, stop = booster.predict(trained.rows(64)), threading.Event()
    asks = [_by_http(server.port), _by_http(server.port), _by_grpc(server.grpc_port)]
    clients = [threading.Thread(target=_client, args=(ask, wanted, stop, outcome)) for ask in asks]
    for one in clients:
        one.start()
    try:
        yield
    finally:
        stop.set()
        for one in clients:
            one.join()


def run(folder: Path, booster: lightgbm.Booster, repository: Path, count: int) -> Outcome:
    """Kill `count` times; `booster` is the model `times` in `repository`."""
    outcome = Outcome()
    server = _Server(folder, repository, workers=2)
    try:
        server.wait()
        with _loaded(server, booster, outcome):
            for number in range(count):
                if number % 2:
                    outcome.worker_seconds.append(server.kill_worker())
                else:
                    outcome.server_seconds.append(server.kill())
                time.sleep(0.2)
    finally:
        server.end()
    return outcome


def main() -> int:
    """Kill again and again, and say what came of it; exit with 1 for a wrong or a lost answer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--output", type=Path, help="record of what came of it")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, booster = Path(name), trained.train()
        trained.write(booster, folder / "models" / _MODEL / "1")
        outcome = run(folder, booster, folder / "models", chosen.count)
    for what, seconds in (("worker", outcome.worker_seconds), ("server", outcome.server_seconds)):
        if seconds:
            sys.stdout.write(
                f"{what}: {len(seconds)} times, ready after {statistics.median(seconds):.2f} s, "
                f"at most {max(seconds):.2f} s\n"
            )
    for text in [*outcome.wrong, *outcome.lost][:20]:
        sys.stdout.write(f"{text}\n")
    sys.stdout.write(
        f"{outcome.answers} answers in {outcome.tries} tries, {len(outcome.wrong)} wrong, "
        f"{len(outcome.lost)} lost\n"
    )
    records.write(chosen.output, {
        "kills": chosen.count, "answers": outcome.answers, "tries": outcome.tries,
        "wrong": outcome.wrong, "lost": outcome.lost,
        "server_seconds": [round(one, 3) for one in outcome.server_seconds],
        "worker_seconds": [round(one, 3) for one in outcome.worker_seconds],
    })  # fmt: skip
    return int(bool(outcome.wrong or outcome.lost))


if __name__ == "__main__":
    sys.exit(main())
