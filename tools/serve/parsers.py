"""Processes that read MLIR: each lives for one text, because parsers crash, hang and take memory.

One process, started by the supervisor, has the compiler loaded and forks for every text, which
takes milliseconds.  The child gets limits on memory, time and files, answers over its connection,
and is gone; when it crashed or was stopped, its parent says so in its place.

Messages are JSON behind four bytes of length: a request of :mod:`.reading`, or a result
``{"ok": …}`` or ``{"error": …}``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .processes import die_with_parent

LENGTH = struct.Struct("<I")
MOST_ANSWER = 64 << 20
# Time to read a request from a worker, which has it already.
_READ_SECONDS = 5.0
Reader = Callable[[dict[str, Any]], Any]


@dataclass
class _Child:
    pid: int
    connection: socket.socket
    deadline: float
    is_late: bool = False


class Parsers:
    """Forks a child for each connection to `listener`.

    Parameters
    ----------
    read : callable
        What a child does with a request; raises LowcError for a text that is no good.
    seconds, memory : float, int
        Wall-clock time of a child, and bytes of data beyond what it starts with.
    """

    def __init__(self, listener: socket.socket, read: Reader, seconds: float, memory: int) -> None:
        self._listener, self._read = listener, read
        self._seconds, self._memory = seconds, memory
        self._children: dict[int, _Child] = {}

    def run(self) -> None:
        """Serve until killed."""
        wake, pulse = os.pipe()
        for end in (wake, pulse):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(pulse, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        selector = selectors.DefaultSelector()
        selector.register(self._listener, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select(self._rest()):
                if key.fd == wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake, 4096)
                else:
                    self._accept()
            self._stop_late_ones()
            self._reap()

    def _rest(self) -> float | None:
        if not self._children:
            return None
        return max(0.0, min(child.deadline for child in self._children.values()) - time.monotonic())

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._listener.close()
            for child in self._children.values():
                child.connection.close()
            _be_child(parent, connection, self._read, self._seconds, self._memory)
        self._children[pid] = _Child(pid, connection, time.monotonic() + self._seconds)

    def _stop_late_ones(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if now >= child.deadline and not child.is_late:
                child.is_late, child.deadline = True, now + 3600
                os.kill(child.pid, signal.SIGKILL)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            child = self._children.pop(pid, None)
            if child is None:
                continue
            if status != 0:
                _answer(child.connection, {"error": self._ended(child, status)})
            child.connection.close()

    def _ended(self, child: _Child, status: int) -> str:
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if child.is_late or number == signal.SIGXCPU:
            return f"reading the MLIR took more than {self._seconds:g} s"
        if number:
            return f"the MLIR made its reader crash ({signal.Signals(number).name})"
        return "the MLIR made its reader end"


def _be_child(
    parent: int, connection: socket.socket, read: Reader, seconds: float, memory: int
) -> None:
    """Answer one request as a child of `parent`, and end; never returns."""
    code = 1
    try:
        die_with_parent(parent)
        # What LLVM prints when it crashes is nobody's.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        _limit(seconds, memory)
        connection.settimeout(_READ_SECONDS)
        _answer(connection, _result(read, receive(connection)))
        code = 0
    finally:
        # No handlers, no destructors: what the text did to this process ends here.
        os._exit(code)


def _limit(seconds: float, memory: int) -> None:
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123
        held = int(statm.read().split()[5]) * resource.getpagesize()
    most = {
        resource.RLIMIT_DATA: held + memory,
        resource.RLIMIT_CPU: int(seconds) + 2,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
    }
    for kind, value in most.items():
        resource.setrlimit(kind, (value, value))


def _result(read: Reader, request: dict[str, Any]) -> dict[str, Any]:
    from ...errors import LowcError

    try:
        return {"ok": read(request)}
    except LowcError as error:
        return {"error": str(error)}
    except (MemoryError, RecursionError):
        return {"error": "the MLIR needs more memory than a reader has"}
    except Exception as error:
        return {"error": f"the MLIR cannot be read ({type(error).__name__}: {error})"[:1000]}


def receive(connection: socket.socket) -> Any:
    """Return the next message of a connection."""
    size = LENGTH.unpack(_exactly(connection, LENGTH.size))[0]
    return json.loads(_exactly(connection, size))


def _exactly(connection: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        part = connection.recv(min(count - len(found), 1 << 20))
        if not part:
            raise EOFError
        found += part
    return bytes(found)


def _answer(connection: socket.socket, result: Any) -> None:
    data = json.dumps(result).encode()
    if len(data) > MOST_ANSWER:
        data = json.dumps({"error": "the answer is too large"}).encode()
    with contextlib.suppress(OSError):
        connection.sendall(LENGTH.pack(len(data)) + data)


def main() -> None:
    """Serve the socket whose number is the second argument; seconds and memory follow.

    The first argument is the number of the supervisor, which also ends this process: Ctrl-C, which
    goes to all processes of a terminal, is for the supervisor to answer.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    supervisor, number, seconds, memory = sys.argv[1:]
    die_with_parent(int(supervisor))
    from . import reading

    listener = socket.socket(fileno=int(number))
    reading.prepare()
    _load_what_reading_loads()
    Parsers(listener, reading.read, float(seconds), int(memory)).run()


def _load_what_reading_loads() -> None:
    """Import all modules that a child would: one child reads an example and says which they are."""
    from . import reading

    def names(request: dict[str, Any]) -> list[str]:
        reading.read(request)
        return sorted(sys.modules)

    here, there = socket.socketpair()
    parent = os.getpid()
    if os.fork() == 0:
        here.close()
        _be_child(parent, there, names, 60.0, 4 << 30)
    there.close()
    data = json.dumps(reading.EXAMPLE).encode()
    here.sendall(LENGTH.pack(len(data)) + data)
    with contextlib.suppress(EOFError):
        for name in receive(here).get("ok", []):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    here.close()
    os.wait()


if __name__ == "__main__":
    main()
