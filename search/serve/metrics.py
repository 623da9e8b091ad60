"""Metrics for Prometheus: requests by route, and the state of fleets, caches, passages and the writer."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from search.serve.generator import Piece
from search.serve.service import Service

#: The first part of every name, so that none is that of another service of the same Prometheus.
NAMESPACE = "search_serve"
#: Histogram buckets in seconds, from a cached answer to the time limit of a completion.
TIME_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """The metrics of one service."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            _name("request_seconds"), "time of requests", ("route",), buckets=TIME_BUCKETS, registry=self.registry
        )
        self._requests = Counter(
            _name("requests"), "requests by route and status", ("route", "status"), registry=self.registry
        )
        self._first = Histogram(
            _name("first_token_seconds"),
            "time to the first token of completions",
            buckets=TIME_BUCKETS,
            registry=self.registry,
        )
        self._tokens = Counter(_name("completion_tokens"), "tokens that were written", registry=self.registry)
        self._prompts = Counter(_name("prompt_tokens"), "tokens of prompts", registry=self.registry)
        self._reused = Counter(
            _name("prompt_tokens_cached"), "of these, read with an earlier prompt (--prefix-mb)", registry=self.registry
        )
        self._completions = Counter(
            _name("completions"), "completions by their end", ("finish",), registry=self.registry
        )
        self.registry.register(_State(service))

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._seconds.labels(route).observe(seconds)
        self._requests.labels(route, str(status)).inc()

    def completed(self, first_s: float | None, last: Piece | None, finish: str) -> None:
        """Count one completion, of which `last` is the last piece."""
        if first_s is not None:
            self._first.observe(first_s)
        if last is not None:
            self._tokens.inc(last.tokens)
            self._prompts.inc(last.prompt_tokens)
            self._reused.inc(last.reused)
        self._completions.labels(finish).inc()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def _name(name: str) -> str:
    return f"{NAMESPACE}_{name}"


class _State:
    """A collector that reads the service's state at each scrape."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        service = self._service
        waiting = GaugeMetricFamily(_name("queue_length"), "rows that wait", labels=["task"])
        margin = GaugeMetricFamily(_name("admission_margin"), "factor of the predicted spread", labels=["task"])
        totals = {
            name: CounterMetricFamily(_name(name), text, labels=["task"])
            for name, text in (
                ("rows_served", "rows that a model answered"),
                ("rows_late", "of these, later than they were due"),
                ("rows_refused", "rows that were not taken"),
                ("rows_dropped", "rows that expired in the queue"),
                ("variant_switches", "moves from one variant to another"),
            )
        }
        restarts = CounterMetricFamily(_name("worker_restarts"), "model processes started again", labels=["task"])
        serving = GaugeMetricFamily(_name("variant_serving"), "1: it serves", labels=["task", "variant"])
        for task, fleet in service.fleets.items():
            state = fleet.dispatcher.look(
                lambda b: (b.waiting, b.served, b.late, b.refused, b.dropped, b.controller.switch_count, b.margin)
            )
            waiting.add_metric([task], state[0])
            margin.add_metric([task], state[-1])
            for family, value in zip(totals.values(), state[1:-1], strict=True):
                family.add_metric([task], value)
            restarts.add_metric([task], fleet.workers.restarts if fleet.workers is not None else 0)
            now = fleet.serving
            for variant in fleet.variants:
                serving.add_metric([task, fleet.name(variant.number)], float(variant.number == now))
        yield from (waiting, margin)
        yield from totals.values()
        yield restarts
        yield serving
        hits = CounterMetricFamily(_name("cache_hits"), "entries found", labels=["cache"])
        misses = CounterMetricFamily(_name("cache_misses"), "entries not found", labels=["cache"])
        held = GaugeMetricFamily(_name("cache_bytes"), "size of the entries", labels=["cache"])
        for name, cache in (("answers", service.answers), ("sentences", service.sentence_vectors)):
            hits.add_metric([name], cache.hits)
            misses.add_metric([name], cache.misses)
            held.add_metric([name], cache.bytes)
        yield hits
        yield misses
        yield held
        yield GaugeMetricFamily(_name("passages"), "passages that can be found", value=len(service.index))
        recall = "share of the exact nearest passages that searches find; 1 where all are compared"
        yield GaugeMetricFamily(_name("retrieval_recall"), recall, value=service.index.recall)
        yield GaugeMetricFamily(_name("writes_waiting"), "writes that wait", value=service.archive.waiting)
