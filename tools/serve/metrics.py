"""Figures for Prometheus: counters, gauges of state, and histograms by model and stage.

With several workers each writes to files of its own below ``PROMETHEUS_MULTIPROC_DIR``, which the
supervisor sets before they start, and whoever is asked adds them up.  prometheus-client takes
longer to count a request than a small model to answer it, so figures are added up here and handed
over twice a second, and when this worker is asked for them.  What cannot be handed over, for want
of room or of the folder, is kept and tried again later: no request fails because of it.
"""

from __future__ import annotations

import os
import struct
import time
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from . import logs, room
from .falls import FOLDER
from .faults import Fault

_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30,
)  # fmt: skip
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096, 65536)


EVERY = 0.5  # seconds between two flushes
PAUSE = 60.0  # seconds after one that failed; each leaves a few objects in prometheus-client


class _Roomy(MmapedDict):
    """A file of figures that has its room on the disk before anything is written to it."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        if not read_mode:
            room.take(filename, room.PIECE)
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        size = self._capacity
        while self._used + len(key.encode()) + 64 > size:  # 64: its number, and what fills it up
            size *= 2
        if size > self._capacity:
            room.take(self._fname, size)
        super()._init_value(key)  # type: ignore[no-untyped-call]


values.MmapedDict = _Roomy  # type: ignore[attr-defined]


class _Tally:
    """What one histogram was not told yet."""

    __slots__ = ("_bounds", "_counts", "_labels", "_metric", "_sum")

    def __init__(self, metric: Any, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._metric, self._labels, self._bounds = metric, labels, bounds
        self._counts, self._sum = [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def flush(self) -> None:
        """Tell the histogram; its own ``observe`` takes single values only."""
        child = self._metric.labels(*self._labels)
        for bucket, count in zip(child._buckets, self._counts, strict=True):  # noqa: SLF001
            if count:
                bucket.inc(count)
        child._sum.inc(self._sum)  # noqa: SLF001
        self._counts, self._sum = [0] * len(self._counts), 0.0


class Metrics:
    """What one worker counts, in its event loop.

    Attributes
    ----------
    requests_in_flight : int
        Requests that are being answered now.
    """

    def __init__(self) -> None:
        self.requests_in_flight = 0
        self._flush_again = 0.0
        self._registry = CollectorRegistry()
        self._tallies: dict[tuple[Any, ...], _Tally] = {}
        self._counted: Counts[tuple[str, str, str]] = Counts()
        self._requests = Counter(
            "lowc_serve_requests",
            "Requests answered",
            ["protocol", "endpoint", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "lowc_serve_request_seconds", "Time of a request, from its body to its answer",
            ["protocol", "endpoint"], buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._stages = Histogram(
            "lowc_serve_stage_seconds", "Time of a stage of inference", ["model", "stage"],
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._rows = Histogram(
            "lowc_serve_batch_rows", "Rows that a model calculated together", ["model"],
            buckets=_BATCHES, registry=self._registry,
        )  # fmt: skip
        self._in_flight = Gauge(
            "lowc_serve_requests_in_flight", "Requests that are being answered",
            multiprocess_mode="livesum", registry=self._registry,
        )  # fmt: skip
        self.connections = Gauge(
            "lowc_serve_connections", "Open connections of HTTP",
            multiprocess_mode="livesum", registry=self._registry,
        )  # fmt: skip
        counted = restarts(self._registry)
        for kind in ("worker", "parsers"):
            counted.labels(kind)  # 0, so that the first one is an increase
        self.ready = Gauge(
            "lowc_serve_ready",
            "Workers that are ready",
            multiprocess_mode="livesum",
            registry=self._registry,
        )
        self.models = Gauge(
            "lowc_serve_models_ready", "Models that are ready, in the worker that has fewest",
            multiprocess_mode="livemin", registry=self._registry,
        )  # fmt: skip

    def request(self, protocol: str, endpoint: str, status: int | str, seconds: float) -> None:
        """Count one request; `endpoint` is a route, never what a client wrote."""
        self._counted[protocol, endpoint, str(status)] += 1
        self._tally(self._seconds, _SECONDS, protocol, endpoint).observe(seconds)

    def stage(self, model: str, stage: str, seconds: float) -> None:
        """Note the time of a stage: ``queue``, ``predict``."""
        self._tally(self._stages, _SECONDS, model, stage).observe(seconds)

    def batch(self, model: str, rows: int) -> None:
        """Note the rows of a batch."""
        self._tally(self._rows, _BATCHES, model).observe(rows)

    def _tally(self, metric: Any, bounds: Sequence[float], *labels: str) -> _Tally:
        key = (metric, *labels)
        found = self._tallies.get(key)
        if found is None:
            found = self._tallies[key] = _Tally(metric, labels, bounds)
        return found

    def flush(self) -> None:
        """Hand over what was counted; what has no place now is kept, and the log says so once."""
        self._in_flight.set(self.requests_in_flight)
        if time.monotonic() < self._flush_again:
            return
        try:
            for labels in list(self._counted):
                counter = self._requests.labels(*labels)
                counter.inc(self._counted.pop(labels))
            for tally in self._tallies.values():
                tally.flush()
        except OSError as error:
            if not self._flush_again:
                logs.log("uncounted", level="error", process="worker", said=str(error))
            self._flush_again = time.monotonic() + PAUSE
        else:
            self._flush_again = 0.0

    def text(self) -> bytes:
        """Return the figures of all workers, as they were handed over, as Prometheus reads them.

        Raises
        ------
        Fault
            503, when the folder that they are in is gone.
        """
        if not os.environ.get(FOLDER):
            return generate_latest(self._registry)
        together = CollectorRegistry()
        try:
            MultiProcessCollector(together)  # type: ignore[no-untyped-call]
            return generate_latest(together)
        # The last two are prometheus-client's of a file that is cut off.
        except (OSError, ValueError, struct.error, RuntimeError) as error:
            raise Fault(503, f"the figures cannot be read: {error}") from error


def restarts(registry: CollectorRegistry) -> Counter:
    """Return the figure that the supervisor counts (:class:`.falls.Restarts`)."""
    return Counter(
        "lowc_serve_restarts", "Processes that ended unasked, and were to be started again",
        ["process"], registry=registry,
    )  # fmt: skip
