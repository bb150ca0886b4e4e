"""The event log on real Kafka: big records, timestamps, speed, and a killed broker."""

import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tidemill.adapters import kafka as real
from tidemill.core.errors import LogUnavailable
from tidemill.local import broker

NOON = 1_370_088_000_000


def create(cluster: real.Cluster, partitions: int = 1, **config: str) -> str:
    name = uuid.uuid4().hex
    assert real.create_topic(cluster, name, partitions, config)
    assert not real.create_topic(cluster, name, partitions, config)
    return name


def put(
    cluster: real.Cluster, topic: str, partition: int, rows: Sequence[tuple[int, bytes]]
) -> None:
    producer = real.make_producer(cluster, {"message.max.bytes": 10_000_000})
    for timestamp, value in rows:
        producer.produce(topic, value, partition=partition, timestamp=timestamp)
    assert producer.flush(60) == 0


@pytest.fixture(scope="module")
def cluster(kafka: str) -> real.Cluster:
    return real.Cluster(kafka, 20)


@pytest.fixture(scope="module")
def log(cluster: real.Cluster) -> Iterator[real.KafkaLog]:
    with real.KafkaLog(cluster) as log:
        yield log


def test_records_with_the_brokers_time_are_counted(
    cluster: real.Cluster, log: real.KafkaLog
) -> None:
    created = create(cluster)
    appended = create(cluster, **{"message.timestamp.type": "LogAppendTime"})
    for topic in (created, appended):
        put(cluster, topic, 0, [(NOON, b"x")] * 3)
    (chunk,) = log.read(created, {0: (0, 3)})
    assert (chunk.log_append_time_count, chunk.timestamps) == (0, [NOON] * 3)
    (chunk,) = log.read(appended, {0: (0, 3)})
    assert chunk.log_append_time_count == 3
    assert all(stamp is not None and stamp > NOON for stamp in chunk.timestamps)


def test_a_record_of_three_megabytes_comes_whole(cluster: real.Cluster, log: real.KafkaLog) -> None:
    topic = create(cluster, 4, **{"max.message.bytes": "4000000"})
    big = os.urandom(3_000_000)
    for partition in range(4):
        put(cluster, topic, partition, [(NOON, b"a"), (NOON, big), (NOON, b"z")])
    received = dict.fromkeys(range(4), b"")
    started_at = time.monotonic()
    for chunk in log.read(topic, dict.fromkeys(range(4), (0, 3))):
        received[chunk.partition] += b"".join(value or b"" for value in chunk.values)
    assert time.monotonic() - started_at < 5
    assert received == dict.fromkeys(range(4), b"a" + big + b"z")


def test_records_may_be_stamped_long_ago_and_far_ahead(
    cluster: real.Cluster, log: real.KafkaLog
) -> None:
    topic = create(cluster)
    stamps = [1, NOON, 4_102_444_800_000]
    put(cluster, topic, 0, [(stamp, b"x") for stamp in stamps])
    (chunk,) = log.read(topic, {0: (0, 3)})
    assert chunk.timestamps == stamps


def test_small_ranges_are_cheap(cluster: real.Cluster, log: real.KafkaLog) -> None:
    topic = create(cluster, 4)
    for partition in range(4):
        put(cluster, topic, partition, [(NOON, b"x" * 300)] * 5000)
    times = []
    for start in range(0, 4750, 250):
        started_at = time.monotonic()
        ranges = dict.fromkeys(range(4), (start, start + 250))
        assert sum(len(chunk.offsets) for chunk in log.read(topic, ranges)) == 1000
        times.append(time.monotonic() - started_at)
    assert sorted(times)[len(times) // 2] < 0.1  # 10 ms on a quiet machine


@pytest.fixture
def disposable_broker(tmp_path: Path) -> Iterator[broker.Broker]:
    """A private broker that a test may kill."""
    try:
        yield broker.start(tmp_path)
    finally:
        broker.stop(tmp_path)


def test_an_unavailable_broker_is_reported_within_the_time_budget(
    disposable_broker: broker.Broker,
) -> None:
    cluster = real.Cluster(disposable_broker.bootstrap_servers, 2)
    topic = create(cluster)
    put(cluster, topic, 0, [(NOON, b"x")] * 100)
    with real.KafkaLog(cluster) as log:
        assert sum(len(chunk.offsets) for chunk in log.read(topic, {0: (0, 100)})) == 100
        os.kill(disposable_broker.pid, signal.SIGSTOP)
        try:
            for call in (
                lambda: log.topic(topic),
                lambda: log.offset_ranges(topic),
                lambda: list(log.read(topic, {0: (0, 100)})),
            ):
                started_at = time.monotonic()
                with pytest.raises(LogUnavailable, match=disposable_broker.bootstrap_servers):
                    call()
                assert time.monotonic() - started_at < 4
        finally:
            os.kill(disposable_broker.pid, signal.SIGCONT)
        assert sum(len(chunk.offsets) for chunk in log.read(topic, {0: (0, 100)})) == 100


def test_a_read_continues_after_the_broker_was_killed_and_restarted(
    disposable_broker: broker.Broker, tmp_path: Path
) -> None:
    cluster = real.Cluster(disposable_broker.bootstrap_servers, 30)
    topic = create(cluster)
    put(cluster, topic, 0, [(NOON, os.urandom(2000)) for _ in range(60_000)])
    with real.KafkaLog(cluster) as log:
        chunks = log.read(topic, {0: (0, 60_000)})
        offsets = next(chunks).offsets
        os.kill(disposable_broker.pid, signal.SIGKILL)
        restart = threading.Thread(target=broker.start, args=[tmp_path])
        restart.start()
        for chunk in chunks:
            offsets += chunk.offsets
        restart.join()
    assert offsets == [*range(60_000)]
