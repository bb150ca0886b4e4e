"""The position of a topic in its stream, determined only from the topic's last records."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import polars as pl
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from tidemill.adapters.kafka import Cluster, create_topic
from tidemill.adapters.kafka.client import translate_error
from tidemill.core import canonical
from tidemill.core.errors import OffsetsExpired, OperationNotAllowed
from tidemill.polling import retry

SEQ_HEADER, ORIGIN_HEADER = "seq", "origin"
"""The headers of every record: the event's `seq` as digits, and a `StreamOrigin` as JSON."""
_CONSUMER_CONFIG = {
    "group.id": "tidemill-simulation",  # required by librdkafka; nothing is committed to it
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "isolation.level": "read_uncommitted",  # a producer continues after all records
    "fetch.wait.max.ms": 20,
}
_NO_LEADER_CODES = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}
_POLL_INTERVAL_SECONDS = 0.05
_OTHER_TOPIC_REMEDY = "Name another topic with --topic; nothing was produced."
T = TypeVar("T")


@dataclass(frozen=True)
class StreamOrigin:
    """The start of a topic: the `seq` of its first event and, for a live simulation, its clock.

    An event of time t has the timestamp t or, if live,
    `topic_start_ms + (t - stream_start_ms) / speed`, all in ms.
    """

    first_seq: int
    stream_start_ms: int = 0
    topic_start_ms: int = 0
    speed: float = 0.0

    def to_topic_time(self, timestamp_ms: int) -> int:
        """The stream's time (ms) as the topic's time (ms)."""
        if self.speed == 0:
            return timestamp_ms
        return self.topic_start_ms + int((timestamp_ms - self.stream_start_ms) // self.speed)


@dataclass(frozen=True)
class TopicPosition:
    """The end offset of each Kafka partition, and the `seq` of its last event.

    While the topic is empty, `origin` and every `last_seq` are None.
    """

    end_offsets: Mapping[int, int]
    last_seq: Mapping[int, int | None]
    origin: StreamOrigin | None


def read_topic_position(cluster: Cluster, topic: str, events: pl.DataFrame) -> TopicPosition:
    """The position of the topic, which is created if missing.

    Raises `OperationNotAllowed` if it contains anything but these events, `OffsetsExpired` if its
    last records are deleted, `LogUnavailable`.
    """
    partitions = range(int(events.select(pl.max("partition")).item()) + 1)
    create_topic(cluster, topic, len(partitions))
    with _open_consumer(cluster, topic) as consumer:
        _check_partitions(consumer, cluster, topic, len(partitions))
        watermarks = {
            p: _watermarks(consumer, cluster, TopicPartition(topic, p)) for p in partitions
        }
        for partition, (low, high) in watermarks.items():
            if low == high > 0:
                raise OffsetsExpired(
                    f"All {high} records of partition {partition} of the topic {topic} are "
                    "deleted, so its last event is unknown.",
                    _OTHER_TOPIC_REMEDY,
                )
        records = _read_records(
            consumer, cluster, topic, {p: high - 1 for p, (_, high) in watermarks.items() if high}
        )
    last_events = {
        p: _verify_last_record(topic, events, p, record) for p, record in records.items()
    }
    origins = {origin for _, origin in last_events.values()}
    if len(origins) > 1:
        raise _foreign_records(topic, "its partitions have different origins")
    last_seq = {p: last_events[p][0] if p in last_events else None for p in partitions}
    return TopicPosition(
        {p: watermarks[p][1] for p in partitions}, last_seq, origins.pop() if origins else None
    )


def assert_single_producer(
    cluster: Cluster, topic: str, position: TopicPosition, sent: pl.DataFrame
) -> None:
    """Detect a producer on another machine, which a local lock does not exclude.

    `position` is from before these events were sent. Raises `OperationNotAllowed`,
    `LogUnavailable`.
    """
    counts = dict(sent.group_by("partition").len().iter_rows())
    with _open_consumer(cluster, topic) as consumer:
        for partition, end_offset in position.end_offsets.items():
            _, offset = _watermarks(consumer, cluster, TopicPartition(topic, partition))
            expected = end_offset + counts.get(partition, 0)
            if offset != expected:
                raise OperationNotAllowed(
                    f"Partition {partition} of the topic {topic} ends at {offset}, not at "
                    f"{expected}: another producer wrote to it at the same time.",
                    "Check it for events with the same `id`, and start over in another topic.",
                )


@contextmanager
def _open_consumer(cluster: Cluster, topic: str) -> Iterator[Consumer]:
    consumer = Consumer(cluster.client_config(_CONSUMER_CONFIG))
    try:
        yield consumer
    except KafkaException as error:
        raise translate_error(error, cluster, f"reading the ends of topic {topic}") from error
    finally:
        consumer.close()


def _check_partitions(consumer: Consumer, cluster: Cluster, topic: str, expected: int) -> None:
    """Wait until a new topic is visible; reject one with another number of partitions."""

    def check() -> None:
        metadata = consumer.list_topics(topic, timeout=cluster.timeout).topics[topic]
        if metadata.error is not None or not metadata.partitions:
            raise KafkaException(metadata.error or KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        if len(metadata.partitions) != expected:
            raise OperationNotAllowed(
                f"The topic {topic} has {len(metadata.partitions)} partitions, but its stream has "
                f"{expected}.",
                _OTHER_TOPIC_REMEDY,
            )

    _retry_without_leader(check, cluster)


def _watermarks(consumer: Consumer, cluster: Cluster, partition: TopicPartition) -> tuple[int, int]:
    """First and end offset, including open transactions; retried while there is no leader."""
    low, high = _retry_without_leader(
        lambda: consumer.get_watermark_offsets(partition, timeout=cluster.timeout, cached=False),
        cluster,
    )
    return int(low), int(high)


def _retry_without_leader(function: Callable[[], T], cluster: Cluster) -> T:
    """The result of the function, which is called again while a partition has no leader."""

    def can_retry(error: Exception) -> bool:
        return isinstance(error, KafkaException) and error.args[0].code() in _NO_LEADER_CODES

    return retry(function, can_retry, cluster.timeout)


def _read_records(
    consumer: Consumer, cluster: Cluster, topic: str, offsets: Mapping[int, int]
) -> dict[int, Message | None]:
    """The record at this offset, by partition; None if the offset is a transaction's marker."""
    records: dict[int, Message | None] = {}
    deadline = time.monotonic() + cluster.timeout
    consumer.assign([TopicPartition(topic, *item) for item in offsets.items()])
    while records.keys() != offsets.keys():
        message = consumer.poll(_POLL_INTERVAL_SECONDS)
        error = None if message is None else message.error()
        if message is not None and error is None:
            records[message.partition()] = message
        elif error is not None and error.code() == KafkaError._PARTITION_EOF:
            records.setdefault(message.partition(), None)
        elif time.monotonic() > deadline:
            raise KafkaException(error or KafkaError(KafkaError._TIMED_OUT))
    return records


def _verify_last_record(
    topic: str, events: pl.DataFrame, partition: int, record: Message | None
) -> tuple[int, StreamOrigin]:
    """The `seq` and origin of a record, which must equal the stream's event byte for byte."""
    headers = dict((record.headers() or []) if record is not None else [])
    try:
        seq = int(headers[SEQ_HEADER])
        origin = canonical.decode(headers[ORIGIN_HEADER], StreamOrigin)
    except (KeyError, TypeError, ValueError):  # msgspec's errors are ValueErrors
        reason = f"the last of partition {partition} has no valid headers"
        raise _foreign_records(topic, reason) from None
    if record is None or not 0 <= seq < events.height:
        reason = f"partition {partition} ends with event {seq}, which is not in the stream"
        raise _foreign_records(topic, reason)
    event = events.row(seq, named=True)
    expected = (
        event["partition"],
        origin.to_topic_time(event["timestamp"]),
        event["value"].encode(),
    )
    if expected != (partition, record.timestamp()[1], record.value()):
        raise _foreign_records(topic, f"the last of partition {partition} differs from event {seq}")
    return seq, origin


def _foreign_records(topic: str, reason: str) -> OperationNotAllowed:
    return OperationNotAllowed(
        f"The topic {topic} contains records that are not from this stream: {reason}.",
        _OTHER_TOPIC_REMEDY,
    )
