"""Reads ranges of offsets to their end, with consumers that are reused between calls."""

import time
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from tidemill.adapters.kafka.client import STRICT_CONSUMER_CONFIG, Cluster, translate_error
from tidemill.core.errors import LogTruncated, LogUnavailable, OffsetsExpired
from tidemill.core.event_log import OffsetRange, RecordBatch

MAX_BATCH_RECORDS = 2_000
"""Maximum records per batch, so that what is decoded from it fits into a core's cache."""
SMALL_READ_OFFSETS = 2_000
"""Reads of up to so many offsets use a client that prefetches little."""

READER_CONFIG = {
    **STRICT_CONSUMER_CONFIG,
    "group.id": "tidemill",  # required by librdkafka; never committed to or read from
    "topic.metadata.refresh.fast.interval.ms": 50,
}
_LOW_LATENCY_FETCH = {
    "fetch.wait.max.ms": 5,
    "fetch.queue.backoff.ms": 5,
    "queued.min.messages": 1_000,
}
BULK_FETCH = {
    "fetch.wait.max.ms": 20,
    "fetch.queue.backoff.ms": 20,
    "queued.min.messages": 50_000,
    "queued.max.messages.kbytes": 65_536,
}
_CHECK_RANGES_ON = {
    KafkaError._AUTO_OFFSET_RESET,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}
_STALL_SECONDS = 0.5  # without progress, after which the brokers are queried for the cause

Ranges = Mapping[int, tuple[int, int]]


class Reader:
    """Reads ranges of any topic of one cluster; several may be read concurrently."""

    def __init__(
        self, cluster: Cluster, offset_ranges: Callable[[str], Mapping[int, OffsetRange]]
    ) -> None:
        self._cluster = cluster
        self._offset_ranges = offset_ranges
        self._idle_consumers: dict[bool, list[Consumer]] = {True: [], False: []}

    def close(self) -> None:
        """Close all connections."""
        for consumers in self._idle_consumers.values():
            while consumers:
                consumers.pop().close()

    def read(
        self, topic: str, ranges: Ranges, expected_records: int | None
    ) -> Generator[RecordBatch, None, None]:
        """Every committed data record of the ranges; the contract is `EventLog.read`'s."""
        remaining = {p: (start, end) for p, (start, end) in ranges.items() if start < end}
        if not remaining:
            return
        total = sum(end - start for start, end in remaining.values())
        pool = self._idle_consumers[min(expected_records or total, total) <= SMALL_READ_OFFSETS]
        try:
            consumer = pool.pop()
        except IndexError:  # no check before it: another thread may take the last one
            consumer = self._consumer(pool is self._idle_consumers[True])
        try:
            consumer.assign(
                [TopicPartition(topic, p, start) for p, (start, _) in remaining.items()]
            )
            max_records = expected_records or MAX_BATCH_RECORDS
            yield from self._drain(consumer, topic, remaining, max_records)
        except KafkaException as error:
            raise translate_error(error, self._cluster, f"reading topic {topic}") from error
        finally:
            consumer.unassign()
            pool.append(consumer)

    def _consumer(self, small: bool) -> Consumer:
        fetch_config: Mapping[str, Any] = _LOW_LATENCY_FETCH if small else BULK_FETCH
        return Consumer(self._cluster.client_config({**READER_CONFIG, **fetch_config}))

    def _drain(
        self,
        consumer: Consumer,
        topic: str,
        remaining: dict[int, tuple[int, int]],
        max_records: int,
    ) -> Generator[RecordBatch, None, None]:
        last_progress = time.monotonic()
        while remaining:
            previous = set(remaining)
            messages = consumer.consume(*_batch_size(remaining, max_records))
            max_records = min(max_records * 2, MAX_BATCH_RECORDS)
            errors = list(map(Message.error, messages))
            error_messages = [
                m for m, error in zip(messages, errors, strict=True) if error is not None
            ]
            records = [m for m, error in zip(messages, errors, strict=True) if error is None]
            del messages
            for partition, group in _by_partition(records):
                if partition in remaining:
                    batch = _record_batch(partition, group, remaining)
                    if batch.offsets:
                        yield batch
            suspicious = self._handle_errors(error_messages, remaining)
            _apply_positions(consumer, topic, remaining)
            if remaining and (finished := previous - remaining.keys()):
                # Discards what was fetched beyond the ends of these partitions.
                consumer.incremental_unassign([TopicPartition(topic, p) for p in finished])
            if records:
                last_progress = time.monotonic()
            elif remaining and (suspicious or time.monotonic() - last_progress > _STALL_SECONDS):
                self._check_offset_ranges(topic, remaining, time.monotonic() - last_progress)

    def _handle_errors(
        self, error_messages: Sequence[Message], remaining: dict[int, tuple[int, int]]
    ) -> bool:
        """Apply the partitions' ends; return whether one ended before its range."""
        suspicious = False
        for message in error_messages:
            error, partition = message.error(), message.partition()
            if partition not in remaining:
                continue
            if error.code() == KafkaError._PARTITION_EOF:
                _advance_to(remaining, partition, message.offset())
                suspicious |= partition in remaining
            elif error.code() in _CHECK_RANGES_ON:
                suspicious = True
            else:
                raise KafkaException(error)
        return suspicious

    def _check_offset_ranges(self, topic: str, remaining: Ranges, stalled_seconds: float) -> None:
        """Raise the cause of a stall, or return if records may still arrive."""
        offset_ranges = self._offset_ranges(topic)
        for partition, (start, end) in remaining.items():
            available = offset_ranges.get(partition, OffsetRange(0, 0))
            if available.low_watermark > start:
                raise OffsetsExpired(
                    f"Retention deleted offsets {start} to {min(available.low_watermark, end) - 1} "
                    f"of partition {partition} of topic {topic}, which are still needed.",
                    "Raise the topic's `retention.ms`; continue without them with `tidemill skip`.",
                )
            if available.last_stable_offset < end and stalled_seconds > _STALL_SECONDS:
                raise LogTruncated(
                    f"Partition {partition} of topic {topic} ends at offset "
                    f"{available.last_stable_offset}, before {end}, the end of a planned range.",
                    "Committed windows are kept. Restore the log, or leave the window out with "
                    "`tidemill skip` and continue with the topic as it is with `tidemill adopt`.",
                )
        if stalled_seconds > self._cluster.timeout:
            raise LogUnavailable(
                f"Kafka at {self._cluster.servers} returned no record of topic {topic} for "
                f"{stalled_seconds:.0f} s, although it has them.",
                "Check the brokers' logs, then run it again.",
            )


def _batch_size(remaining: Ranges, max_records: int) -> tuple[int, float]:
    """How many records to consume at once, and how many seconds to wait for them.

    At most what the shortest range has left, because records beyond its end would be consumed too;
    but at least a quarter of all that remain.
    """
    lengths = [end - start for start, end in remaining.values()]
    size = max(min(lengths), sum(lengths) // 4, 1)
    timeout = 0.02 if sum(lengths) <= SMALL_READ_OFFSETS else 0.2
    return min(size, max_records, MAX_BATCH_RECORDS), timeout


def _by_partition(records: list[Message]) -> Iterator[tuple[int, list[Message]]]:
    """Groups of consecutive records of one Kafka partition."""
    start = 0
    for partition, run in groupby(map(Message.partition, records)):
        end = start + sum(1 for _ in run)
        yield partition, records[start:end]
        start = end


def _record_batch(
    partition: int, group: list[Message], remaining: dict[int, tuple[int, int]]
) -> RecordBatch:
    """The records of the group that are in the partition's range, which shrinks by them."""
    offsets = list(map(Message.offset, group))
    _, end = remaining[partition]
    if offsets[-1] >= end:
        cut = bisect_left(offsets, end)
        del offsets[cut:], group[cut:]
        _advance_to(remaining, partition, end)
    else:
        _advance_to(remaining, partition, offsets[-1] + 1)
    timestamps = list(map(Message.timestamp, group))
    return RecordBatch(
        partition,
        offsets,
        [stamp if kind and stamp >= 0 else None for kind, stamp in timestamps],
        list(map(Message.value, group)),
        sum([kind == TIMESTAMP_LOG_APPEND_TIME for kind, _ in timestamps]),
    )


def _apply_positions(consumer: Consumer, topic: str, remaining: dict[int, tuple[int, int]]) -> None:
    """Apply the positions, which also advance over markers and aborted records."""
    for position in consumer.position([TopicPartition(topic, p) for p in remaining]):
        _advance_to(remaining, position.partition, position.offset)


def _advance_to(remaining: dict[int, tuple[int, int]], partition: int, offset: int) -> None:
    start, end = remaining[partition]
    if offset >= end:
        del remaining[partition]
    elif offset > start:
        remaining[partition] = offset, end
