"""Figures for Prometheus, in a registry of the server's own."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nano_llada.serve.models import Models
from nano_llada.serve.note import Note

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
RATES = (0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 32)


class Engines(Collector):
    """What the workers say of themselves, read when it is asked for."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """The families of figures."""
        gauges = {"active": "requests that are being written", "waiting": "requests that wait for room"}
        counters = {
            "passes": "forward passes",
            "rows": "requests that took part in passes; over passes: the mean batch",
            "tokens": "tokens written",
            "seconds": "seconds spent in passes",
        }
        for name, text in gauges.items():
            gauge = GaugeMetricFamily(f"nano_llada_engine_{name}", text, labels=["model"])
            for served in self._models:
                gauge.add_metric([served.name], vars(served.worker.figures)[name])
            yield gauge
        for name, text in counters.items():
            counter = CounterMetricFamily(f"nano_llada_engine_{name}", text, labels=["model"])
            for served in self._models:
                counter.add_metric([served.name], vars(served.worker.figures)[name])
            yield counter


class Metrics:
    """Counts and times of requests, beside the figures of the engines."""

    def __init__(self, models: Models) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(Engines(models))
        self._requests = Counter(
            "nano_llada_requests", "answered requests", ["path", "model", "status"], registry=self.registry
        )
        self._tokens = Counter("nano_llada_tokens", "tokens", ["model", "kind"], registry=self.registry)
        labels, registry = ["model"], self.registry
        self._seconds = Histogram(
            "nano_llada_request_seconds", "arrival to end", labels, buckets=SECONDS, registry=registry
        )
        self._first = Histogram(
            "nano_llada_first_text_seconds", "arrival to first text", labels, buckets=SECONDS, registry=registry
        )
        self._rate = Histogram(
            "nano_llada_tokens_per_pass", "tokens over forward passes", labels, buckets=RATES, registry=registry
        )

    def observe(self, note: Note) -> None:
        """Count a request that is over."""
        model = note.model or ""
        self._requests.labels(note.route, model, str(note.status)).inc()
        if not note.forwards:
            return
        self._tokens.labels(model, "prompt").inc(note.prompt_tokens)
        self._tokens.labels(model, "written").inc(note.tokens)
        self._seconds.labels(model).observe(note.seconds)
        self._rate.labels(model).observe(note.tokens / note.forwards)
        if note.first_seconds is not None:
            self._first.labels(model).observe(note.first_seconds)

    def page(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)
