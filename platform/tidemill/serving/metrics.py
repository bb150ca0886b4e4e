"""The server's metrics for Prometheus."""

from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from tidemill.serving.model_follower import FollowerEvent
from tidemill.serving.status import Status

_LATENCY_BUCKETS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    1,
    10,
)

disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Counters and latencies. With `multiprocess`, they are the sums over all workers."""

    def __init__(self, multiprocess: bool = False) -> None:
        self._registry = registry = CollectorRegistry()
        self._multiprocess = multiprocess
        self._requests = Counter(
            "tidemill_requests",
            "Requests answered.",
            ("model", "route", "status"),
            registry=registry,
        )
        self._latency = Histogram(
            "tidemill_request_seconds",
            "Time from the head of a request to its response.",
            ("model",),
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self._swaps = Counter(
            "tidemill_swaps", "Models replaced while serving.", ("model",), registry=registry
        )
        self._failures = Counter(
            "tidemill_load_failures",
            "Deployments that could not be taken into service, each attempt counted.",
            ("model",),
            registry=registry,
        )
        self.dropped_predictions = Counter(
            "tidemill_predictions_dropped",
            "Predictions that were not written to the prediction log.",
            ("model",),
            registry=registry,
        )
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._histograms: dict[str, Histogram] = {}

    def init_model(self, model: str) -> None:
        """Create a model's series at zero, so that they exist from the start."""
        for counter in (self._swaps, self._failures, self.dropped_predictions):
            counter.labels(model)
        self._histograms[model] = self._latency.labels(model)

    def count_event(self, model: str, event: FollowerEvent) -> None:
        """Count an event of the follower."""
        (self._swaps if event == "swap" else self._failures).labels(model).inc()

    def observe_request(self, model: str, route: str, status: int, seconds: float) -> None:
        """Count a response; `model` is empty if the request names none."""
        key = model, route, status
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self._requests.labels(model, route, str(status))
        counter.inc()
        if model in self._histograms:
            self._histograms[model].observe(seconds)

    def render(self, status: Status) -> bytes:
        """All metrics in Prometheus' text format."""
        registry = CollectorRegistry() if self._multiprocess else self._registry
        payload = b""
        if self._multiprocess:
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        payload += generate_latest(registry)
        state_registry = CollectorRegistry()
        state_registry.register(_StateCollector(status))
        return payload + generate_latest(state_registry)


class _StateCollector(Collector):
    """Gauges that are computed at scrape time; each worker reports its own."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status, models = self._status, self._status.models
        age = GaugeMetricFamily(
            "tidemill_model_age_seconds",
            "Time since the end of the newest window that the model in service has learned from.",
            labels=("model",),
        )
        version = GaugeMetricFamily(
            "tidemill_model_version",
            "The seq of the ledger entry in service.",
            labels=("model", "digest"),
        )
        lag = GaugeMetricFamily(
            "tidemill_ledger_lag_entries",
            "Valid ledger entries of the model that are newer than the one in service.",
            labels=("model",),
        )
        for name, state in models.items():
            served, age_seconds = state.served, status.age_seconds(name)
            if age_seconds is not None:
                age.add_metric((name,), age_seconds)
            if served is not None:
                version.add_metric((name, served.digest), served.entry.seq)
            served_seq = -1 if served is None else served.entry.seq
            lag.add_metric((name,), max(0, len(state.chain.entries) - 1 - served_seq))
        yield from (age, version, lag)
        yield GaugeMetricFamily(
            "tidemill_ledger_unread_records",
            "Records of the ledger topic that are not read yet.",
            status.connection.lag,
        )
        yield GaugeMetricFamily(
            "tidemill_ledger_contact_age_seconds",
            "Time since the ledger was last reached, or since the start.",
            status.seconds_since_contact(),
        )
        yield GaugeMetricFamily(
            "tidemill_ready", "1 if the server is ready, otherwise 0.", int(status.ready)
        )
