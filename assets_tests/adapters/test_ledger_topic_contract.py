"""The contract of `LedgerTopic`, tested in memory and on real Kafka."""

import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from confluent_kafka import TopicPartition

from tidemill.adapters import kafka as real
from tidemill.adapters.kafka import topics
from tidemill.adapters.memory import MemoryLedger
from tidemill.core.errors import LedgerLost, LedgerMisconfigured, LogUnavailable
from tidemill.core.event_log import LedgerRecord
from tidemill.local import broker
from tidemill.ports import LedgerTopic


class LedgerDriver(Protocol):
    """A new ledger topic, and the means to recreate it."""

    ledger: LedgerTopic

    def recreate(self) -> None: ...
    def reattach(self) -> LedgerTopic: ...


class MemoryDriver:
    def __init__(self) -> None:
        self.ledger = MemoryLedger()

    def recreate(self) -> None:
        self.ledger.recreate()

    def reattach(self) -> LedgerTopic:
        self.ledger.reattach()
        return self.ledger


class KafkaDriver:
    def __init__(self, servers: str, timeout: float = 20) -> None:
        self.cluster = real.Cluster(servers, timeout, ledger_topic=uuid.uuid4().hex)
        self.admin = topics.make_admin_client(self.cluster)
        self.ledger = real.KafkaLedger(self.cluster)
        self.ledgers = [self.ledger]

    def recreate(self) -> None:
        name = self.cluster.ledger_topic
        self.admin.delete_topics([name])[name].result()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                assert real.create_topic(self.cluster, name, 1)
            except LogUnavailable:  # the old one is still being deleted
                time.sleep(0.05)
            else:
                return

    def reattach(self) -> LedgerTopic:
        self.ledgers.append(real.KafkaLedger(self.cluster))
        return self.ledgers[-1]

    def close(self) -> None:
        for ledger in self.ledgers:
            ledger.close()


@pytest.fixture(params=["memory", "kafka"])
def driver(request: pytest.FixtureRequest) -> Iterator[LedgerDriver]:
    if request.param == "memory":
        yield MemoryDriver()
        return
    created = KafkaDriver(request.getfixturevalue("kafka"))
    yield created
    created.close()


@pytest.fixture
def kafka_driver(kafka: str) -> Iterator[KafkaDriver]:
    created = KafkaDriver(kafka)
    yield created
    created.close()


def test_the_first_use_creates_the_topic(driver: LedgerDriver) -> None:
    cluster_id, topic_id = driver.ledger.identity()
    assert cluster_id
    assert topic_id
    assert driver.ledger.identity() == (cluster_id, topic_id)
    assert driver.ledger.read() == []


def test_appended_entries_are_read_in_order_with_their_offsets(driver: LedgerDriver) -> None:
    written = [
        LedgerRecord(driver.ledger.append("flights", b"%d" % i), b"%d" % i) for i in range(5)
    ]
    assert [record.offset for record in written] == [*range(5)]
    assert driver.ledger.read() == written
    written.append(LedgerRecord(driver.ledger.append("other", b"more"), b"more"))
    assert driver.ledger.read() == written
    assert driver.reattach().read() == written


def test_the_list_that_a_read_returns_is_a_copy(driver: LedgerDriver) -> None:
    driver.ledger.append("flights", b"entry")
    driver.ledger.read().clear()
    assert len(driver.ledger.read()) == 1


def test_a_recreated_topic_is_lost_to_attached_clients(driver: LedgerDriver) -> None:
    driver.ledger.append("flights", b"entry")
    before = driver.ledger.identity()
    driver.recreate()
    for call in (
        driver.ledger.read,
        driver.ledger.identity,
        lambda: driver.ledger.append("flights", b"x"),
    ):
        with pytest.raises(LedgerLost):
            call()
    after = driver.reattach()
    assert after.identity() != before
    assert after.read() == []
    after.append("flights", b"entry")
    assert [record.value for record in after.read()] == [b"entry"]


def test_two_writers_see_each_other(kafka_driver: KafkaDriver) -> None:
    one, other = kafka_driver.ledger, kafka_driver.reattach()
    for i in range(6):
        (one if i % 2 else other).append("flights", b"%d" % i)
        assert len(one.read()) == len(other.read()) == i + 1
    assert one.read() == other.read()


def test_a_repeated_read_is_quick(kafka_driver: KafkaDriver) -> None:
    for i in range(50):
        kafka_driver.ledger.append("flights", b"%d" % i)
    assert len(kafka_driver.ledger.read()) == 50
    started_at = time.monotonic()
    for _ in range(20):
        kafka_driver.ledger.read()
    assert (time.monotonic() - started_at) / 20 < 0.1  # 5 ms on a quiet machine


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("cleanup.policy", "compact"),
        ("cleanup.policy", "compact,delete"),
        ("retention.ms", "604800000"),
        ("retention.bytes", "1000000"),
    ],
)
def test_a_topic_that_may_lose_entries_is_refused(
    kafka_driver: KafkaDriver, setting: str, value: str
) -> None:
    real.create_topic(kafka_driver.cluster, kafka_driver.cluster.ledger_topic, 1, {setting: value})
    for call in (kafka_driver.ledger.identity, kafka_driver.ledger.read):
        with pytest.raises(LedgerMisconfigured, match=f"{setting}={value}"):
            call()


def test_a_topic_with_two_partitions_is_refused(kafka_driver: KafkaDriver) -> None:
    real.create_topic(kafka_driver.cluster, kafka_driver.cluster.ledger_topic, 2)
    with pytest.raises(LedgerMisconfigured, match="2 partitions"):
        kafka_driver.ledger.append("flights", b"entry")


def test_entries_deleted_after_a_read_are_lost_but_a_new_reader_gets_the_others(
    kafka_driver: KafkaDriver,
) -> None:
    for i in range(4):
        kafka_driver.ledger.append("flights", b"%d" % i)
    assert len(kafka_driver.ledger.read()) == 4
    cut = TopicPartition(kafka_driver.cluster.ledger_topic, 0, 2)
    for future in kafka_driver.admin.delete_records([cut]).values():
        future.result()
    with pytest.raises(LedgerLost, match="offsets 2 to 3"):
        kafka_driver.ledger.read()
    assert [record.offset for record in kafka_driver.reattach().read()] == [2, 3]


def test_an_append_without_acknowledgement_is_never_sent_later(tmp_path: Path) -> None:
    started = broker.start(tmp_path)
    try:
        driver = KafkaDriver(started.bootstrap_servers, timeout=2)
        driver.ledger.append("flights", b"first")
        os.kill(started.pid, signal.SIGKILL)
        started_at = time.monotonic()
        with pytest.raises(LogUnavailable):
            driver.ledger.append("flights", b"second")
        assert time.monotonic() - started_at < 10
        broker.start(tmp_path)
        time.sleep(1)
        assert [record.value for record in driver.ledger.read()] == [b"first"]
        assert driver.ledger.append("flights", b"third") == 1
        driver.close()
    finally:
        broker.stop(tmp_path)


def test_an_append_in_flight_while_the_broker_hangs_has_an_unknown_outcome(tmp_path: Path) -> None:
    started = broker.start(tmp_path)
    try:
        driver = KafkaDriver(started.bootstrap_servers, timeout=2)
        driver.ledger.append("flights", b"first")
        stop = threading.Timer(0, os.kill, [started.pid, signal.SIGSTOP])
        stop.start()
        stop.join()
        with pytest.raises(LogUnavailable):
            driver.ledger.append("flights", b"second")
        os.kill(started.pid, signal.SIGCONT)
        driver.ledger.append("flights", b"third")
        values = [record.value for record in driver.ledger.read()]
        assert values in ([b"first", b"third"], [b"first", b"second", b"third"])
        driver.close()
    finally:
        broker.stop(tmp_path)


def test_a_lost_acknowledgement_leaves_the_entry_in_the_topic() -> None:
    ledger = MemoryLedger()
    ledger.lose_acknowledgement = True
    with pytest.raises(LogUnavailable):
        ledger.append("flights", b"entry")
    assert [record.value for record in ledger.read()] == [b"entry"]
