"""Hostile requests get a 4xx, slow clients are left, and the server stays as it was."""

from __future__ import annotations

import random
import socket
import time
from pathlib import Path

import psutil
import pytest
from serving import hostile
from serving.server import Server, serving


@pytest.fixture(scope="module")
def hurried(repository: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return a server that waits for no client longer than half a second."""
    options = ["--model-repository", repository, "--body-seconds", "0.5", "--max-body-mib", "2"]
    with serving(tmp_path_factory.mktemp("hurried"), *options) as started:
        yield started


def test_each_gets_a_4xx(server: Server) -> None:
    """And the memory of the worker does not grow: the first ones warm it up."""
    (worker,) = [
        child for child in psutil.Process(server.process.pid).children()
        if any(part.endswith("serve.worker") for part in child.cmdline())
    ]  # fmt: skip
    sent = list(hostile.attacks(seed=1, count=480))
    for name, attack in sent[:120]:
        assert hostile.is_right(attack, hostile.send(server.port, attack)), name
    before = worker.memory_info().rss
    for name, attack in sent[120:]:
        status = hostile.send(server.port, attack)
        assert hostile.is_right(attack, status), (name, status, attack.pieces[0][:200])
    assert worker.is_running()
    assert worker.memory_info().rss - before < 64 << 20
    assert server.ask("/v2/health/ready")[:2] == (200, {"ready": True})
    assert not server.logged("failed")


def test_the_kinds_are_hostile() -> None:
    """A request that nothing was done to is answered: the kinds differ from it in what they are about."""
    assert len(hostile.KINDS) > 25
    names = [name for name, _ in hostile.attacks(seed=0, count=480)]
    assert set(names) == set(hostile.KINDS)


def test_a_closed_connection_is_an_answer_only_where_one_can_be_lost() -> None:
    short = hostile.Attack((b"GET / HTTP/1.1\r\n\r\n",))
    assert not hostile.is_right(short, 0)
    assert hostile.is_right(hostile.Attack(short.pieces, is_cut=True), 0)
    assert hostile.is_right(hostile.Attack((b"x" * 40_000,)), 0)
    assert [hostile.is_right(short, status) for status in (200, 404, 500)] == [False, True, False]
    assert hostile.faults_of({1: 5, 2: 5, 3: 5}, {1: 5, 2: 1 << 30, 4: 5}) == [
        "worker 3 is gone", "worker 4 is new", f"worker 2 has grown by {(1 << 30) - 5} bytes",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "beginning",
    [
        b"", b"POST /v2/models/times/infer HTTP/1.1\r\nhost",
        b"POST /v2/models/times/infer HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n12",
        b"POST /v2/models/times/infer HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\n1",
    ],
    ids=["nothing", "headers", "body", "chunks"],
)  # fmt: skip
def test_slow_clients_are_left(hurried: Server, beginning: bytes) -> None:
    assert hostile.slow(hurried.port, 0.5, beginning) == 408


def test_too_large_by_chunks(hurried: Server) -> None:
    attack = hostile.Attack(
        (
            b"POST /v2/models/times/infer HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
            *[b"80000\r\n" + b" " * 0x80000 + b"\r\n"] * 5,
        )
    )
    assert hostile.send(hurried.port, attack) in (0, 413)
    declared = hostile.Attack((hostile.http("/v2/models/times/infer", b" " * (3 << 20)),))
    # The server closes before it read all: its answer may be lost.
    assert hostile.send(hurried.port, declared) in (0, 413)


def test_tiny_chunks(hurried: Server) -> None:
    assert hostile.send(hurried.port, hostile.tiny_chunks(random.Random(0), 20_000)) == 400


def test_who_does_not_read_an_answer_is_left(hurried: Server) -> None:
    """Its socket takes little, and the answer is longer than what the system keeps for it."""
    sizes = [[1, 128, 1536, 64 * number] for number in range(1, 9)]
    body = {"matmuls": [{"form": "f32", "shape": shape} for shape in sizes], "all": True}
    request = hostile.asked(body, "/v1/choose-tiles").pieces[0] * 30
    (worker,) = hostile.workers(hurried.process.pid)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", hurried.port))
        slow.settimeout(60)
        slow.sendall(request)
        begun = slow.recv(100)
        assert begun.startswith(b"HTTP/1.1 200")
        port = slow.getsockname()[1]
        for _ in range(1200):
            held = [
                one
                for one in psutil.Process(worker).net_connections()
                if one.raddr and one.raddr.port == port
            ]
            if not held:
                break
            time.sleep(0.05)
        assert not held
    assert hurried.ask("/v2/health/ready")[0] == 200
