"""Tools that fill or alter a harness's topic: transactions, retention, more partitions."""

import json
import uuid
from collections.abc import Callable, Mapping

from confluent_kafka.admin import NewPartitions

from support.kafka import clients
from support.kafka.clients import TIMEOUT_SECONDS, Records
from support.models.harness import START, ModelHarness
from support.processes.commands import wait_until

EndTransaction = Callable[[bool], None]
"""Ends a transaction: True commits it."""


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
    producer = clients.make_producer(harness.bootstrap_servers, transactional_id=uuid.uuid4().hex)
    producer.init_transactions(TIMEOUT_SECONDS)
    producer.begin_transaction()
    for partition, batch in records.items():
        for timestamp, value in batch:
            producer.produce(harness.model, value, partition=partition, timestamp=timestamp)
    assert producer.flush(TIMEOUT_SECONDS) == 0

    def end_transaction(commit: bool) -> None:
        before = end_offsets(harness)
        end = producer.commit_transaction if commit else producer.abort_transaction
        end(TIMEOUT_SECONDS)
        # The markers are written shortly after the transaction ends.
        wait_until(lambda: all(end_offsets(harness)[p] > before[p] for p in records))

    return end_transaction


def end_offsets(harness: ModelHarness) -> dict[int, int]:
    """The end offset of each partition, open transactions included."""
    return clients.end_offsets(harness.bootstrap_servers, harness.model, harness.partitions)


def delete_before(harness: ModelHarness, offsets: Mapping[int, int]) -> None:
    """Delete the records below an offset per partition, as retention does."""
    clients.delete_records(harness.bootstrap_servers, harness.model, offsets)


def add_partitions(harness: ModelHarness, total: int) -> None:
    change = [NewPartitions(harness.model, total)]
    clients.administer(harness.bootstrap_servers, lambda admin: admin.create_partitions(change))
    admin = clients.admin_client(harness.bootstrap_servers)
    harness.partitions = total
    wait_until(
        lambda: len(admin.list_topics(harness.model).topics[harness.model].partitions) == total
    )


def recreate_topic(harness: ModelHarness) -> None:
    """Delete the topic and create an empty one with the same name."""
    harness.delete_topic()
    harness.create_topic()
