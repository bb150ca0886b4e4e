"""What every ledger topic does, shown on the one in memory and on real Kafka."""

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

from tidemill.adapters import broker
from tidemill.adapters import kafka as real
from tidemill.adapters.kafka import topics
from tidemill.adapters.memory.log import MemoryLedger
from tidemill.core.errors import LedgerLost, LedgerMisconfigured, LogUnavailable
from tidemill.core.log import LedgerRecord
from tidemill.ports import LedgerTopic


class World(Protocol):
    """A ledger topic that is new, and the hand that loses it."""

    ledger: LedgerTopic

    def recreate(self) -> None: ...
    def reattach(self) -> LedgerTopic: ...


class InMemory:
    def __init__(self) -> None:
        self.ledger = MemoryLedger()

    def recreate(self) -> None:
        self.ledger.recreate()

    def reattach(self) -> LedgerTopic:
        self.ledger.reattach()
        return self.ledger


class OnKafka:
    def __init__(self, servers: str, timeout: float = 20) -> None:
        self.at = real.Cluster(servers, timeout, ledger_topic=uuid.uuid4().hex)
        self.admin = topics.make_admin_client(self.at)
        self.ledger = real.KafkaLedger(self.at)
        self.opened = [self.ledger]

    def recreate(self) -> None:
        name = self.at.ledger_topic
        self.admin.delete_topics([name])[name].result()
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                assert real.create_topic(self.at, name, 1)
            except LogUnavailable:  # the old one is still being deleted
                time.sleep(0.05)
            else:
                return

    def reattach(self) -> LedgerTopic:
        self.opened.append(real.KafkaLedger(self.at))
        return self.opened[-1]

    def close(self) -> None:
        for ledger in self.opened:
            ledger.close()


@pytest.fixture(params=["memory", "kafka"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "memory":
        yield InMemory()
        return
    found = OnKafka(request.getfixturevalue("kafka"))
    yield found
    found.close()


@pytest.fixture
def on_kafka(kafka: str) -> Iterator[OnKafka]:
    found = OnKafka(kafka)
    yield found
    found.close()


def test_the_first_use_makes_the_topic(world: World) -> None:
    cluster_id, topic_id = world.ledger.identity()
    assert cluster_id
    assert topic_id
    assert world.ledger.identity() == (cluster_id, topic_id)
    assert world.ledger.read() == []


def test_what_was_appended_stands_in_order_with_its_offset(world: World) -> None:
    written = [LedgerRecord(world.ledger.append("flights", b"%d" % i), b"%d" % i) for i in range(5)]
    assert [record.offset for record in written] == [*range(5)]
    assert world.ledger.read() == written
    written.append(LedgerRecord(world.ledger.append("other", b"more"), b"more"))
    assert world.ledger.read() == written
    assert world.reattach().read() == written


def test_what_a_reader_was_given_is_its_own(world: World) -> None:
    world.ledger.append("flights", b"entry")
    world.ledger.read().clear()
    assert len(world.ledger.read()) == 1


def test_a_recreated_topic_is_lost_to_those_who_knew_it(world: World) -> None:
    world.ledger.append("flights", b"entry")
    before = world.ledger.identity()
    world.recreate()
    for ask in (
        world.ledger.read,
        world.ledger.identity,
        lambda: world.ledger.append("flights", b"x"),
    ):
        with pytest.raises(LedgerLost):
            ask()
    after = world.reattach()
    assert after.identity() != before
    assert after.read() == []
    after.append("flights", b"entry")
    assert [record.value for record in after.read()] == [b"entry"]


def test_two_writers_see_each_other(on_kafka: OnKafka) -> None:
    one, other = on_kafka.ledger, on_kafka.reattach()
    for i in range(6):
        (one if i % 2 else other).append("flights", b"%d" % i)
        assert len(one.read()) == len(other.read()) == i + 1
    assert one.read() == other.read()


def test_a_repeated_read_is_quick(on_kafka: OnKafka) -> None:
    for i in range(50):
        on_kafka.ledger.append("flights", b"%d" % i)
    assert len(on_kafka.ledger.read()) == 50
    begun = time.monotonic()
    for _ in range(20):
        on_kafka.ledger.read()
    assert (time.monotonic() - begun) / 20 < 0.1  # 5 ms on a quiet machine


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
    on_kafka: OnKafka, setting: str, value: str
) -> None:
    real.create_topic(on_kafka.at, on_kafka.at.ledger_topic, 1, {setting: value})
    for ask in (on_kafka.ledger.identity, on_kafka.ledger.read):
        with pytest.raises(LedgerMisconfigured, match=f"{setting}={value}"):
            ask()


def test_a_topic_with_two_partitions_is_refused(on_kafka: OnKafka) -> None:
    real.create_topic(on_kafka.at, on_kafka.at.ledger_topic, 2)
    with pytest.raises(LedgerMisconfigured, match="2 partitions"):
        on_kafka.ledger.append("flights", b"entry")


def test_entries_deleted_behind_a_reader_are_lost_and_the_rest_stands_for_a_new_one(
    on_kafka: OnKafka,
) -> None:
    for i in range(4):
        on_kafka.ledger.append("flights", b"%d" % i)
    assert len(on_kafka.ledger.read()) == 4
    cut = TopicPartition(on_kafka.at.ledger_topic, 0, 2)
    for done in on_kafka.admin.delete_records([cut]).values():
        done.result()
    with pytest.raises(LedgerLost, match="offsets 2 to 3"):
        on_kafka.ledger.read()
    assert [record.offset for record in on_kafka.reattach().read()] == [2, 3]


def test_an_append_without_acknowledgement_is_never_sent_later(tmp_path: Path) -> None:
    mortal = broker.start(tmp_path)
    try:
        world = OnKafka(mortal.bootstrap_servers, timeout=2)
        world.ledger.append("flights", b"first")
        os.kill(mortal.pid, signal.SIGKILL)
        begun = time.monotonic()
        with pytest.raises(LogUnavailable):
            world.ledger.append("flights", b"second")
        assert time.monotonic() - begun < 10
        broker.start(tmp_path)
        time.sleep(1)
        assert [record.value for record in world.ledger.read()] == [b"first"]
        assert world.ledger.append("flights", b"third") == 1
        world.close()
    finally:
        broker.stop(tmp_path)


def test_an_append_in_flight_while_the_broker_hangs_has_an_unknown_outcome(tmp_path: Path) -> None:
    mortal = broker.start(tmp_path)
    try:
        world = OnKafka(mortal.bootstrap_servers, timeout=2)
        world.ledger.append("flights", b"first")
        stop = threading.Timer(0, os.kill, [mortal.pid, signal.SIGSTOP])
        stop.start()
        stop.join()
        with pytest.raises(LogUnavailable):
            world.ledger.append("flights", b"second")
        os.kill(mortal.pid, signal.SIGCONT)
        world.ledger.append("flights", b"third")
        values = [record.value for record in world.ledger.read()]
        assert values in ([b"first", b"third"], [b"first", b"second", b"third"])
        world.close()
    finally:
        broker.stop(tmp_path)


def test_a_lost_acknowledgement_leaves_the_entry_standing() -> None:
    ledger = MemoryLedger()
    ledger.lose_acknowledgement = True
    with pytest.raises(LogUnavailable):
        ledger.append("flights", b"entry")
    assert [record.value for record in ledger.read()] == [b"entry"]
