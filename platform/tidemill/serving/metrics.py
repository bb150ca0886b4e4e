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

from tidemill.serving.following import Happened
from tidemill.serving.status import Status

_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 10)

disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Counts and times. With `shared`, counters are those of all workers together."""

    def __init__(self, shared: bool = False) -> None:
        self._own = own = CollectorRegistry()
        self._shared = shared
        self._requests = Counter(
            "tidemill_requests", "Requests answered.", ("model", "route", "status"), registry=own
        )
        self._seconds = Histogram(
            "tidemill_request_seconds",
            "From a request's head to its answer.",
            ("model",),
            buckets=_BUCKETS,
            registry=own,
        )
        self._swaps = Counter(
            "tidemill_swaps", "Models swapped while serving.", ("model",), registry=own
        )
        self._failures = Counter(
            "tidemill_load_failures", "Deployments not taken.", ("model",), registry=own
        )
        self.dropped = Counter(
            "tidemill_predictions_dropped", "Predictions not logged.", ("model",), registry=own
        )
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._histograms: dict[str, Histogram] = {}

    def begin(self, model: str) -> None:
        """Let a model's metrics be there from the start, at zero."""
        for counter in (self._swaps, self._failures, self.dropped):
            counter.labels(model)
        self._histograms[model] = self._seconds.labels(model)

    def happened(self, model: str, what: Happened) -> None:
        """Count what the follower has done."""
        (self._swaps if what == "swap" else self._failures).labels(model).inc()

    def answered(self, model: str, route: str, status: int, seconds: float) -> None:
        """Count an answer; `model` is empty where a request names none."""
        key = model, route, status
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self._requests.labels(model, route, str(status))
        counter.inc()
        if model in self._histograms:
            self._histograms[model].observe(seconds)

    def page(self, status: Status) -> bytes:
        """What Prometheus reads."""
        registry = CollectorRegistry() if self._shared else self._own
        told = b""
        if self._shared:
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        told += generate_latest(registry)
        now = CollectorRegistry()
        now.register(_Now(status))
        return told + generate_latest(now)


class _Now(Collector):
    """What is so at the moment of asking; every worker knows it."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status, models = self._status, self._status.follower.models
        age = GaugeMetricFamily(
            "tidemill_model_age_seconds",
            "Since the end of the newest window that the model in service learned from.",
            labels=("model",),
        )
        version = GaugeMetricFamily(
            "tidemill_model_version", "Ledger entry in service.", labels=("model", "digest")
        )
        lag = GaugeMetricFamily(
            "tidemill_ledger_lag_entries",
            "Standing ledger entries of the model behind the one in service.",
            labels=("model",),
        )
        for name, followed in models.items():
            served, years = followed.slot.served, status.age(name)
            if years is not None:
                age.add_metric((name,), years)
            if served is not None:
                version.add_metric((name, served.digest), served.entry.seq)
            at = -1 if served is None else served.entry.seq
            lag.add_metric((name,), max(0, len(followed.chain.entries) - 1 - at))
        yield from (age, version, lag)
        behind = status.follower.contact.behind
        yield GaugeMetricFamily("tidemill_ledger_behind", "Ledger records unread.", behind)
        yield GaugeMetricFamily(
            "tidemill_ledger_silent_seconds", "Since the ledger was reached.", status.silence()
        )
        yield GaugeMetricFamily("tidemill_ready", "Whether it is ready.", int(status.ready))
