"""Workers that end again and again: they wait longer and longer, and then the server says so."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from lowc.tools.serve import falls
from lowc.tools.serve.falls import Falls, how_it_ended

# As the command, but with waits that a test has time for.
_MAIN = """
import sys
from lowc.tools.cli import main
from lowc.tools.serve import falls
falls.FIRST_WAIT = 0.01
sys.exit(main())
"""


def test_one_that_was_up_for_long_is_no_fall() -> None:
    found = Falls()
    for _ in range(100):
        assert found.wait(falls.LIVED, is_ready=True) == 0
    assert not found.is_hopeless


def test_each_waits_longer_than_the_one_before() -> None:
    found = Falls()
    waits = [found.wait(1.0, is_ready=True) for _ in range(falls.MOST)]
    assert waits[:8] == [0, 0, 0, 0.5, 1, 2, 4, 8]
    assert waits[-1] == falls.LONGEST_WAIT
    assert found.is_hopeless and "12 workers in a row fell within 10 seconds" in found.text
    assert found.wait(60.0, is_ready=True) == 0
    assert not found.is_hopeless
    assert found.wait(1.0, is_ready=True) == 0


def test_those_that_are_never_ready_wait_from_the_first_on() -> None:
    found = Falls()
    assert [found.wait(100.0, is_ready=False) for _ in range(3)] == [0.5, 1, 2]
    assert found.wait(1.0, is_ready=True) == 4  # the fourth fall in a row
    assert found.unready == 0
    assert [found.wait(1.0, is_ready=False) for _ in range(5)] == [8, 16, 30, 30, 30]
    assert found.is_hopeless and found.text == "workers fall before they are ready"


def test_no_wait_is_shorter_than_the_one_before() -> None:
    found = Falls()
    waits = [found.wait(1.0, is_ready=ready) for ready in [True] * 9 + [False, True, False]]
    assert waits == [0, 0, 0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_thousands_in_a_row() -> None:
    found = Falls()
    assert [found.wait(1.0, is_ready=True) for _ in range(2000)][-1] == falls.LONGEST_WAIT


@pytest.mark.parametrize(
    ("code", "text"), [(0, "exit code 0"), (3, "exit code 3"), (-9, "signal SIGKILL"), (-99, "signal 99")]
)  # fmt: skip
def test_how_it_ended(code: int, text: str) -> None:
    assert how_it_ended(code) == text


def test_workers_that_all_fall_end_the_server(repository: Path) -> None:
    command = [sys.executable, "-c", _MAIN, "serve", "--port", "0", "--grpc-port", "-1",
               "--model-repository", str(repository)]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        supervisor = psutil.Process(process.pid)
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in supervisor.children():
                    child.kill()
            time.sleep(0.005)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 1
    lines = [line for line in said.splitlines() if not line.startswith("{")]
    assert lines[0] == "lowc: error: lowc serve: workers fall before they are ready"
    assert "the last one ended by signal SIGKILL" in lines[1]
    assert said.count('"event":"fallen"') == falls.MOST_UNREADY
