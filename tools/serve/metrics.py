"""Figures for Prometheus: counters, gauges of state, and histograms by model and stage.

With several workers each writes to files of its own below ``PROMETHEUS_MULTIPROC_DIR``, which the
supervisor sets before they start, and whoever is asked adds them up.
"""

from __future__ import annotations

import os
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30,
)  # fmt: skip
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096, 65536)


class Metrics:
    """What one worker counts."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._children: dict[tuple[Any, tuple[str, ...]], Any] = {}
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
        self.in_flight = Gauge(
            "lowc_serve_requests_in_flight", "Requests that are being answered",
            multiprocess_mode="livesum", registry=self._registry,
        )  # fmt: skip
        self.connections = Gauge(
            "lowc_serve_connections", "Open connections of HTTP",
            multiprocess_mode="livesum", registry=self._registry,
        )  # fmt: skip
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
        self._child(self._requests, protocol, endpoint, str(status)).inc()
        self._child(self._seconds, protocol, endpoint).observe(seconds)

    def stage(self, model: str, stage: str, seconds: float) -> None:
        """Note the time of a stage: ``queue``, ``predict``."""
        self._child(self._stages, model, stage).observe(seconds)

    def batch(self, model: str, rows: int) -> None:
        """Note the rows of a batch."""
        self._child(self._rows, model).observe(rows)

    def _child(self, metric: Any, *labels: str) -> Any:
        # prometheus-client checks labels anew each time, which takes longer than counting.
        key = (metric, labels)
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = metric.labels(*labels)
        return found

    def text(self) -> bytes:
        """Return the figures of all workers as Prometheus reads them."""
        if not os.environ.get(FOLDER):
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)
