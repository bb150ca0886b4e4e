"""Reads ranges of offsets to their very end, with consumers kept warm between calls."""

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
"""Records of a chunk, at most: what is made of so many still fits into a core's cache."""
SMALL_READ_OFFSETS = 2_000
"""Up to so many offsets are fetched by a client that fetches little beyond what is asked for."""

READER_CONFIG = {
    **STRICT_CONSUMER_CONFIG,
    "group.id": "tidemill",  # librdkafka wants one; nothing is committed to it or read from it
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
_CHECK_EXTENTS_ON = {
    KafkaError._AUTO_OFFSET_RESET,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}
_STALL_SECONDS = (
    0.5  # seconds without progress after which the brokers are asked what is the matter
)

Ranges = Mapping[int, tuple[int, int]]


class Reader:
    """Reads ranges of any topic of one cluster; several may be read at once."""

    def __init__(
        self, cluster: Cluster, extents: Callable[[str], Mapping[int, OffsetRange]]
    ) -> None:
        self._cluster = cluster
        self._extents = extents
        self._idle_consumers: dict[bool, list[Consumer]] = {True: [], False: []}

    def close(self) -> None:
        """Let go of all connections."""
        for consumers in self._idle_consumers.values():
            while consumers:
                consumers.pop().close()

    def read(
        self, topic: str, ranges: Ranges, first: int | None
    ) -> Generator[RecordBatch, None, None]:
        """Every committed data record of the ranges, as `EventLog.read` says."""
        remaining = {p: (start, end) for p, (start, end) in ranges.items() if start < end}
        if not remaining:
            return
        total = sum(end - start for start, end in remaining.values())
        pool = self._idle_consumers[min(first or total, total) <= SMALL_READ_OFFSETS]
        try:
            consumer = pool.pop()
        except IndexError:  # not asked for before: another thread may take the last one
            consumer = self._consumer(pool is self._idle_consumers[True])
        try:
            consumer.assign(
                [TopicPartition(topic, p, start) for p, (start, _) in remaining.items()]
            )
            yield from self._drain(consumer, topic, remaining, first or MAX_BATCH_RECORDS)
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
                # So that what was fetched beyond their ends is thrown away unseen.
                consumer.incremental_unassign([TopicPartition(topic, p) for p in finished])
            if records:
                last_progress = time.monotonic()
            elif remaining and (suspicious or time.monotonic() - last_progress > _STALL_SECONDS):
                self._check_extents(topic, remaining, time.monotonic() - last_progress)

    def _handle_errors(
        self, error_messages: Sequence[Message], remaining: dict[int, tuple[int, int]]
    ) -> bool:
        """Take in the partitions' ends; whether one ended before its range does."""
        suspicious = False
        for message in error_messages:
            error, partition = message.error(), message.partition()
            if partition not in remaining:
                continue
            if error.code() == KafkaError._PARTITION_EOF:
                _advance_to(remaining, partition, message.offset())
                suspicious |= partition in remaining
            elif error.code() in _CHECK_EXTENTS_ON:
                suspicious = True
            else:
                raise KafkaException(error)
        return suspicious

    def _check_extents(self, topic: str, remaining: Ranges, stalled_seconds: float) -> None:
        """Why nothing comes: raise what the brokers say, or return if it may still come."""
        extents = self._extents(topic)
        for partition, (start, end) in remaining.items():
            extent = extents.get(partition, OffsetRange(0, 0))
            if extent.low_watermark > start:
                raise OffsetsExpired(
                    f"Retention deleted offsets {start} to {min(extent.low_watermark, end) - 1} of "
                    f"partition {partition} of topic {topic}, which are still needed.",
                    "Raise the topic's `retention.ms`; go on without them by `tidemill skip`.",
                )
            if extent.last_stable_offset < end and stalled_seconds > _STALL_SECONDS:
                raise LogTruncated(
                    f"Partition {partition} of topic {topic} ends at offset {extent.last_stable_offset}, "
                    f"before {end}, where a planned range ends.",
                    "Committed windows stand. Restore the log, or leave the window out by "
                    "`tidemill skip` and go on with the topic as it is by `tidemill adopt`.",
                )
        if stalled_seconds > self._cluster.timeout:
            raise LogUnavailable(
                f"Kafka at {self._cluster.servers} gave no record of topic {topic} for "
                f"{stalled_seconds:.0f} s, though it has them.",
                "Look at the brokers' logs; then run it again.",
            )


def _batch_size(remaining: Ranges, max_records: int) -> tuple[int, float]:
    """How many records to take at once, and for how many seconds to wait for so many.

    Not more than the shortest range has left, or the records beyond its end are taken, too; but
    not few of many.
    """
    lengths = [end - start for start, end in remaining.values()]
    size = max(min(lengths), sum(lengths) // 4, 1)
    return min(size, max_records, MAX_BATCH_RECORDS), 0.02 if sum(
        lengths
    ) <= SMALL_READ_OFFSETS else 0.2


def _by_partition(records: list[Message]) -> Iterator[tuple[int, list[Message]]]:
    """The runs of consecutive records of one Kafka partition."""
    start = 0
    for partition, run in groupby(map(Message.partition, records)):
        end = start + sum(1 for _ in run)
        yield partition, records[start:end]
        start = end


def _record_batch(
    partition: int, group: list[Message], remaining: dict[int, tuple[int, int]]
) -> RecordBatch:
    """The part of consecutive records that lies in the range, which shrinks by it."""
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
    """Take in the positions, which also move over markers and aborted records."""
    for position in consumer.position([TopicPartition(topic, p) for p in remaining]):
        _advance_to(remaining, position.partition, position.offset)


def _advance_to(remaining: dict[int, tuple[int, int]], partition: int, offset: int) -> None:
    start, end = remaining[partition]
    if offset >= end:
        del remaining[partition]
    elif offset > start:
        remaining[partition] = offset, end
