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

from tidemill.adapters.kafka.client import EXACT, Cluster, named
from tidemill.core.errors import LogTruncated, LogUnavailable, OffsetsExpired
from tidemill.core.log import RecordBatch, OffsetRange

CHUNK = 2_000
"""Records of a chunk, at most: what is made of so many still fits into a core's cache."""
SMALL = 2_000
"""Up to so many offsets are fetched by a client that fetches little beyond what is asked for."""

READER = {
    **EXACT,
    "group.id": "tidemill",  # librdkafka wants one; nothing is committed to it or read from it
    "topic.metadata.refresh.fast.interval.ms": 50,
}
_FETCHES_LITTLE = {
    "fetch.wait.max.ms": 5,
    "fetch.queue.backoff.ms": 5,
    "queued.min.messages": 1_000,
}
FETCHES_MUCH = {
    "fetch.wait.max.ms": 20,
    "fetch.queue.backoff.ms": 20,
    "queued.min.messages": 50_000,
    "queued.max.messages.kbytes": 65_536,
}
_ASK_THE_BROKERS = {
    KafkaError._AUTO_OFFSET_RESET,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}
_PATIENCE = 0.5  # seconds without progress after which the brokers are asked what is the matter

Ranges = Mapping[int, tuple[int, int]]


class Reader:
    """Reads ranges of any topic of one cluster; several may be read at once."""

    def __init__(self, at: Cluster, extents: Callable[[str], Mapping[int, OffsetRange]]) -> None:
        self._at = at
        self._extents = extents
        self._idle: dict[bool, list[Consumer]] = {True: [], False: []}

    def close(self) -> None:
        """Let go of all connections."""
        for consumers in self._idle.values():
            while consumers:
                consumers.pop().close()

    def read(self, topic: str, ranges: Ranges, first: int | None) -> Generator[RecordBatch, None, None]:
        """Every committed data record of the ranges, as `EventLog.read` says."""
        left = {p: (start, end) for p, (start, end) in ranges.items() if start < end}
        if not left:
            return
        asked = sum(end - start for start, end in left.values())
        idle = self._idle[min(first or asked, asked) <= SMALL]
        try:
            consumer = idle.pop()
        except IndexError:  # not asked for before: another thread may take the last one
            consumer = self._consumer(idle is self._idle[True])
        try:
            consumer.assign([TopicPartition(topic, p, start) for p, (start, _) in left.items()])
            yield from self._drain(consumer, topic, left, first or CHUNK)
        except KafkaException as error:
            raise named(error, self._at, f"reading topic {topic}") from error
        finally:
            consumer.unassign()
            idle.append(consumer)

    def _consumer(self, small: bool) -> Consumer:
        tuned: Mapping[str, Any] = _FETCHES_LITTLE if small else FETCHES_MUCH
        return Consumer(self._at.connection({**READER, **tuned}))

    def _drain(
        self, consumer: Consumer, topic: str, left: dict[int, tuple[int, int]], most: int
    ) -> Generator[RecordBatch, None, None]:
        seen = time.monotonic()
        while left:
            before = set(left)
            messages = consumer.consume(*_portion(left, most))
            most = min(most * 2, CHUNK)
            errors = list(map(Message.error, messages))
            ended = [m for m, error in zip(messages, errors, strict=True) if error is not None]
            records = [m for m, error in zip(messages, errors, strict=True) if error is None]
            del messages
            for partition, group in _by_partition(records):
                if partition in left:
                    chunk = _chunk(partition, group, left)
                    if chunk.offsets:
                        yield chunk
            suspicious = self._ends(ended, left)
            _advance(consumer, topic, left)
            if left and (done := before - left.keys()):
                # So that what was fetched beyond their ends is thrown away unseen.
                consumer.incremental_unassign([TopicPartition(topic, p) for p in done])
            if records:
                seen = time.monotonic()
            elif left and (suspicious or time.monotonic() - seen > _PATIENCE):
                self._check(topic, left, time.monotonic() - seen)

    def _ends(self, ended: Sequence[Message], left: dict[int, tuple[int, int]]) -> bool:
        """Take in the partitions' ends; whether one ended before its range does."""
        suspicious = False
        for message in ended:
            error, partition = message.error(), message.partition()
            if partition not in left:
                continue
            if error.code() == KafkaError._PARTITION_EOF:
                _reached(left, partition, message.offset())
                suspicious |= partition in left
            elif error.code() in _ASK_THE_BROKERS:
                suspicious = True
            else:
                raise KafkaException(error)
        return suspicious

    def _check(self, topic: str, left: Ranges, silent: float) -> None:
        """Why nothing comes: raise what the brokers say, or return if it may still come."""
        extents = self._extents(topic)
        for partition, (start, end) in left.items():
            extent = extents.get(partition, OffsetRange(0, 0))
            if extent.low_watermark > start:
                raise OffsetsExpired(
                    f"Retention deleted offsets {start} to {min(extent.low_watermark, end) - 1} of "
                    f"partition {partition} of topic {topic}, which are still needed.",
                    "Raise the topic's `retention.ms`; go on without them by `tidemill skip`.",
                )
            if extent.last_stable_offset < end and silent > _PATIENCE:
                raise LogTruncated(
                    f"Partition {partition} of topic {topic} ends at offset {extent.last_stable_offset}, "
                    f"before {end}, where a planned range ends.",
                    "Committed windows stand. Restore the log, or leave the window out by "
                    "`tidemill skip` and go on with the topic as it is by `tidemill adopt`.",
                )
        if silent > self._at.timeout:
            raise LogUnavailable(
                f"Kafka at {self._at.servers} gave no record of topic {topic} for "
                f"{silent:.0f} s, though it has them.",
                "Look at the brokers' logs; then run it again.",
            )


def _portion(left: Ranges, most: int) -> tuple[int, float]:
    """How many records to take at once, and for how many seconds to wait for so many.

    Not more than the shortest range has left, or the records beyond its end are taken, too; but
    not few of many.
    """
    lengths = [end - start for start, end in left.values()]
    portion = max(min(lengths), sum(lengths) // 4, 1)
    return min(portion, most, CHUNK), 0.02 if sum(lengths) <= SMALL else 0.2


def _by_partition(records: list[Message]) -> Iterator[tuple[int, list[Message]]]:
    """The runs of consecutive records of one Kafka partition."""
    begin = 0
    for partition, run in groupby(map(Message.partition, records)):
        end = begin + sum(1 for _ in run)
        yield partition, records[begin:end]
        begin = end


def _chunk(partition: int, group: list[Message], left: dict[int, tuple[int, int]]) -> RecordBatch:
    """The part of consecutive records that lies in the range, which shrinks by it."""
    offsets = list(map(Message.offset, group))
    _, end = left[partition]
    if offsets[-1] >= end:
        inside = bisect_left(offsets, end)
        del offsets[inside:], group[inside:]
        _reached(left, partition, end)
    else:
        _reached(left, partition, offsets[-1] + 1)
    stamps = list(map(Message.timestamp, group))
    return RecordBatch(
        partition,
        offsets,
        [stamp if kind and stamp >= 0 else None for kind, stamp in stamps],
        list(map(Message.value, group)),
        sum([kind == TIMESTAMP_LOG_APPEND_TIME for kind, _ in stamps]),
    )


def _advance(consumer: Consumer, topic: str, left: dict[int, tuple[int, int]]) -> None:
    """Take in the positions, which also move over markers and aborted records."""
    for at in consumer.position([TopicPartition(topic, p) for p in left]):
        _reached(left, at.partition, at.offset)


def _reached(left: dict[int, tuple[int, int]], partition: int, offset: int) -> None:
    start, end = left[partition]
    if offset >= end:
        del left[partition]
    elif offset > start:
        left[partition] = offset, end
