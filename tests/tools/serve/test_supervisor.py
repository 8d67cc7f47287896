"""What the supervisor bears: no process to be had, no folder of figures, all workers killed at once."""

from __future__ import annotations

import asyncio
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from lowc.tools.serve import reading_client
from lowc.tools.serve.falls import Falls
from lowc.tools.serve.faults import Fault
from lowc.tools.serve.settings import Settings
from lowc.tools.serve.supervisor import Supervisor, _Worker
from serving.server import Server, serving

# Sixteen workers that end three times, ready and not; what is due after each time.
_ALL_FALL = """
import socket, subprocess, sys, time
from lowc.tools.serve.settings import Settings
from lowc.tools.serve.supervisor import Supervisor, _Worker
of = Supervisor(Settings(workers=16, metrics_folder=sys.argv[1]), socket.socket())
for is_ready in (True, False, False):
    for place in of._places:
        process = subprocess.Popen(["true"])
        process.wait()
        of._workers.append(_Worker(process, time.monotonic(), place, is_ready))
    of._reap()
    print(len(of._due))
"""


def until(server: Server, holds: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert server.process.poll() is None, server.log.read_text()[-4000:]
        assert time.monotonic() < end
        time.sleep(0.02)


def workers(server: Server) -> list[psutil.Process]:
    found = psutil.Process(server.process.pid).children()
    return [one for one in found if any(part.endswith("serve.worker") for part in one.cmdline())]


def test_it_bears_what_the_system_refuses(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a folder for figures, nor files for a new process."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    options = ["--model-repository", repository, "--workers", "2"]
    with serving(tmp_path / "run", *options) as server:
        supervisor = psutil.Process(server.process.pid)
        until(server, lambda: len(supervisor.children()) == 3)  # the parsers' process is there too
        (folder,) = tmp_path.glob("lowc-serve-*/metrics")
        shutil.rmtree(folder)
        workers(server)[0].kill()
        until(server, lambda: server.logged("uncounted"))
        assert server.ask("/v2/models/times")[0] == 200
        assert server.ask("/metrics")[0] == 503
        folder.mkdir()
        until(server, lambda: len(server.logged("ready")) == 3)

        known = len(server.logged("fallen"))
        before = supervisor.rlimit(resource.RLIMIT_NOFILE)
        most = max(int(path.name) for path in Path(f"/proc/{supervisor.pid}/fd").iterdir()) + 2
        supervisor.rlimit(resource.RLIMIT_NOFILE, (most, before[1]))
        workers(server)[0].kill()
        until(server, lambda: len(server.logged("fallen")) >= known + 2)
        killed, refused = server.logged("fallen")[known:][:2]
        assert killed["ended"] == "signal SIGKILL"
        assert refused["ended"] == "no start: Too many open files"
        assert refused["number"] is None and refused["wait"] > 0
        assert server.ask("/v2/models/times")[0] == 200
        supervisor.rlimit(resource.RLIMIT_NOFILE, before)
        until(server, lambda: len(server.logged("ready")) == 4)
        assert len(workers(server)) == 2


def test_what_fells_all_workers_once_does_not_end_it(tmp_path: Path) -> None:
    """In a process of its own: the supervisor's figures change what others of the process do."""
    ran = subprocess.run(
        [sys.executable, "-P", "-c", _ALL_FALL, str(tmp_path)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["16", "32", "48"]


def test_it_serves_when_all_workers_are_ready(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as parsers, subprocess.Popen(["true"]) as process:
        of = Supervisor(Settings(workers=2, port=8123, grpc_port=-1), parsers)
        ready = _Worker(process, 0.0, Falls(), is_ready=True)
        of._tell()
        of._workers = [ready]  # the other one waits for its next start
        of._tell()
        assert capsys.readouterr().out == ""
        of._workers = [ready, ready]
        of._tell()
        assert capsys.readouterr().out == "serving on http://127.0.0.1:8123\n"


def test_estimates_without_the_parsers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor holds their socket, so that requests may wait while they start."""
    monkeypatch.setattr(reading_client, "LOADING_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(tmp_path / "parsers"))
        held.listen()
        settings = Settings(
            parser_socket=str(tmp_path / "parsers"), parse_seconds=0.1, request_seconds=0.1
        )
        with pytest.raises(Fault, match="nobody reads MLIR at the moment") as caught:
            asyncio.run(reading_client.ReadingClient(settings).read({}))
    assert caught.value.status == 503
