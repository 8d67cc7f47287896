"""A compiler that asks the server for tiles; and what it does when there is no answer, or a bad one."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lowc
import numpy as np
import pytest
from lowc.compiler.tile_choice import TileChoice
from lowc.passes.tiling import rankers, space
from lowc.passes.tiling.problem import Problem
from lowc.passes.tiling.remote import Remote
from lowc.passes.tiling.roofline import Roofline
from lowc.tools.serve import cost_model
from lowc.tools.serve.reading import EXAMPLE
from serving import trained
from serving.server import Server

PROBLEM = Problem("f32", "kernel", trained.MACHINE.unit, 1, 128, 384, 256)
TILINGS = space.candidates(PROBLEM)


def local() -> Roofline:
    return Roofline(trained.MACHINE)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowc.passes.tiling.remote.PAUSE", 0.001)


@contextmanager
def answering(*answers: tuple[int, bytes]) -> Iterator[tuple[str, list[int]]]:
    """Serve these answers in turn, the last one again and again; yield the URL and what was sent."""
    sent: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            status, body = answers[min(len(sent), len(answers) - 1)]
            sent.append(status)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            if 300 <= status < 400:
                self.send_header("location", body.decode())
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", sent
        server.shutdown()


def good(change: Callable[[dict], object] = lambda _: None) -> bytes:
    count = len(TILINGS)
    one = {"tiles": [t.text for t in TILINGS], "seconds": [1e-4] * count, "spread": [0.1] * count}
    change(one)
    return json.dumps({"model": "m", "machine": "x", "predictions": [one]}).encode()


def test_it_says_what_the_served_model_says(server: Server, repository: Path) -> None:
    model = cost_model.load_cost_model(repository / "tiles" / "1", "tiles", "1")
    wanted = model.ranker.predict(PROBLEM, TILINGS)
    remote = Remote(server.url, local)
    found = remote.predict(PROBLEM, TILINGS)
    np.testing.assert_array_equal(found.seconds, wanted.seconds)
    np.testing.assert_array_equal(found.spread, wanted.spread)
    assert remote.name == f"cost model tests at {server.url}"


def test_a_compilation_uses_it(server: Server, tmp_path: Path) -> None:
    source = tmp_path / "m.mlir"
    source.write_text(EXAMPLE["mlir"].replace("<4x", "<64x"))
    artifact = lowc.compile(source, output=tmp_path / "m.vmfb", tiles=TileChoice(server.url))
    (row,) = artifact.report["matmuls"]
    assert f"cost model tests at {server.url}" in row["tile_reason"]
    assert row["predicted_seconds"] > 0


def test_without_an_answer_a_local_ranker_is_used_and_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    remote = Remote(url, local)
    found = remote.predict(PROBLEM, TILINGS)
    np.testing.assert_array_equal(found.seconds, local().predict(PROBLEM, TILINGS).seconds)
    assert remote.name == f"roofline ({url} did not answer: Connection refused, 3 times)"
    made = rankers.ranker(url, trained.MACHINE)
    assert made is not None
    made.predict(PROBLEM, TILINGS)
    assert "did not answer" in made.name


def test_a_server_that_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        remote = Remote(f"http://127.0.0.1:{silent.getsockname()[1]}", local, seconds=0.05)
        remote.predict(PROBLEM, TILINGS)
    assert "timed out, 3 times" in remote.name


def test_a_busy_server_is_asked_again() -> None:
    with answering((429, b""), (503, b"{}"), (200, good())) as (url, sent):
        remote = Remote(url, local)
        assert list(remote.predict(PROBLEM, TILINGS).seconds) == [1e-4] * len(TILINGS)
        assert sent == [429, 503, 200]
        assert "did not answer" not in remote.name


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b'{"error": "a bearer token is needed"}', "status 401, a bearer token is needed"),
        (404, b"<html>", "status 404, without a reason"),
        (200, b"<html>", "its answer is no prediction"),
        (200, b"[" * 100_000, "its answer is no prediction"),
        (200, b'{"predictions": []}', "its answer is no prediction"),
        (200, good(lambda one: one["seconds"].pop()), "its answer is no prediction"),
        (200, good(lambda one: one["seconds"].__setitem__(0, float("nan"))), "times that are none"),
        (200, good(lambda one: one["seconds"].__setitem__(0, -1.0)), "times that are none"),
        (200, good(lambda one: one["tiles"].__setitem__(0, "other")), "it is of another lowc"),
    ],
)
def test_bad_answers(status: int, body: bytes, said: str) -> None:
    with answering((status, body)) as (url, sent):
        remote = Remote(url, local)
        found = remote.predict(PROBLEM, TILINGS)
        np.testing.assert_array_equal(found.seconds, local().predict(PROBLEM, TILINGS).seconds)
        assert said in remote.name
        remote.predict(PROBLEM, TILINGS)
        assert len(sent) == 1, "whoever answered badly is not asked again"


def test_the_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    monkeypatch.setenv("LOWC_SERVE_TOKEN", "a-secret")
    original = http.server.BaseHTTPRequestHandler.parse_request

    def parse(self: http.server.BaseHTTPRequestHandler) -> bool:
        found = original(self)
        seen.append(self.headers["authorization"])
        return found

    monkeypatch.setattr(http.server.BaseHTTPRequestHandler, "parse_request", parse)
    with answering((200, good())) as (url, _):
        Remote(url, local).predict(PROBLEM, TILINGS)
    assert seen == ["Bearer a-secret"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_token_goes_nowhere_else(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWC_SERVE_TOKEN", "a-secret")
    with (
        answering((200, good())) as (other, reached),
        answering((status, f"{other}/elsewhere".encode())) as (url, _),
    ):
        remote = Remote(url, local)
        remote.predict(PROBLEM, TILINGS)
        assert f"status {status}" in remote.name
        assert not reached


def test_an_answer_that_comes_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowc.passes.tiling.remote._PIECE", 1)
    with answering((200, good())) as (url, sent):
        remote = Remote(url, local)
        # Each read is in time, but not all of them.
        seconds = iter(range(0, 10_000, 2))
        monkeypatch.setattr("lowc.passes.tiling.remote.time.monotonic", lambda: next(seconds))
        with pytest.raises(TimeoutError):
            remote._post(b"{}")
        assert len(sent) == 1


@pytest.mark.parametrize(
    "url", ["http://[", "http://", "http://a b", "https://h:99999", "http://h\n"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(lowc.UserError, match="no URL of a server"):
        Remote(url, local)


@pytest.mark.parametrize("token", ["a\nb", "ключ"])
def test_a_token_that_cannot_be_sent_is_refused(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWC_SERVE_TOKEN", token)
    with pytest.raises(lowc.UserError, match="cannot be sent"):
        Remote("http://127.0.0.1:1", local)
