"""Run another program with limits, and leave nothing of it behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Limits:
    """What one child process may use: wall-clock seconds, and bytes of data (0: no limit)."""

    seconds: float = 600.0
    memory: int = 0


@dataclass(frozen=True)
class Finished:
    """How a child ended.

    ``signal`` is the name of the signal that ended it or ``""``; ``timed_out`` says that it ran
    into :attr:`Limits.seconds`.
    """

    returncode: int
    stdout: str
    stderr: str
    seconds: float
    signal: str = ""
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        """Whether the child exited with 0."""
        return self.returncode == 0


def run(
    command: Sequence[str | os.PathLike[str]],
    limits: Limits,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Finished:
    """Run `command` to its end under `limits`.

    The child leads a process group of its own.  Whatever ends this call, Ctrl-C included, the
    whole group is killed before it returns, and it dies with this process too (Linux).
    """
    start = time.monotonic()
    child = subprocess.Popen(
        [os.fspath(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        cwd=folder,
        start_new_session=True,
        preexec_fn=lambda: _restrict(limits.memory),  # noqa: PLW1509  (sets limits only)
    )
    timed_out = False
    try:
        out, err = child.communicate(timeout=limits.seconds)
    except subprocess.TimeoutExpired:
        timed_out = True
        _kill_group(child)
        out, err = child.communicate()
    except BaseException:
        _kill_group(child)
        raise
    if child.returncode < 0:
        _kill_group(child)
    killed_by = signal.Signals(-child.returncode).name if child.returncode < 0 else ""
    return Finished(
        returncode=child.returncode,
        stdout=out.decode("utf-8", "replace"),
        stderr=err.decode("utf-8", "replace"),
        seconds=time.monotonic() - start,
        signal=killed_by,
        timed_out=timed_out,
    )


def _restrict(memory: int) -> None:
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The kernel watches the thread that started the child; it waits in run(), so it outlives it.
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    if child.poll() is None:
        child.wait()
