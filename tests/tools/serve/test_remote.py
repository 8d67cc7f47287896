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
from lowc.errors import UserError
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


@pytest.mark.parametrize("url", ["http://[", "http://", "http://a:b", "http://a b", "http://\xe9"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(UserError, match="is no address of a server"):
        Remote(url, local)


@pytest.mark.parametrize("token", ["a\nb", "\u20ac" * 16])
def test_what_is_no_token(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWC_SERVE_TOKEN", token)
    with pytest.raises(UserError, match="the token has characters"):
        Remote("http://127.0.0.1:1", local)


@pytest.mark.parametrize("more", ["{user}@host:1", "host:1/v1", "host:1?a=1", "host:1/#a"])
def test_an_address_has_no_user_path_or_query(more: str) -> None:
    with pytest.raises(UserError, match="no user, path or query") as error:
        Remote(f"http://{more.format(user='me:secret')}", local)
    assert "secret" not in str(error.value)


def test_no_redirect_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering((200, good())) as (there, asked), answering((302, b"")) as (url, sent):
        send = http.server.BaseHTTPRequestHandler.send_response

        def redirect(self: http.server.BaseHTTPRequestHandler, code: int, *more: str) -> None:
            send(self, code, *more)
            if code == 302:
                self.send_header("location", f"{there}/v1/predict-tiles")

        monkeypatch.setattr(http.server.BaseHTTPRequestHandler, "send_response", redirect)
        remote = Remote(url, local)
        remote.predict(PROBLEM, TILINGS)
        assert "status 302" in remote.name
        assert (len(sent), asked) == (1, [])


@pytest.mark.parametrize("what", ["a body", "headers", "a refusal"])
def test_a_server_that_drips(what: str) -> None:
    """Each read is in time, all of them together are not."""
    ended = threading.Event()

    class Drip(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(404 if what == "a refusal" else 200)
            self.send_header("content-length", "1000000000")
            if what == "headers":
                self.flush_headers()
                self.wfile.write(b"x: ")
            else:
                self.end_headers()
            try:
                while not ended.wait(0.001):
                    self.wfile.write(b" ")
            except OSError:
                return

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Drip) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        remote = Remote(f"http://127.0.0.1:{server.server_port}", local, seconds=0.2)
        remote.predict(PROBLEM, TILINGS)
        ended.set()
        server.shutdown()
    assert "timed out, 3 times" in remote.name
