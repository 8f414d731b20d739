"""What Prometheus reads at /metrics."""

import logging
import os
import time
from contextlib import AbstractContextManager
from typing import Any

import prometheus_client
from prometheus_client import multiprocess

from .logs import log, where

BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """The counts and times of a process; each of them once in a process."""

    def __init__(self) -> None:
        self.requests = prometheus_client.Counter(
            "patchnet_requests", "Requests answered", ["route", "status"]
        )
        self.seconds = prometheus_client.Histogram(
            "patchnet_request_seconds", "Time from a request's head to its answer", ["route"], buckets=BUCKETS
        )
        self.stages = prometheus_client.Histogram(
            "patchnet_stage_seconds",
            "Time of a prediction's stages: read, predict (waiting included), write",
            ["stage"],
            buckets=BUCKETS,
        )
        self.batch = prometheus_client.Histogram(
            "patchnet_batch_images", "Images computed at once", ["output"], buckets=(1, 2, 4, 8, 16, 32)
        )
        self.version = prometheus_client.Gauge(
            "patchnet_version", "Version served", ["model"], multiprocess_mode="max"
        )

    def stage(self, name: str) -> AbstractContextManager:
        """Return a context whose time is observed."""
        return self.stages.labels(name).time()

    def request(
        self, route: str, status: int | str, began: float, fault: Exception | None = None, **more: Any
    ) -> None:
        """Count a request that has been answered, and log it; `began` is of the monotonic clock."""
        seconds = time.monotonic() - began
        self.requests.labels(route, status).inc()
        self.seconds.labels(route).observe(seconds)
        # Probes and scrapes would drown the rest.
        probe = "health" in route or route == "/metrics" or route.endswith(("Live", "Ready"))
        level = logging.ERROR if fault else logging.DEBUG if probe else logging.INFO
        # Of an error, where it was raised, not what it says: that might be part of the request.
        more |= {"fault": where(fault)} if fault else {}
        described = {"route": route, "status": status, "ms": round(1000 * seconds, 1), **more}
        log.log(level, "request", extra=described)

    @staticmethod
    def read(accept: str) -> tuple[bytes, str]:
        """Return all of them, of all workers where there are several, and their content type."""
        registry = prometheus_client.REGISTRY
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = prometheus_client.CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
        encode, content_type = prometheus_client.exposition.choose_encoder(accept)
        return encode(registry), content_type
