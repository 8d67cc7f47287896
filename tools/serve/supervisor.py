"""The process that `lowc serve` is: it starts workers, starts fallen ones again, and ends them all.

It answers no request, loads no model, and holds the ports: a socket that is bound but does not
listen keeps them while workers come and go.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from ...errors import InternalError, UserError
from . import logs, room
from .falls import Falls, Restarts, how_it_ended
from .settings import Settings


@contextlib.contextmanager
def reserved(host: str, port: int, what: str) -> Iterator[int]:
    """Hold a port for workers, any free one for 0, and give its number.

    Raises
    ------
    UserError
        When it is taken, or no address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as stack:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as alone:
                # Without sharing: another server that shares its port would not be noticed.
                alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                alone.bind((host, port))
            held = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind((host, port))
        except (OSError, OverflowError) as error:
            said = getattr(error, "strerror", None) or str(error)
            raise UserError(
                f"cannot listen on {host}:{port}: {said}", where=what, hint="choose another one"
            ) from error
        yield held.getsockname()[1]


@dataclasses.dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    since: float
    falls: Falls  # of its place
    is_ready: bool = False
    is_told: bool = False  # to end


@dataclasses.dataclass(frozen=True)
class _End:
    """How a process ended after `lived` seconds; without a `number` there never was one."""

    text: str
    number: int | None
    lived: float
    is_ready: bool

    @classmethod
    def of(cls, process: subprocess.Popen[bytes], since: float, is_ready: bool) -> _End:
        text = how_it_ended(process.returncode)
        return cls(text, process.pid, time.monotonic() - since, is_ready)

    @classmethod
    def unborn(cls, error: OSError) -> _End:
        return cls(f"no start: {error.strerror or error}", None, 0.0, False)


_LISTEN = 256
# Of glibc: arrays of some MB are not given back to the system after each request, which would have
# to clear their pages for the next one: choosing tiles takes a fifth longer then.
_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(4 << 20), "MALLOC_TRIM_THRESHOLD_": str(16 << 20)}


class Supervisor:
    """Workers for `settings`, whose ports are known, and the parsers behind `parser_socket`."""

    def __init__(self, settings: Settings, parser_socket: socket.socket) -> None:
        self._settings, self._parser_socket = settings, parser_socket
        self._parsers: subprocess.Popen[bytes] | None = None
        self._parsers_since = 0.0
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        # Each place for a worker has its own: what fells all of them once is one fall, not many.
        self._places = [Falls() for _ in range(settings.workers)]
        self._parsers_falls = Falls()
        self._restarts = Restarts(Path(settings.metrics_folder))
        self._due: list[tuple[float, Callable[[], None]]] = []  # what is to be started, and when
        self._is_ending = False

    def run(self) -> None:
        """Keep the workers alive until SIGTERM or SIGINT.

        Raises
        ------
        InternalError
            When workers fall again and again, in all places, and none is ready.
        """
        wake, pulse = os.pipe()
        os.set_blocking(pulse, False)
        signal.set_wakeup_fd(pulse)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._end)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(wake, selectors.EVENT_READ)
        try:
            for falls in self._places:
                self._start(falls)
            # A signal leaves a byte in `wake`: one that comes before the wait ends it.
            while self._workers or not self._is_ending:
                if self._is_ending:
                    self._tell_to_end()
                self._wait(wake)
                self._reap()
                self._start_due()
        finally:
            signal.set_wakeup_fd(-1)
            for process in [worker.process for worker in self._workers] + [self._parsers]:
                if process is not None:
                    process.kill()
                    process.wait()

    def _start(self, falls: Falls) -> None:
        if self._is_ending:
            return
        environment = _environment(PROMETHEUS_MULTIPROC_DIR=self._settings.metrics_folder)
        try:
            with _interrupts_kept():
                process = subprocess.Popen(
                    [sys.executable, "-m", f"{__package__}.worker", str(os.getpid())],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    env={**_MEMORY, **environment},
                )  # fmt: skip
        except OSError as error:
            self._mend("worker", falls, _End.unborn(error), functools.partial(self._start, falls))
            return
        assert process.stdin is not None and process.stdout is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(self._settings.to_json().encode() + b"\n")
            process.stdin.close()
        worker = _Worker(process, time.monotonic(), falls)
        self._workers.append(worker)
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)

    def _start_parsers(self) -> None:
        if self._is_ending:
            return
        settings, number = self._settings, self._parser_socket.fileno()
        numbers = [os.getpid(), number, settings.parse_seconds, settings.parser_memory]
        command = [sys.executable, "-m", f"{__package__}.parsers", *map(str, numbers)]
        self._parsers_since = time.monotonic()
        try:
            with _interrupts_kept():
                self._parsers = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, pass_fds=[number], env=_environment()
                )
        except OSError as error:
            end = _End.unborn(error)
            self._mend("parsers", self._parsers_falls, end, self._start_parsers)

    def _wait(self, wake: int) -> None:
        first = min((when for when, _ in self._due), default=None)
        timeout = None if first is None else max(0.0, first - time.monotonic())
        for key, _ in self._selector.select(timeout):
            if key.fd == wake:
                os.read(wake, 512)
                continue
            if not os.read(key.fd, 512):
                self._selector.unregister(key.fileobj)
            elif not key.data.is_ready:
                key.data.is_ready = True
                # Not sooner: they take as long to load as a worker, and would make it wait.
                if not self._parsers_since:
                    self._start_parsers()
                self._tell()

    def _tell(self) -> None:
        # One that waits for its next start is in no list: it is missing from the number.
        if sum(worker.is_ready for worker in self._workers) == self._settings.workers:
            sys.stdout.write(f"serving on {address(self._settings)}\n")
            sys.stdout.flush()

    def _reap(self) -> None:
        for worker in [one for one in self._workers if one.process.poll() is not None]:
            self._workers.remove(worker)
            self._forget(worker)
            end, falls = _End.of(worker.process, worker.since, worker.is_ready), worker.falls
            self._mend("worker", falls, end, functools.partial(self._start, falls))
        if self._parsers is not None and self._parsers.poll() is not None:
            end = _End.of(self._parsers, self._parsers_since, True)
            self._parsers = None
            self._mend("parsers", self._parsers_falls, end, self._start_parsers)

    def _mend(self, kind: str, falls: Falls, end: _End, start: Callable[[], None]) -> None:
        """Have a process that ended, or never came to be, started again, sooner or later.

        Raises
        ------
        InternalError
            When workers fall again and again, in all places, and none is ready.
        """
        if self._is_ending:
            return
        wait = falls.wait(end.lived, is_ready=end.is_ready)
        self._due.append((time.monotonic() + wait, start))
        logs.log(
            "fallen", level="error", process=kind, number=end.number, ended=end.text,
            lived=round(end.lived, 3), in_a_row=falls.count, wait=wait,
        )  # fmt: skip
        try:
            self._restarts.count(kind)
        except (OSError, ImportError) as error:
            # Without the folder of figures, or room in it, there is a server all the same.
            logs.log("uncounted", level="error", process=kind, said=str(error))
        hopeless = kind == "worker" and all(place.is_hopeless for place in self._places)
        if hopeless and not any(worker.is_ready for worker in self._workers):
            raise InternalError(
                falls.text, where="lowc serve", hint="its log says more",
                detail=f"the last one ended by {end.text}",
            )  # fmt: skip

    def _start_due(self) -> None:
        now = time.monotonic()
        due = [start for when, start in self._due if when <= now]
        self._due = [one for one in self._due if one[0] > now]
        for start in due:
            start()

    def _forget(self, worker: _Worker) -> None:
        """Take a fallen worker's gauges out of the sums."""
        folder = Path(self._settings.metrics_folder)
        with contextlib.suppress(OSError):
            for path in folder.glob(f"gauge_live*_{worker.process.pid}.db"):
                path.unlink(missing_ok=True)

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        # Nothing more: it may come between the start of a worker and its entry in the list.
        self._is_ending = True

    def _tell_to_end(self) -> None:
        for worker in self._workers:
            if not worker.is_told:
                worker.is_told = True
                worker.process.terminate()


@contextlib.contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Start children that Ctrl-C does not reach; here it comes a moment later.

    A terminal sends it to all processes, and Python as it begins answers it with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _environment(**more: str) -> dict[str, str]:
    """Return the environment of a child, which takes no modules from the current folder."""
    return {**os.environ, "PYTHONSAFEPATH": "1", **more}


def address(settings: Settings) -> str:
    """Return where a server can be reached."""
    scheme = "https" if settings.certificate else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    text = f"{scheme}://{host}:{settings.port}"
    return text if settings.grpc_port < 0 else f"{text} and grpc://{host}:{settings.grpc_port}"


def supervise(settings: Settings) -> None:
    """Serve until somebody ends it.

    Raises
    ------
    UserError, InternalError
        When a port is taken, there is no room for figures, or no worker stays alive.
    """
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(reserved(settings.host, settings.port, "--port"))
        grpc_port = settings.grpc_port
        if grpc_port >= 0:
            grpc_port = stack.enter_context(reserved(settings.host, grpc_port, "--grpc-port"))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lowc-serve-")))
        (folder / "metrics").mkdir()
        room.check(folder / "metrics", settings.workers)
        path = str(folder / "parsers")
        parsers = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        parsers.bind(path)
        # Requests wait here while the parsers' process starts.
        parsers.listen(_LISTEN)
        known = dataclasses.replace(
            settings, port=port, grpc_port=grpc_port, parser_socket=path,
            metrics_folder=str(folder / "metrics"),
        )  # fmt: skip
        Supervisor(known, parsers).run()
