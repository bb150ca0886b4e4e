"""The event log in memory, for scratch work and tests."""

import uuid
from bisect import bisect_left
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tidemill.core.errors import LogTruncated, LogUnavailable, OffsetsExpired, TopicMissing
from tidemill.core.event_log import OffsetRange, RecordBatch, Topic

MAX_BATCH_RECORDS = 10_000


@dataclass(frozen=True)
class _Record:
    offset: int
    timestamp: int | None
    value: bytes | None
    log_append_time: bool
    kind: Literal["data", "marker", "open"] = "data"


@dataclass
class _Partition:
    records: list[_Record] = field(default_factory=list)
    low_watermark: int = 0
    end_offset: int = 0

    @property
    def last_stable_offset(self) -> int:
        return next((r.offset for r in self.records if r.kind == "open"), self.end_offset)

    def add(self, record: _Record) -> int:
        self.records.append(record)
        self.end_offset = record.offset + 1
        return record.offset

    def end_transaction(self, *, commit: bool) -> None:
        # Aborted records are removed; their offsets stay empty.
        self.records = [
            _Record(r.offset, r.timestamp, r.value, r.log_append_time) if r.kind == "open" else r
            for r in self.records
            if commit or r.kind != "open"
        ]


@dataclass
class _Topic:
    topic: Topic
    partitions: list[_Partition]


class MemoryLog:
    """An `EventLog` with further methods that create, fill and damage its topics.

    While `unavailable` is set, every call fails as if Kafka could not be reached.
    """

    def __init__(self) -> None:
        self.unavailable = False
        self._cluster_id = uuid.uuid4().hex
        self._topics: dict[str, _Topic] = {}

    def close(self) -> None:
        """Do nothing: there are no connections."""

    def topic(self, name: str) -> Topic:
        return self._find(name).topic

    def offset_ranges(self, topic: str) -> Mapping[int, OffsetRange]:
        partitions = self._find(topic).partitions
        return {
            p: OffsetRange(partition_log.low_watermark, partition_log.last_stable_offset)
            for p, partition_log in enumerate(partitions)
        }

    def offsets_for_timestamp(self, topic: str, timestamp_ms: int) -> Mapping[int, int | None]:
        return {
            p: next(
                (
                    r.offset
                    for r in partition_log.records
                    if r.timestamp is not None and r.timestamp >= timestamp_ms
                ),
                None,
            )
            for p, partition_log in enumerate(self._find(topic).partitions)
        }

    def read(
        self, topic: str, ranges: Mapping[int, tuple[int, int]], expected_records: int | None = None
    ) -> Generator[RecordBatch, None, None]:
        size = min(expected_records or MAX_BATCH_RECORDS, MAX_BATCH_RECORDS)
        for partition, (start, end) in sorted(ranges.items()):
            while start < end:
                partition_log = self._readable_partition(topic, partition, start, end)
                records = _between(partition_log.records, start, end)
                data = [r for r in records if r.kind == "data"][:size]
                if data:
                    yield _record_batch(partition, data)
                start = data[-1].offset + 1 if data else end

    def create_topic(self, name: str, partitions: int = 4, *, compacted: bool = False) -> None:
        """Create a topic; an existing one of this name is replaced and gets a new id."""
        topic = Topic(name, self._cluster_id, uuid.uuid4().hex, compacted)
        self._topics[name] = _Topic(topic, [_Partition() for _ in range(partitions)])

    def add_partition(self, name: str) -> None:
        """Add an empty partition to a topic."""
        self._find(name).partitions.append(_Partition())

    def delete_topic(self, name: str) -> None:
        """Remove a topic."""
        del self._topics[name]

    def append(
        self,
        topic: str,
        partition: int,
        value: bytes | None,
        timestamp: int | None,
        *,
        log_append_time: bool = False,
        transaction: bool = False,
    ) -> int:
        """Append a record, if `transaction` to the partition's open one; return its offset."""
        partition_log = self._find(topic).partitions[partition]
        kind: Literal["data", "open"] = "open" if transaction else "data"
        return partition_log.add(
            _Record(partition_log.end_offset, timestamp, value, log_append_time, kind)
        )

    def end_transaction(
        self, topic: str, partition: int, *, commit: bool, timestamp: int | None = None
    ) -> int:
        """Commit or abort the partition's open transaction; return its marker's offset."""
        partition_log = self._find(topic).partitions[partition]
        partition_log.end_transaction(commit=commit)
        return partition_log.add(
            _Record(partition_log.end_offset, timestamp, None, log_append_time=True, kind="marker")
        )

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """Delete the records below an offset, as retention does."""
        partition_log = self._find(topic).partitions[partition]
        partition_log.records = _between(partition_log.records, offset, partition_log.end_offset)
        partition_log.low_watermark = max(partition_log.low_watermark, offset)

    def truncate(self, topic: str, partition: int, offset: int) -> None:
        """Delete the records from an offset on, like a broker that lost its disk."""
        partition_log = self._find(topic).partitions[partition]
        partition_log.records = _between(partition_log.records, 0, offset)
        partition_log.end_offset = min(partition_log.end_offset, offset)

    def _find(self, name: str) -> _Topic:
        if self.unavailable:
            raise LogUnavailable("The log in memory is set to unavailable.", "Unset `unavailable`.")
        if name not in self._topics:
            raise TopicMissing(f"The log in memory has no topic {name}.", "Create it first.")
        return self._topics[name]

    def _readable_partition(self, topic: str, partition: int, start: int, end: int) -> _Partition:
        partition_log = self._find(topic).partitions[partition]
        if partition_log.low_watermark > start:
            raise OffsetsExpired(
                f"Retention deleted offsets {start} to {min(partition_log.low_watermark, end) - 1} "
                f"of partition {partition} of topic {topic}, which are still needed.",
                "Continue without them with `tidemill skip`.",
            )
        if partition_log.last_stable_offset < end:
            raise LogTruncated(
                f"Partition {partition} of topic {topic} ends at offset "
                f"{partition_log.last_stable_offset}, before {end}, the end of a planned range.",
                "Restore the log, or leave the window out with `tidemill skip` and continue with "
                "the topic as it is with `tidemill adopt`.",
            )
        return partition_log


def _between(records: list[_Record], start: int, end: int) -> list[_Record]:
    bounds = [bisect_left(records, offset, key=lambda r: r.offset) for offset in (start, end)]
    return records[bounds[0] : bounds[1]]


def _record_batch(partition: int, data: list[_Record]) -> RecordBatch:
    return RecordBatch(
        partition,
        [r.offset for r in data],
        [r.timestamp for r in data],
        [r.value for r in data],
        sum(r.log_append_time for r in data),
    )
