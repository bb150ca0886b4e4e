"""Where a topic stands in its stream: read from its own last records, and from nothing else."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import polars as pl
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from tidemill.adapters.kafka import Cluster, create_topic
from tidemill.adapters.kafka.client import translate_error
from tidemill.core import canonical
from tidemill.core.errors import OffsetsExpired, OperationNotAllowed

SEQ_HEADER, ORIGIN_HEADER = "seq", "begun"
"""The headers of every record: the event's `seq` as digits, and `Begun` as JSON."""
_CONSUMER_CONFIG = {
    "group.id": "tidemill-stream",  # librdkafka wants one; nothing is committed to it
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "isolation.level": "read_uncommitted",  # a producer goes on after all that is there
    "fetch.wait.max.ms": 20,
}
_NO_LEADER_CODES = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}
_POLL_INTERVAL_SECONDS = 0.05
_OTHER_TOPIC_REMEDY = "Name another topic with --topic; nothing was produced."


@dataclass(frozen=True)
class StreamOrigin:
    """How a topic was begun: the `seq` of its first event and, for a live replay, its clock.

    An event of time t has the timestamp t or, live, `started + (t - origin) / speed`, all in ms.
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
    """Where each Kafka partition stands: its end offset, and the `seq` of its last event.

    `begun` is None, and so is every `last`, while the topic is empty.
    """

    end_offsets: Mapping[int, int]
    last_seq: Mapping[int, int | None]
    origin: StreamOrigin | None


def read_topic_position(cluster: Cluster, topic: str, events: pl.DataFrame) -> TopicPosition:
    """Where the topic stands; it is created if there is none. Raises `Refused` where it holds
    anything but these events, `OffsetsExpired` where its last records are deleted,
    `LogUnavailable`."""
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
                    "deleted, so nothing tells which event was the last.",
                    _OTHER_TOPIC_REMEDY,
                )
        records = _read_records(
            consumer, cluster, topic, {p: high - 1 for p, (_, high) in watermarks.items() if high}
        )
    last_events = {
        p: _verify_last_record(topic, events, p, record) for p, record in records.items()
    }
    origins = {origins for _, origins in last_events.values()}
    if len(origins) > 1:
        raise _foreign_records(topic, "its partitions were begun differently")
    last_seq = {p: last_events[p][0] if p in last_events else None for p in partitions}
    return TopicPosition(
        {p: watermarks[p][1] for p in partitions}, last_seq, origins.pop() if origins else None
    )


def assert_single_producer(
    cluster: Cluster, topic: str, position: TopicPosition, sent: pl.DataFrame
) -> None:
    """Detect a producer elsewhere, which a lock on this machine does not stop.

    `ends` is from before these events were sent. Raises `Refused`, `LogUnavailable`.
    """
    counts = dict(sent.group_by("partition").len().iter_rows())
    with _open_consumer(cluster, topic) as consumer:
        for partition, end_offset in position.end_offsets.items():
            _, offset = _watermarks(consumer, cluster, TopicPartition(topic, partition))
            expected = end_offset + counts.get(partition, 0)
            if offset != expected:
                raise OperationNotAllowed(
                    f"Partition {partition} of the topic {topic} ends at {offset}, not at "
                    f"{expected}: somebody else produced to it at the same time.",
                    "Look for events with one `id` twice, and begin anew in another topic.",
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
    """Wait until a new topic is known; one of another number of partitions is no stream's."""
    deadline = time.monotonic() + cluster.timeout
    while True:
        metadata = consumer.list_topics(topic, timeout=cluster.timeout).topics[topic]
        if metadata.error is None and len(metadata.partitions) == expected:
            return
        if metadata.error is None and metadata.partitions:
            raise OperationNotAllowed(
                f"The topic {topic} has {len(metadata.partitions)} partitions, its stream {expected}.",
                _OTHER_TOPIC_REMEDY,
            )
        if time.monotonic() > deadline:
            raise KafkaException(metadata.error)
        time.sleep(_POLL_INTERVAL_SECONDS)


def _watermarks(consumer: Consumer, cluster: Cluster, partition: TopicPartition) -> tuple[int, int]:
    """First and end offset, transactions or not; asked again while the leader is being found."""
    deadline = time.monotonic() + cluster.timeout
    while True:
        try:
            low, high = consumer.get_watermark_offsets(
                partition, timeout=cluster.timeout, cached=False
            )
        except KafkaException as error:
            if error.args[0].code() not in _NO_LEADER_CODES or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_INTERVAL_SECONDS)
        else:
            return int(low), int(high)


def _read_records(
    consumer: Consumer, cluster: Cluster, topic: str, offsets: Mapping[int, int]
) -> dict[int, Message | None]:
    """The record at this offset of each partition; None where a transaction's marker lies there."""
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
    """The `seq` and the beginning that a record tells, if it is the stream's own, byte for byte."""
    headers = dict((record.headers() or []) if record is not None else [])
    try:
        seq, origin = (
            int(headers[SEQ_HEADER]),
            canonical.decode(headers[ORIGIN_HEADER], StreamOrigin),
        )
    except (KeyError, TypeError, ValueError):  # msgspec's errors are ValueErrors
        raise _foreign_records(
            topic, f"the last of partition {partition} tells no place in it"
        ) from None
    if record is None or not 0 <= seq < events.height:
        raise _foreign_records(
            topic, f"partition {partition} ends with an event {seq} it does not have"
        )
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
        f"The topic {topic} holds records that are not this stream's: {reason}.",
        _OTHER_TOPIC_REMEDY,
    )
