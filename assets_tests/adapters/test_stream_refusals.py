"""Topics and requests that producing a stream refuses without a change."""

import random
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from confluent_kafka.admin import ConfigResource, ResourceType

from adapters.streams import (
    PARTITIONS,
    make_stream,
    read_records,
    read_sequences,
    sequences_by_partition,
)
from support.kafka.clients import administer, delete_records, make_producer
from tidemill.adapters.kafka import Cluster, create_topic
from tidemill.core.errors import AlreadyRunning, LogUnavailable, OffsetsExpired, OperationNotAllowed
from tidemill.simulation.produce import ProduceResult, produce


@pytest.mark.parametrize(
    "record",
    [
        {"value": b'{"event":0}'},
        {"value": b"{}", "headers": [("seq", b"3"), ("origin", b'{"first_seq":0}')]},
        {"value": None, "headers": [("seq", b"3"), ("origin", b'{"first_seq":0}')]},
        {"value": b"{}", "headers": [("seq", b"99"), ("origin", b'{"first_seq":0}')]},
        {"value": b"{}", "headers": [("seq", None), ("origin", b'{"first_seq":0}')]},
        {"value": b"{}", "headers": [("seq", b"0"), ("origin", b"{")]},
    ],
)
def test_a_topic_with_other_records_is_refused_and_unchanged(
    kafka: str,
    new_topic: Callable[..., str],
    produce_events: Callable[..., ProduceResult],
    record: dict[str, Any],
) -> None:
    topic = new_topic(PARTITIONS)
    producer = make_producer(kafka)
    producer.produce(topic, partition=1, **record)
    assert producer.flush(30) == 0
    with pytest.raises(OperationNotAllowed, match="not from this stream"):
        produce_events(make_stream(10), topic)
    assert [len(messages) for messages in read_records(kafka, topic).values()] == [0, 1, 0, 0]


def test_a_changed_stream_is_refused(
    new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    topic = new_topic()
    produce_events(make_stream(10), topic)
    with pytest.raises(OperationNotAllowed, match="differs from event"):
        produce_events(make_stream(20, "changed"), topic)


def test_a_topic_that_ends_with_a_transactions_marker_is_refused(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    topic = new_topic(PARTITIONS)
    producer = make_producer(kafka, transactional_id=topic)
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"{}", partition=0)
    producer.commit_transaction(30)
    with pytest.raises(OperationNotAllowed, match="not from this stream"):
        produce_events(make_stream(10), topic)


def test_a_topic_of_another_number_of_partitions_is_refused(
    new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    with pytest.raises(OperationNotAllowed, match="has 3 partitions"):
        produce_events(make_stream(10), new_topic(3))


def test_a_topic_whose_last_records_are_deleted_is_refused(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    topic = new_topic()
    produce_events(make_stream(20), topic)
    delete_records(kafka, topic, {2: -1})
    with pytest.raises(OffsetsExpired, match="partition 2"):
        produce_events(make_stream(20), topic)


def test_a_missing_topic_is_created_with_unlimited_retention(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    topic = new_topic()
    produce_events(make_stream(10), topic)
    resource = ConfigResource(ResourceType.TOPIC, topic)
    (described,) = administer(kafka, lambda admin: admin.describe_configs([resource]))
    config = {name: entry.value for name, entry in described.items()}
    assert (config["retention.ms"], config["cleanup.policy"]) == ("-1", "delete")
    assert len(read_records(kafka, topic)) == PARTITIONS


def test_an_event_that_kafka_rejects_leaves_no_gap(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    topic, size = new_topic(), 4_000
    create_topic(Cluster(kafka, 30), topic, PARTITIONS, {"max.message.bytes": "100000"})
    noise = random.Random(0).randbytes(300_000).hex()  # more than 100 kB even with lz4
    value = pl.when(pl.col("seq") == 2_000).then(pl.lit(noise)).otherwise("value")
    events = make_stream(size).with_columns(value=value)
    refused = events.row(2_000, named=True)["partition"]
    with pytest.raises(LogUnavailable, match=topic):
        produce_events(events, topic)
    actual, expected = read_sequences(kafka, topic), sequences_by_partition(events)
    assert all(actual[p] == expected[p][: len(actual[p])] for p in expected)
    assert max(actual[refused], default=-1) < 2_000


def test_a_second_producer_on_this_machine_is_refused(
    new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    topic = new_topic()

    def sleep(_: float) -> None:
        with pytest.raises(AlreadyRunning, match=topic):
            produce_events(make_stream(10), topic)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        produce_events(make_stream(10), topic, speed=1.0, clock=lambda: 0, sleep=sleep)


def test_a_producer_on_another_machine_is_detected(
    new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult], tmp_path: Path
) -> None:
    """Another lock folder simulates another machine."""
    events, topic, now = make_stream(10), new_topic(), 0

    def sleep(_: float) -> None:
        nonlocal now
        if now == 0:
            produce_events(events, topic, lock_folder=tmp_path / "elsewhere")
        now = 10**9

    with pytest.raises(OperationNotAllowed, match="another producer"):
        produce_events(events, topic, speed=1.0, clock=lambda: now, sleep=sleep)


def test_an_unreachable_broker_is_reported_in_time(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        servers = f"127.0.0.1:{closed.getsockname()[1]}"
        started_at = time.monotonic()
        with pytest.raises(LogUnavailable):
            produce(
                make_stream(10), Cluster(servers, 1.0), "any", 0, 10,
                lock_folder=tmp_path, clock=lambda: 0, sleep=time.sleep,
            )  # fmt: skip
        assert time.monotonic() - started_at < 10
