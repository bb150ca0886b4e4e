"""Where a topic stands in its stream: read from its own last records, and from nothing else."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import polars as pl
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from tidemill.adapters.kafka import Cluster, create_topic
from tidemill.adapters.kafka.client import named
from tidemill.core import canonical
from tidemill.core.errors import OffsetsExpired, OperationNotAllowed

SEQ, BEGUN = "seq", "begun"
"""The headers of every record: the event's `seq` as digits, and `Begun` as JSON."""
_READER = {
    "group.id": "tidemill-stream",  # librdkafka wants one; nothing is committed to it
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "isolation.level": "read_uncommitted",  # a producer goes on after all that is there
    "fetch.wait.max.ms": 20,
}
_LEADERLESS = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}
_PAUSE = 0.05
_OTHER_TOPIC = "Name another topic with --topic; nothing was produced."


@dataclass(frozen=True)
class Begun:
    """How a topic was begun: the `seq` of its first event and, for a live replay, its clock.

    An event of time t has the timestamp t or, live, `started + (t - origin) / speed`, all in ms.
    """

    first: int
    origin: int = 0
    started: int = 0
    speed: float = 0.0

    def at(self, moment: int) -> int:
        """The stream's time (ms) as the topic's time (ms)."""
        if self.speed == 0:
            return moment
        return self.started + int((moment - self.origin) // self.speed)


@dataclass(frozen=True)
class Ends:
    """Where each Kafka partition stands: its end offset, and the `seq` of its last event.

    `begun` is None, and so is every `last`, while the topic is empty.
    """

    offsets: Mapping[int, int]
    last: Mapping[int, int | None]
    begun: Begun | None


def read_ends(at: Cluster, topic: str, events: pl.DataFrame) -> Ends:
    """Where the topic stands; it is created if there is none. Raises `Refused` where it holds
    anything but these events, `OffsetsExpired` where its last records are deleted,
    `LogUnavailable`."""
    wanted = range(int(events.select(pl.max("partition")).item()) + 1)
    create_topic(at, topic, len(wanted))
    with _reader(at, topic) as consumer:
        _check_partitions(consumer, at, topic, len(wanted))
        extents = {p: _extent(consumer, at, TopicPartition(topic, p)) for p in wanted}
        for partition, (low, high) in extents.items():
            if low == high > 0:
                raise OffsetsExpired(
                    f"All {high} records of partition {partition} of the topic {topic} are "
                    "deleted, so nothing tells which event was the last.",
                    _OTHER_TOPIC,
                )
        records = _records(
            consumer, at, topic, {p: high - 1 for p, (_, high) in extents.items() if high}
        )
    known = {p: _recognise(topic, events, p, record) for p, record in records.items()}
    begun = {begun for _, begun in known.values()}
    if len(begun) > 1:
        raise _foreign(topic, "its partitions were begun differently")
    last = {p: known[p][0] if p in known else None for p in wanted}
    return Ends({p: extents[p][1] for p in wanted}, last, begun.pop() if begun else None)


def check_alone(at: Cluster, topic: str, ends: Ends, sent: pl.DataFrame) -> None:
    """Detect a producer elsewhere, which a lock on this machine does not stop.

    `ends` is from before these events were sent. Raises `Refused`, `LogUnavailable`.
    """
    counts = dict(sent.group_by("partition").len().iter_rows())
    with _reader(at, topic) as consumer:
        for partition, before in ends.offsets.items():
            _, offset = _extent(consumer, at, TopicPartition(topic, partition))
            expected = before + counts.get(partition, 0)
            if offset != expected:
                raise OperationNotAllowed(
                    f"Partition {partition} of the topic {topic} ends at {offset}, not at "
                    f"{expected}: somebody else produced to it at the same time.",
                    "Look for events with one `id` twice, and begin anew in another topic.",
                )


@contextmanager
def _reader(at: Cluster, topic: str) -> Iterator[Consumer]:
    consumer = Consumer(at.connection(_READER))
    try:
        yield consumer
    except KafkaException as error:
        raise named(error, at, f"reading the ends of topic {topic}") from error
    finally:
        consumer.close()


def _check_partitions(consumer: Consumer, at: Cluster, topic: str, wanted: int) -> None:
    """Wait until a new topic is known; one of another number of partitions is no stream's."""
    until = time.monotonic() + at.timeout
    while True:
        there = consumer.list_topics(topic, timeout=at.timeout).topics[topic]
        if there.error is None and len(there.partitions) == wanted:
            return
        if there.error is None and there.partitions:
            raise OperationNotAllowed(
                f"The topic {topic} has {len(there.partitions)} partitions, its stream {wanted}.",
                _OTHER_TOPIC,
            )
        if time.monotonic() > until:
            raise KafkaException(there.error)
        time.sleep(_PAUSE)


def _extent(consumer: Consumer, at: Cluster, place: TopicPartition) -> tuple[int, int]:
    """First and end offset, transactions or not; asked again while the leader is being found."""
    until = time.monotonic() + at.timeout
    while True:
        try:
            low, high = consumer.get_watermark_offsets(place, timeout=at.timeout, cached=False)
        except KafkaException as error:
            if error.args[0].code() not in _LEADERLESS or time.monotonic() > until:
                raise
            time.sleep(_PAUSE)
        else:
            return int(low), int(high)


def _records(
    consumer: Consumer, at: Cluster, topic: str, offsets: Mapping[int, int]
) -> dict[int, Message | None]:
    """The record at this offset of each partition; None where a transaction's marker lies there."""
    found: dict[int, Message | None] = {}
    until = time.monotonic() + at.timeout
    consumer.assign([TopicPartition(topic, *place) for place in offsets.items()])
    while found.keys() != offsets.keys():
        message = consumer.poll(_PAUSE)
        error = None if message is None else message.error()
        if message is not None and error is None:
            found[message.partition()] = message
        elif error is not None and error.code() == KafkaError._PARTITION_EOF:
            found.setdefault(message.partition(), None)
        elif time.monotonic() > until:
            raise KafkaException(error or KafkaError(KafkaError._TIMED_OUT))
    return found


def _recognise(
    topic: str, events: pl.DataFrame, partition: int, record: Message | None
) -> tuple[int, Begun]:
    """The `seq` and the beginning that a record tells, if it is the stream's own, byte for byte."""
    headers = dict((record.headers() or []) if record is not None else [])
    try:
        seq, begun = int(headers[SEQ]), canonical.decode(headers[BEGUN], Begun)
    except (KeyError, TypeError, ValueError):  # msgspec's errors are ValueErrors
        raise _foreign(topic, f"the last of partition {partition} tells no place in it") from None
    if record is None or not 0 <= seq < events.height:
        raise _foreign(topic, f"partition {partition} ends with an event {seq} it does not have")
    event = events.row(seq, named=True)
    ours = (event["partition"], begun.at(event["timestamp"]), event["value"].encode())
    if ours != (partition, record.timestamp()[1], record.value()):
        raise _foreign(topic, f"the last of partition {partition} differs from event {seq}")
    return seq, begun


def _foreign(topic: str, why: str) -> OperationNotAllowed:
    return OperationNotAllowed(
        f"The topic {topic} holds records that are not this stream's: {why}.", _OTHER_TOPIC
    )
