"""What the parts of one worker share: settings, models, figures, and whether it is ready."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from .batching import Batcher
from .faults import Fault
from .metrics import Metrics
from .models import Model
from .places import Places
from .repository import Repository, Source
from .settings import Settings

AT_ONCE = 4  # questions about matmuls that threads work at


@dataclass
class State:
    """One worker.

    Attributes
    ----------
    in_flight : int
        Requests that are being answered, by either protocol.
    buffered : int
        Bytes of bodies and of gRPC's messages that are held.
    is_draining : bool
        Whether it is about to end: readiness is down.
    """

    settings: Settings
    repository: Repository
    metrics: Metrics
    in_flight: int = 0
    buffered: int = 0
    is_draining: bool = False
    _bearer: bytes = field(default=b"", repr=False)
    _places: Places = field(init=False, repr=False)
    _threads: ThreadPoolExecutor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        settings = self.settings
        self._places = Places(
            AT_ONCE, settings.max_requests, settings.request_seconds / 2, "questions about matmuls"
        )
        # Threads of its own: what takes long here keeps nobody else's bodies from being read.
        self._threads = ThreadPoolExecutor(AT_ONCE, "matmuls")
        if self.settings.token:
            self._bearer = f"Bearer {self.settings.token}".encode()

    @property
    def is_ready(self) -> bool:
        """Whether new requests are wanted."""
        return not self.is_draining and bool(self.repository.names)

    def authorize(self, header: bytes | str | None) -> None:
        """Check the ``Authorization`` of a request.

        Raises
        ------
        Fault
            401, when a token is asked for and this is not it.
        """
        if not self._bearer:
            return
        given = header.encode() if isinstance(header, str) else header or b""
        if not hmac.compare_digest(given, self._bearer):
            raise Fault(401, "a bearer token is needed")

    async def calculate(self, what: Callable[..., Any], *given: Any) -> Any:
        """Return ``what(*given)`` of a thread, when one of the few for such work is free.

        Raises
        ------
        Fault
            429, when too many wait, or none is free in time; what `what` raises.
        """
        async with self._places.one():
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, what, *given)

    def enter(self) -> None:
        """Take one of the places for requests; :meth:`leave` gives it back.

        Raises
        ------
        Fault
            429, when all are taken.
        """
        if self.in_flight >= self.settings.max_requests:
            raise Fault(429, f"{self.in_flight} requests are being answered: try again")
        self.in_flight += 1
        self.metrics.requests_in_flight = self.in_flight

    def leave(self) -> None:
        """Give a place back."""
        self.in_flight -= 1
        self.metrics.requests_in_flight = self.in_flight


class Held:
    """The bytes that one request has in memory; :meth:`release` gives them back."""

    def __init__(self, state: State) -> None:
        self._state, self._count = state, 0

    def grow(self, count: int) -> None:
        """Hold `count` bytes more.

        Raises
        ------
        Fault
            429, when all requests together have too many.
        """
        settings = self._state.settings
        if self._state.buffered + count > max(settings.max_buffered, settings.max_body):
            raise Fault(429, "too many large bodies are being read: try again")
        self._state.buffered += count
        self._count += count

    def shrink(self, count: int) -> None:
        """Hold `count` bytes less."""
        self._state.buffered -= count
        self._count -= count

    def release(self) -> None:
        """Hold nothing."""
        self._state.buffered -= self._count
        self._count = 0


def make_state(settings: Settings, sources: list[Source]) -> State:
    """Return a worker's state with all models loaded."""
    metrics = Metrics()

    def make_batcher(model: Model) -> Batcher:
        return Batcher(
            model, most_rows=settings.batch_rows, most_waiting=settings.max_waiting_rows,
            metrics=metrics,
        )  # fmt: skip

    repository = Repository(
        sources, make_batcher, is_explicit=settings.explicit, tell=metrics.models.set
    )
    repository.load_all()
    return State(settings, repository, metrics)
