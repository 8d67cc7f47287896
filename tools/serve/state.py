"""What the parts of one worker share: settings, models, figures, and whether it is ready."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from .batching import Batcher
from .faults import Fault
from .metrics import Metrics
from .models import Model
from .repository import Repository, Source
from .settings import Settings


@dataclass
class State:
    """One worker.

    Attributes
    ----------
    in_flight : int
        Requests that are being answered, by either protocol.
    buffered : int
        Bytes of bodies that are held.
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

    def __post_init__(self) -> None:
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
