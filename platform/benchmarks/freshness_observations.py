"""Observing the topic and the prediction server of a running platform."""

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import requests
from confluent_kafka import Consumer, TopicPartition

from tidemill.core.plans import BoundarySearch
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window
from tidemill.simulation.flights import PARTITIONS

if TYPE_CHECKING:
    from support.servers.platform import Platform

_POLL_INTERVAL_SECONDS = 0.05


@dataclass
class Observations:
    """When each window's last boundary was confirmed, and when each version first responded."""

    spec: ModelSpec
    first: Window
    confirmed_at: dict[str, float] = field(default_factory=dict)
    first_response_at: dict[int, float] = field(default_factory=dict)
    failed_requests: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)

    def watch_topic(self, servers: str) -> None:
        """Apply the rule that confirms boundaries to each record that arrives."""
        config = {"bootstrap.servers": servers, "group.id": "freshness", "fetch.wait.max.ms": 10}
        consumer = Consumer(
            {**config, "auto.offset.reset": "earliest", "enable.auto.commit": False}
        )
        consumer.assign([TopicPartition(self.spec.topic, p, 0) for p in range(PARTITIONS)])
        window, records = self.first, dict[int, list[tuple[int, int, float]]]()
        searches = self._searches(window)
        while not self.stopped.is_set():
            for record in consumer.consume(100, 0.02):
                if record.error() is None:
                    received = (record.offset(), record.timestamp()[1], time.time())
                    records.setdefault(record.partition(), []).append(received)
            while all(self._is_confirmed(searches[p], records.get(p, [])) for p in searches):
                self.confirmed_at[window.key] = max(records[p][0][2] for p in searches)
                window = self.spec.calendar.after(window)
                searches = self._searches(window)
        consumer.close()

    def _searches(self, window: Window) -> dict[int, BoundarySearch]:
        confirmation_records = self.spec.windows.confirmation_records
        return {p: BoundarySearch(window.end, confirmation_records) for p in range(PARTITIONS)}

    def _is_confirmed(self, search: BoundarySearch, records: list[tuple[int, int, float]]) -> bool:
        """Whether the boundary is confirmed. If so, the first remaining record confirmed it."""
        while search.boundary is None and records:
            if not search.feed([records[0][:2]]):
                records.pop(0)
        return search.boundary is not None

    def poll_predictions(self, platform: "Platform") -> None:
        """Request predictions repeatedly, and record when each version first responds."""
        while not self.stopped.wait(_POLL_INTERVAL_SECONDS):
            try:
                served_model = platform.served_model()
            except (AssertionError, requests.RequestException):
                self.failed_requests += 1
            else:
                if served_model is not None:
                    self.first_response_at.setdefault(served_model[1], time.time())
