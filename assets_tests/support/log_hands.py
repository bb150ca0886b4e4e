"""Hands that fill and harm a bench's topic: transactions, retention, more partitions."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, OffsetSpec

from bench import START, Bench
from commands import until

Records = Sequence[tuple[int, bytes | None]]
"""(timestamp, value) of each, in the order they are appended."""
End = Callable[[bool], None]
"""Ends a transaction: True commits it."""

_PATIENCE = 60


def event(timestamp: int, bought: bool = True) -> tuple[int, bytes]:
    """A valid event of the bench's model at this time."""
    told = {"country": "de", "price": 9.5, "visits": 3, "bought": bought}
    return timestamp, json.dumps(told).encode()


def at(minutes: float) -> int:
    """Milliseconds since 1970, so many minutes after the first window's start."""
    return START + round(minutes * 60_000)


def spread(count: int, first: float, last: float) -> list[tuple[int, bytes]]:
    """So many events, evenly over these minutes after the first window's start."""
    step = (last - first) / count
    return [event(at(first + step * i), i % 3 == 0) for i in range(count)]


def begin(bench: Bench, records: Mapping[int, Records]) -> End:
    """Append the records of each partition in one transaction, and leave it open."""
    settings = {"bootstrap.servers": bench.servers, "transactional.id": uuid.uuid4().hex}
    producer = Producer(settings)
    producer.init_transactions(_PATIENCE)
    producer.begin_transaction()
    for partition, put in records.items():
        for timestamp, value in put:
            producer.produce(bench.model, value, partition=partition, timestamp=timestamp)
    assert producer.flush(_PATIENCE) == 0

    def end(commit: bool) -> None:
        before = ends(bench)
        producer.commit_transaction(_PATIENCE) if commit else producer.abort_transaction(_PATIENCE)
        # The markers are written a moment after the transaction was ended.
        until(lambda: all(ends(bench)[p] > before[p] for p in records))

    return end


def ends(bench: Bench) -> dict[int, int]:
    """The end of each partition, open transactions included."""
    admin = AdminClient({"bootstrap.servers": bench.servers})
    wanted = {TopicPartition(bench.model, p): OffsetSpec.latest() for p in range(bench.partitions)}
    found: dict[int, int] = {}

    def told() -> bool:
        try:
            answers = admin.list_offsets(wanted).items()
            found.update({at.partition: answer.result().offset for at, answer in answers})
        except KafkaException:  # whoever leads has just come to
            return False
        return True

    until(told)
    return found


def expire(bench: Bench, before: Mapping[int, int]) -> None:
    """Delete the records below an offset of each partition, as retention does."""
    admin = AdminClient({"bootstrap.servers": bench.servers})
    asked = [TopicPartition(bench.model, p, offset) for p, offset in before.items()]
    for done in admin.delete_records(asked).values():
        done.result()


def add_partitions(bench: Bench, total: int) -> None:
    admin = AdminClient({"bootstrap.servers": bench.servers})
    for done in admin.create_partitions([NewPartitions(bench.model, total)]).values():
        done.result()
    bench.partitions = total
    until(lambda: len(admin.list_topics(bench.model).topics[bench.model].partitions) == total)


def recreate(bench: Bench) -> None:
    """Delete the topic and make an empty one of the same name."""
    bench.delete_topic()
    admin = AdminClient({"bootstrap.servers": bench.servers})
    until(lambda: bench.model not in admin.list_topics().topics)
    bench.create_topic()
