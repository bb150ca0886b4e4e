"""Tools that fill or alter a harness's topic: transactions, retention, more partitions."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, OffsetSpec

from support.models.harness import START, ModelHarness
from support.processes.commands import wait_until

Records = Sequence[tuple[int, bytes | None]]
"""(timestamp, value) of each record, in the order of appending."""
EndTransaction = Callable[[bool], None]
"""Ends a transaction: True commits it."""

_TIMEOUT_SECONDS = 60


def event(timestamp: int, bought: bool = True) -> tuple[int, bytes]:
    """A valid event of the harness's model at this time."""
    payload = {"country": "de", "price": 9.5, "visits": 3, "bought": bought}
    return timestamp, json.dumps(payload).encode()


def timestamp_at(minutes: float) -> int:
    """The epoch milliseconds this many minutes after the start of the first window."""
    return START + round(minutes * 60_000)


def spread_events(count: int, first: float, last: float) -> list[tuple[int, bytes]]:
    """`count` evenly spaced events, between these minutes after the start of the first window."""
    step = (last - first) / count
    return [event(timestamp_at(first + step * i), i % 3 == 0) for i in range(count)]


def begin_transaction(harness: ModelHarness, records: Mapping[int, Records]) -> EndTransaction:
    """Append the records of each partition in one transaction and leave it open."""
    settings = {
        "bootstrap.servers": harness.bootstrap_servers,
        "transactional.id": uuid.uuid4().hex,
    }
    producer = Producer(settings)
    producer.init_transactions(_TIMEOUT_SECONDS)
    producer.begin_transaction()
    for partition, batch in records.items():
        for timestamp, value in batch:
            producer.produce(harness.model, value, partition=partition, timestamp=timestamp)
    assert producer.flush(_TIMEOUT_SECONDS) == 0

    def end_transaction(commit: bool) -> None:
        before = end_offsets(harness)
        producer.commit_transaction(_TIMEOUT_SECONDS) if commit else producer.abort_transaction(
            _TIMEOUT_SECONDS
        )
        # The markers are written shortly after the transaction ends.
        wait_until(lambda: all(end_offsets(harness)[p] > before[p] for p in records))

    return end_transaction


def end_offsets(harness: ModelHarness) -> dict[int, int]:
    """The end offset of each partition, open transactions included."""
    admin = AdminClient({"bootstrap.servers": harness.bootstrap_servers})
    offset_specs = {
        TopicPartition(harness.model, p): OffsetSpec.latest() for p in range(harness.partitions)
    }
    offsets: dict[int, int] = {}

    def query_succeeds() -> bool:
        try:
            futures = admin.list_offsets(offset_specs).items()
            offsets.update(
                {
                    topic_partition.partition: future.result().offset
                    for topic_partition, future in futures
                }
            )
        except KafkaException:  # the leader has just changed
            return False
        return True

    wait_until(query_succeeds)
    return offsets


def delete_before(harness: ModelHarness, offsets: Mapping[int, int]) -> None:
    """Delete the records below an offset per partition, as retention does."""
    admin = AdminClient({"bootstrap.servers": harness.bootstrap_servers})
    topic_partitions = [TopicPartition(harness.model, p, offset) for p, offset in offsets.items()]
    for future in admin.delete_records(topic_partitions).values():
        future.result()


def add_partitions(harness: ModelHarness, total: int) -> None:
    admin = AdminClient({"bootstrap.servers": harness.bootstrap_servers})
    for future in admin.create_partitions([NewPartitions(harness.model, total)]).values():
        future.result()
    harness.partitions = total
    wait_until(
        lambda: len(admin.list_topics(harness.model).topics[harness.model].partitions) == total
    )


def recreate_topic(harness: ModelHarness) -> None:
    """Delete the topic and create an empty one with the same name."""
    harness.delete_topic()
    admin = AdminClient({"bootstrap.servers": harness.bootstrap_servers})
    wait_until(lambda: harness.model not in admin.list_topics().topics)
    harness.create_topic()
