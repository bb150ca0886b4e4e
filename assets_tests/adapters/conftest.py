"""Fixtures: topics for streams, and `produce` in minutes of the stream's time."""

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from adapters.streams import MINUTE
from tidemill.adapters.kafka import Cluster, create_topic
from tidemill.simulation.produce import ProduceResult, produce


@pytest.fixture
def new_topic(kafka: str) -> Callable[..., str]:
    """Returns a new topic name; with `partitions`, the topic is created."""

    def make(partitions: int = 0) -> str:
        name = f"stream-{uuid.uuid4().hex}"
        if partitions:
            create_topic(Cluster(kafka, 30), name, partitions)
        return name

    return make


@pytest.fixture
def produce_events(kafka: str, tmp_path: Path) -> Callable[..., ProduceResult]:
    """`produce` to the real broker, in minutes of the stream's time from its first event."""

    def run(
        events: pl.DataFrame, topic: str, start: int = 0, end: int = 10**6, **options: Any
    ) -> ProduceResult:
        options = {"lock_folder": tmp_path, "clock": lambda: 0, "sleep": time.sleep, **options}
        span = (start + 1) * MINUTE, (end + 1) * MINUTE
        return produce(events, Cluster(kafka, 30), topic, *span, **options)

    return run
