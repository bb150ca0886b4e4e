"""What every feed of a ledger does, shown on the one in memory and on real Kafka."""

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tidemill.adapters import kafka as real
from tidemill.adapters.kafka import topics
from tidemill.adapters.memory import MemoryFeed, MemoryLedger
from tidemill.core.errors import TopicMissing
from tidemill.core.log import LedgerPoll, LedgerRecord
from tidemill.ports import LedgerFeed, LedgerTopic


@dataclass
class World:
    """A ledger topic, and a feed of it."""

    ledger: LedgerTopic
    feed: LedgerFeed
    at: real.Cluster | None = None

    def heard(self, count: int, seconds: float = 60) -> tuple[list[LedgerRecord], LedgerPoll]:
        """So many records, and the last hearing."""
        found: list[LedgerRecord] = []
        deadline = time.monotonic() + seconds
        while True:
            last = self.feed.poll(0.2)
            found += last.records
            if len(found) >= count and last.lag == 0:
                return found, last
            assert time.monotonic() < deadline, found

    def recreate(self) -> None:
        """The topic is lost; another of its name is there."""
        if self.at is None:
            assert isinstance(self.ledger, MemoryLedger)
            self.ledger.recreate()
            self.ledger.reattach()
            return
        admin, name = topics.make_admin_client(self.at), self.at.ledger_topic
        admin.delete_topics([name])[name].result()
        self.ledger = real.KafkaLedger(self.at)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.ledger.identity()
                return
            except Exception:  # the old one is still being deleted
                assert time.monotonic() < deadline
                time.sleep(0.1)


@pytest.fixture(params=["memory", "kafka"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "memory":
        ledger = MemoryLedger()
        yield World(ledger, MemoryFeed(ledger))
        return
    at = real.Cluster(request.getfixturevalue("kafka"), 20, ledger_topic=uuid.uuid4().hex)
    with real.KafkaLedger(at) as ledger:
        ledger.identity()
        feed = real.KafkaFeed(at)
        yield World(ledger, feed, at)
        feed.close()


def test_each_record_comes_once_from_the_start_in_order(world: World) -> None:
    for number in range(3):
        world.ledger.append("m", b"%d" % number)
    assert [record.value for record in world.heard(3)[0]] == [b"0", b"1", b"2"]
    world.ledger.append("m", b"3")
    found, last = world.heard(1)
    assert found == [LedgerRecord(3, b"3")]
    assert not last.reset


def test_an_empty_ledger_is_caught_up_with(world: World) -> None:
    assert world.feed.poll(3).lag == 0


def test_a_recreated_topic_begins_anew(world: World) -> None:
    world.ledger.append("m", b"old")
    world.heard(1)
    world.recreate()
    world.ledger.append("m", b"new")
    found, anew = [], False
    deadline = time.monotonic() + 60
    while not found:
        assert time.monotonic() < deadline
        try:
            heard = world.feed.poll(0.2)
        except TopicMissing:
            continue
        anew = anew or heard.reset
        found += [record.value for record in heard.records]
    assert anew
    assert found == [b"new"]
