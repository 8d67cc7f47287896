"""The server's processes: whose children they are, what ends them, and what they load."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from lowc.tools.cli import main
from serving.server import _MAIN, Server, serving

_CHILD = (
    "import os, sys; from lowc.tools.serve.processes import die_with_parent\n"
    "if sys.argv[2:]: os.getppid = lambda: int(sys.argv[2])\n"
    "die_with_parent(int(sys.argv[1]))"
)
_MLIR = "func.func @main(%x: tensor<2x2xf32>) -> tensor<2x2xf32> { return %x : tensor<2x2xf32> }"


def parsers(server: Server) -> psutil.Process:
    children = psutil.Process(server.process.pid).children()
    (found,) = [one for one in children if any(part.endswith(".parsers") for part in one.cmdline())]
    return found


@pytest.mark.parametrize(
    ("told", "is_child_of", "code"),
    [(os.getpid(), None, 0), (1, 1, 0), (os.getpid() + 1, None, 1), (7, 1, 1)],
    ids=["its own", "process 1, as in a container", "another", "gone"],
)
def test_a_process_ends_only_without_its_parent(
    told: int, is_child_of: int | None, code: int
) -> None:
    arguments = [str(told)] if is_child_of is None else [str(told), str(is_child_of)]
    assert (
        subprocess.run([sys.executable, "-c", _CHILD, *arguments], timeout=120).returncode == code
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_end_while_workers_start(repository: Path, number: int) -> None:
    """Ctrl-C goes to all processes of a terminal; none may answer it with Python's traceback."""
    command = [sys.executable, "-c", _MAIN, "serve", "--port", "0", "--grpc-port", "-1",
               "--workers", "6", "--model-repository", str(repository)]  # fmt: skip
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        supervisor = psutil.Process(process.pid)
        while not supervisor.children():
            assert process.poll() is None
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0
        assert "Traceback" not in said
    finally:
        process.kill()
        process.wait()


def test_no_module_comes_from_the_current_folder(repository: Path, tmp_path: Path) -> None:
    for name in ("json", "uvicorn", "lightgbm"):
        text = f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit(1)\n"
        (tmp_path / f"{name}.py").write_text(text)
    with serving(tmp_path / "run", "--model-repository", repository, where=tmp_path) as server:
        assert server.ask("/v1/estimate", {"mlir": _MLIR})[0] == 200
    assert not (tmp_path / "ran").exists()


def test_the_parsers_leave_an_interrupt_to_the_supervisor(repository: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "run", "--model-repository", repository) as server:
        assert server.ask("/v1/estimate", {"mlir": _MLIR})[0] == 200
        before = parsers(server)
        before.send_signal(signal.SIGINT)
        assert server.ask("/v1/estimate", {"mlir": _MLIR})[0] == 200
        assert parsers(server) == before
        assert "Traceback" not in server.log.read_text()


def test_a_chain_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("-----BEGIN CERTIFICATE-----\nAAAA\n")
    options = ["--tls-certificate", str(tmp_path / "cert.pem"), "--tls-key",
               str(tmp_path / "key.pem")]  # fmt: skip
    assert main(["serve", "--port", "0", "--grpc-port", "-1", *options]) == 2
    assert "this is no certificate with its key" in capsys.readouterr().err


def test_a_worker_is_ready_only_when_it_answers(tmp_path: Path) -> None:
    """The files changed since the command looked at them."""
    from lowc.tools.serve.settings import Settings

    settings = Settings(
        port=0, grpc_port=-1, certificate=str(tmp_path / "none"), key=str(tmp_path / "none"),
        metrics_folder=str(tmp_path),
    )  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "lowc.tools.serve.worker", str(os.getpid())],
        input=settings.to_json() + "\n", capture_output=True, text=True, timeout=120,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
    )  # fmt: skip
    assert ran.returncode == 1
    assert "ready" not in ran.stdout
