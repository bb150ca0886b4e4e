"""The event log and the ledger's topic in memory, for scratch work and tests."""

import uuid
from bisect import bisect_left
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tidemill.core.errors import (
    LedgerLost,
    LogTruncated,
    LogUnavailable,
    OffsetsExpired,
    TopicMissing,
)
from tidemill.core.event_log import LedgerRecord, OffsetRange, RecordBatch, Topic

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
        # Aborted records go; the offsets they had stay empty.
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
    """An `EventLog` whose topics are made, filled and harmed by the calls below the port's own.

    While `away` is set, it answers as Kafka does that cannot be reached.
    """

    def __init__(self) -> None:
        self.unavailable = False
        self._cluster_id = uuid.uuid4().hex
        self._topics: dict[str, _Topic] = {}

    def close(self) -> None:
        """Nothing is held."""

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
        self, topic: str, ranges: Mapping[int, tuple[int, int]], first: int | None = None
    ) -> Generator[RecordBatch, None, None]:
        size = min(first or MAX_BATCH_RECORDS, MAX_BATCH_RECORDS)
        for partition, (start, end) in sorted(ranges.items()):
            while start < end:
                partition_log = self._readable_partition(topic, partition, start, end)
                data = [r for r in _between(partition_log.records, start, end) if r.kind == "data"][
                    :size
                ]
                if data:
                    yield _record_batch(partition, data)
                start = data[-1].offset + 1 if data else end

    def create_topic(self, name: str, partitions: int = 4, *, compacted: bool = False) -> None:
        """Make a topic; one of this name that was there before is another from now on."""
        topic = Topic(name, self._cluster_id, uuid.uuid4().hex, compacted)
        self._topics[name] = _Topic(topic, [_Partition() for _ in range(partitions)])

    def add_partition(self, name: str) -> None:
        """Give a topic one more partition, which is empty."""
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
        """Append a record, or one of the partition's open transaction; its offset."""
        partition_log = self._find(topic).partitions[partition]
        kind: Literal["data", "open"] = "open" if transaction else "data"
        return partition_log.add(
            _Record(partition_log.end_offset, timestamp, value, log_append_time, kind)
        )

    def end_transaction(
        self, topic: str, partition: int, *, commit: bool, timestamp: int | None = None
    ) -> int:
        """Commit or abort the partition's open transaction; the offset of its marker."""
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
        """Lose the records from an offset on, as a broker that lost its disk does."""
        partition_log = self._find(topic).partitions[partition]
        partition_log.records = _between(partition_log.records, 0, offset)
        partition_log.end_offset = min(partition_log.end_offset, offset)

    def _find(self, name: str) -> _Topic:
        if self.unavailable:
            raise LogUnavailable("The log in memory is set to be away.", "Unset `away`.")
        if name not in self._topics:
            raise TopicMissing(f"The log in memory has no topic {name}.", "Create it first.")
        return self._topics[name]

    def _readable_partition(self, topic: str, partition: int, start: int, end: int) -> _Partition:
        partition_log = self._find(topic).partitions[partition]
        if partition_log.low_watermark > start:
            raise OffsetsExpired(
                f"Retention deleted offsets {start} to {min(partition_log.low_watermark, end) - 1} of partition "
                f"{partition} of topic {topic}, which are still needed.",
                "Go on without them by `tidemill skip`.",
            )
        if partition_log.last_stable_offset < end:
            raise LogTruncated(
                f"Partition {partition} of topic {topic} ends at offset {partition_log.last_stable_offset}, before "
                f"{end}, where a planned range ends.",
                "Restore the log, or leave the window out by `tidemill skip` and go on with the "
                "topic as it is by `tidemill adopt`.",
            )
        return partition_log


class MemoryLedger:
    """A `LedgerTopic` that lives as long as its object.

    `lose_acknowledgement` makes the next append stand and yet fail, `away` makes every call fail.
    """

    def __init__(self) -> None:
        self.unavailable = False
        self.lose_acknowledgement = False
        self._identity = ("memory", uuid.uuid4().hex)
        self._attached_topic_id: str | None = None
        self._values: list[bytes] = []

    def identity(self) -> tuple[str, str]:
        self._check_attached()
        return self._identity

    def read(self) -> list[LedgerRecord]:
        self._check_attached()
        return [LedgerRecord(offset, value) for offset, value in enumerate(self._values)]

    def append(self, model: str, value: bytes) -> int:
        self._check_attached()
        self._values.append(value)
        if self.lose_acknowledgement:
            self.lose_acknowledgement = False
            raise LogUnavailable(
                f"The acknowledgement of an entry of model {model} is lost.", "Run it again."
            )
        return len(self._values) - 1

    def recreate(self) -> None:
        """Replace the topic by an empty one of the same name."""
        self._identity = (self._identity[0], uuid.uuid4().hex)
        self._values = []

    def reattach(self) -> None:
        """Take the topic as it is now, as a new process does."""
        self._attached_topic_id = None

    def snapshot(self) -> tuple[tuple[str, str], list[LedgerRecord]]:
        """Identity and records of the topic as it is now, whoever knew another."""
        self._check_available()
        return self._identity, [
            LedgerRecord(offset, value) for offset, value in enumerate(self._values)
        ]

    def _check_available(self) -> None:
        if self.unavailable:
            raise LogUnavailable("The ledger in memory is set to be away.", "Unset `away`.")

    def _check_attached(self) -> None:
        self._check_available()
        self._attached_topic_id = self._attached_topic_id or self._identity[1]
        if self._attached_topic_id != self._identity[1]:
            raise LedgerLost(
                "The ledger in memory was recreated.",
                "Bring the entries back by `tidemill ledger restore`.",
            )


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
