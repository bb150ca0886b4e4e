"""The contract of `LedgerFeed`, tested in memory and on real Kafka."""

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tidemill.adapters import kafka as real
from tidemill.adapters.kafka import topics
from tidemill.adapters.memory import MemoryFeed, MemoryLedger
from tidemill.core.errors import TopicMissing
from tidemill.core.event_log import LedgerPoll, LedgerRecord
from tidemill.ports import LedgerFeed, LedgerTopic


@dataclass
class FeedDriver:
    """A ledger topic, and a feed of it."""

    ledger: LedgerTopic
    feed: LedgerFeed
    cluster: real.Cluster | None = None

    def poll_until(self, count: int, timeout: float = 60) -> tuple[list[LedgerRecord], LedgerPoll]:
        """At least `count` records, and the last poll."""
        records: list[LedgerRecord] = []
        deadline = time.monotonic() + timeout
        while True:
            last = self.feed.poll(0.2)
            records += last.records
            if len(records) >= count and last.lag == 0:
                return records, last
            assert time.monotonic() < deadline, records

    def recreate(self) -> None:
        """Replace the topic with a new one of the same name."""
        if self.cluster is None:
            assert isinstance(self.ledger, MemoryLedger)
            self.ledger.recreate()
            self.ledger.reattach()
            return
        admin, name = topics.make_admin_client(self.cluster), self.cluster.ledger_topic
        admin.delete_topics([name])[name].result()
        self.ledger = real.KafkaLedger(self.cluster)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.ledger.identity()
                return
            except Exception:  # the old one is still being deleted
                assert time.monotonic() < deadline
                time.sleep(0.1)


@pytest.fixture(params=["memory", "kafka"])
def driver(request: pytest.FixtureRequest) -> Iterator[FeedDriver]:
    if request.param == "memory":
        ledger = MemoryLedger()
        yield FeedDriver(ledger, MemoryFeed(ledger))
        return
    cluster = real.Cluster(request.getfixturevalue("kafka"), 20, ledger_topic=uuid.uuid4().hex)
    with real.KafkaLedger(cluster) as ledger:
        ledger.identity()
        feed = real.KafkaFeed(cluster)
        yield FeedDriver(ledger, feed, cluster)
        feed.close()


def test_each_record_comes_once_from_the_start_in_order(driver: FeedDriver) -> None:
    for number in range(3):
        driver.ledger.append("m", b"%d" % number)
    assert [record.value for record in driver.poll_until(3)[0]] == [b"0", b"1", b"2"]
    driver.ledger.append("m", b"3")
    records, last = driver.poll_until(1)
    assert records == [LedgerRecord(3, b"3")]
    assert not last.reset


def test_an_empty_ledger_has_no_lag(driver: FeedDriver) -> None:
    assert driver.feed.poll(3).lag == 0


def test_a_recreated_topic_resets_the_feed(driver: FeedDriver) -> None:
    driver.ledger.append("m", b"old")
    driver.poll_until(1)
    driver.recreate()
    driver.ledger.append("m", b"new")
    values, reset = [], False
    deadline = time.monotonic() + 60
    while not values:
        assert time.monotonic() < deadline
        try:
            result = driver.feed.poll(0.2)
        except TopicMissing:
            continue
        reset = reset or result.reset
        values += [record.value for record in result.records]
    assert reset
    assert values == [b"new"]
