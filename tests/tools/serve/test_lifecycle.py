"""Workers: they share ports and figures, fallen ones come back, and an end loses nothing."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import psutil
import pytest
from serving import hostile, restarts, trained
from serving.server import _MAIN, Server, serving

INFER = "/v2/models/times/versions/1/infer"


def workers(server: Server) -> list[psutil.Process]:
    found = psutil.Process(server.process.pid).children()
    return [one for one in found if any(part.endswith("serve.worker") for part in one.cmdline())]


def body(x: np.ndarray) -> dict[str, Any]:
    tensor = {"name": "features", "datatype": "FP64", "shape": list(x.shape), "data": x.tolist()}
    return {"inputs": [tensor]}


@pytest.fixture(scope="module")
def two(repository: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return a server with two workers."""
    options = ["--model-repository", repository, "--workers", "2"]
    with serving(tmp_path_factory.mktemp("two"), *options) as started:
        yield started


def test_workers_share_the_port_and_the_figures(two: Server) -> None:
    for _ in range(40):
        assert two.ask("/v2/models/times")[0] == 200
    counted = (
        'lowc_serve_requests_total{endpoint="/v2/models/{model}",protocol="http",status="200"}'
    )
    # What is counted is counted when the answer is on its way.
    for _ in range(1000):
        text = two.ask("/metrics")[1].decode()
        lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        if float(lines[counted]) >= 40:
            break
    assert float(lines[counted]) == 40
    answered = {line["pid"] for line in two.logged("request")}
    assert answered == {worker.pid for worker in workers(two)}
    assert float(lines["lowc_serve_ready"]) == 2


def test_killed_workers_come_back_and_no_answer_is_wrong(
    two: Server, booster: lightgbm.Booster
) -> None:
    """Clients that try again lose nothing."""
    x = trained.rows(64)
    wanted = booster.predict(x)
    stop, wrong, lost = threading.Event(), [], []

    def client(first: int) -> None:
        i = first
        while not stop.is_set():
            i = (i + 3) % len(x)
            for attempt in range(100):
                try:
                    status, found, _ = two.ask(INFER, body(x[i : i + 1]))
                except (OSError, http.client.HTTPException):
                    time.sleep(0.02 * (attempt + 1))
                    continue
                if status != 200 or found["outputs"][0]["data"] != [wanted[i]]:
                    wrong.append((i, status, found))
                break
            else:
                lost.append(i)

    clients = [threading.Thread(target=client, args=(i,)) for i in range(3)]
    for one in clients:
        one.start()
    try:
        for _ in range(4):
            before = workers(two)
            before[0].kill()
            until = time.monotonic() + 120
            while len(two.logged("ready")) < 2 + _ + 1 and time.monotonic() < until:
                time.sleep(0.05)
    finally:
        stop.set()
        for one in clients:
            one.join()
    assert len(two.logged("ready")) == 6
    assert len(workers(two)) == 2
    assert not wrong
    assert not lost
    text = two.ask("/metrics")[1].decode()
    assert "lowc_serve_ready 2.0" in text
    assert 'lowc_serve_restarts_total{process="worker"} 4.0' in text
    assert 'lowc_serve_restarts_total{process="parsers"} 0.0' in text
    fallen = two.logged("fallen")
    assert [line["ended"] for line in fallen] == ["signal SIGKILL"] * 4
    assert not any(line["wait"] for line in fallen[:3])


def test_all_of_it_is_killed_and_started_again(
    repository: Path, newer: lightgbm.Booster, tmp_path: Path
) -> None:
    """A short form of ``python tests/serving/restarts.py``."""
    outcome = restarts.run(tmp_path, newer, repository, 2)
    assert len(outcome.server_seconds) == len(outcome.worker_seconds) == 1
    assert outcome.answers > 0
    assert not outcome.wrong
    assert not outcome.lost


def test_an_end_answers_what_was_asked(repository: Path, tmp_path: Path) -> None:
    """Readiness goes down first, connections are taken for a while, and the last request is answered."""
    options = ["--model-repository", repository, "--drain-seconds", "10"]
    with serving(tmp_path / "run", *options) as server:
        text = hostile.hanging_mlir()
        answers: list[int] = []
        asked = threading.Thread(
            target=lambda: answers.append(server.ask("/v1/estimate", {"mlir": text})[0])
        )
        asked.start()
        # The reader has begun when the parsers' process has a child.
        while not any(
            one.children()
            for one in psutil.Process(server.process.pid).children()
            if one not in workers(server)
        ):
            assert asked.is_alive(), answers
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        while not server.logged("draining"):
            assert server.process.poll() is None
            time.sleep(0.01)
        status, found, _ = server.ask("/v2/health/ready")
        assert (status, found) == (503, {"error": "the server is not ready"})
        assert server.ask("/v2/health/live")[0] == 200
        assert server.ask(INFER, body(trained.rows(1)))[0] == 200
        assert server.process.wait(120) == 0
        asked.join()
        assert answers == [400]
        assert server.logged("ended")[0]["in_flight"] == 0


def test_workers_end_with_their_supervisor(repository: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "run", "--model-repository", repository) as server:
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert children
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        gone, alive = psutil.wait_procs(children, 60)
        assert not alive
        assert gone


def test_a_taken_port(server: Server, repository: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _MAIN, "serve", "--port", str(server.port), "--grpc-port", "-1"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 2
    assert f"cannot listen on 127.0.0.1:{server.port}: Address already in use" in ran.stderr
