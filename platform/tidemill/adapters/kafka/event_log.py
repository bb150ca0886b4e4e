"""The event log on Kafka."""

from collections.abc import Generator, Mapping
from typing import Self

from tidemill.adapters.kafka import topics
from tidemill.adapters.kafka.client import Cluster
from tidemill.adapters.kafka.reader import Reader
from tidemill.core.event_log import OffsetRange, RecordBatch, Topic


class KafkaLog:
    """An `EventLog` on one cluster. Connections are kept until `close`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._admin = topics.make_admin_client(cluster)
        self._reader = Reader(cluster, self.offset_ranges)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; the log cannot be used afterwards."""
        self._reader.close()

    def topic(self, name: str) -> Topic:
        return topics.describe(self._admin, self._cluster, name)

    def offset_ranges(self, topic: str) -> Mapping[int, OffsetRange]:
        return topics.offset_ranges(self._admin, self._cluster, topic)

    def offsets_for_timestamp(self, topic: str, timestamp_ms: int) -> Mapping[int, int | None]:
        return topics.offsets_for_timestamp(self._admin, self._cluster, topic, timestamp_ms)

    def read(
        self, topic: str, ranges: Mapping[int, tuple[int, int]], expected_records: int | None = None
    ) -> Generator[RecordBatch, None, None]:
        return self._reader.read(topic, ranges, expected_records)
