"""The contract of `EventLog`, tested in memory and on real Kafka."""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import pairwise, zip_longest
from typing import Protocol

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import OffsetSpec
from hypothesis import given, settings
from hypothesis import strategies as st

from support.processes.commands import wait_until
from tidemill.adapters import kafka as real
from tidemill.adapters.kafka import topics
from tidemill.adapters.memory import MemoryLog
from tidemill.core.errors import LogTruncated, LogUnavailable, OffsetsExpired, TopicMissing
from tidemill.core.event_log import OffsetRange, RecordBatch
from tidemill.ports import EventLog

NOON = 1_370_088_000_000
Row = tuple[int, bytes | None]
"""Timestamp and value."""
EndTransaction = Callable[[bool], None]
"""Ends a transaction: True commits it."""


class EventLogDriver(Protocol):
    """An event log, and the means to fill and damage it."""

    log: EventLog

    def create(self, partitions: int = 4, **config: str) -> str: ...
    def put(self, topic: str, partition: int, rows: Sequence[Row]) -> None: ...
    def begin_transaction(
        self, topic: str, partition: int, rows: Sequence[Row]
    ) -> EndTransaction: ...
    def delete_before(self, topic: str, partition: int, offset: int) -> None: ...
    def recreate(self, topic: str) -> None: ...


class MemoryDriver:
    def __init__(self) -> None:
        self.log = MemoryLog()

    def create(self, partitions: int = 4, **config: str) -> str:
        name = uuid.uuid4().hex
        compacted = "compact" in config.get("cleanup.policy", "")
        self.log.create_topic(name, partitions, compacted=compacted)
        return name

    def put(self, topic: str, partition: int, rows: Sequence[Row]) -> None:
        for timestamp, value in rows:
            self.log.append(topic, partition, value, timestamp)

    def begin_transaction(self, topic: str, partition: int, rows: Sequence[Row]) -> EndTransaction:
        for timestamp, value in rows:
            self.log.append(topic, partition, value, timestamp, transaction=True)

        def end_transaction(commit: bool) -> None:
            self.log.end_transaction(topic, partition, commit=commit, timestamp=NOON * 2)

        return end_transaction

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        self.log.delete_before(topic, partition, offset)

    def recreate(self, topic: str) -> None:
        self.log.create_topic(topic)


class KafkaDriver:
    def __init__(self, servers: str) -> None:
        self.cluster = real.Cluster(servers, 20)
        self.log = real.KafkaLog(self.cluster)
        self.admin = topics.make_admin_client(self.cluster)
        self.producer = real.make_producer(self.cluster)

    def create(self, partitions: int = 4, **config: str) -> str:
        name = uuid.uuid4().hex
        assert real.create_topic(self.cluster, name, partitions, config)
        return name

    def put(self, topic: str, partition: int, rows: Sequence[Row]) -> None:
        for timestamp, value in rows:
            self.producer.produce(topic, value, partition=partition, timestamp=timestamp)
        assert self.producer.flush(20) == 0

    def begin_transaction(self, topic: str, partition: int, rows: Sequence[Row]) -> EndTransaction:
        producer = real.make_producer(self.cluster, {"transactional.id": uuid.uuid4().hex})
        producer.init_transactions(20)
        producer.begin_transaction()
        for timestamp, value in rows:
            producer.produce(topic, value, partition=partition, timestamp=timestamp)
        assert producer.flush(20) == 0

        def end_transaction(commit: bool) -> None:
            before = self._end_offset(topic, partition)
            producer.commit_transaction(20) if commit else producer.abort_transaction(20)
            # The marker is written shortly after the transaction has ended.
            wait_until(lambda: self._end_offset(topic, partition) > before)

        return end_transaction

    def _end_offset(self, topic: str, partition: int) -> int:
        """The end of the partition, including open transactions."""
        (future,) = self.admin.list_offsets(
            {TopicPartition(topic, partition): OffsetSpec.latest()}
        ).values()
        return int(future.result().offset)

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        for future in self.admin.delete_records(
            [TopicPartition(topic, partition, offset)]
        ).values():
            future.result()

    def recreate(self, topic: str) -> None:
        self.admin.delete_topics([topic])[topic].result()
        wait_until(lambda: self._try_create(topic))

    def _try_create(self, topic: str) -> bool:
        try:
            return real.create_topic(self.cluster, topic)
        except LogUnavailable:  # the old one is still being deleted
            return False


@pytest.fixture(scope="module", params=["memory", "kafka"])
def driver(request: pytest.FixtureRequest) -> Iterator[EventLogDriver]:
    if request.param == "memory":
        yield MemoryDriver()
        return
    kafka_driver = KafkaDriver(request.getfixturevalue("kafka"))
    with kafka_driver.log:
        yield kafka_driver


def rows(count: int, first: int = 0) -> list[Row]:
    return [(NOON + 1000 * i, b'{"n": %d}' % i) for i in range(first, first + count)]


def read(
    log: EventLog, topic: str, start: int, end: int, partition: int = 0
) -> list[tuple[int, Row]]:
    """Offset, timestamp and value of every record in the range; must take less than 5 s."""
    started_at = time.monotonic()
    chunks = list(log.read(topic, {partition: (start, end)}))
    assert time.monotonic() - started_at < 5
    return [record for chunk in chunks for record in chunk_records(chunk)]


def chunk_records(chunk: RecordBatch) -> Iterator[tuple[int, Row]]:
    parts = zip(chunk.offsets, chunk.timestamps, chunk.values, strict=True)
    return ((offset, (stamp or -1, value)) for offset, stamp, value in parts)


def test_a_range_gives_its_records_and_no_other(driver: EventLogDriver) -> None:
    topic = driver.create()
    driver.put(topic, 2, rows(100))
    assert read(driver.log, topic, 10, 20, partition=2) == [*enumerate(rows(10, 10), start=10)]
    assert read(driver.log, topic, 0, 100, partition=2) == [*enumerate(rows(100))]
    assert read(driver.log, topic, 99, 100, partition=2) == [(99, rows(1, 99)[0])]


def test_an_empty_range_gives_nothing(driver: EventLogDriver) -> None:
    topic = driver.create()
    assert list(driver.log.read(topic, {})) == []
    assert list(driver.log.read(topic, {0: (0, 0), 1: (0, 0)})) == []


def test_several_partitions_are_read_whole_and_each_in_order(driver: EventLogDriver) -> None:
    topic = driver.create()
    for partition in range(4):
        driver.put(topic, partition, rows(500 * partition, partition))
    received: dict[int, list[tuple[int, Row]]] = {p: [] for p in range(4)}
    for chunk in driver.log.read(topic, {p: (0, 500 * p) for p in range(4)}):
        assert 0 < len(chunk.offsets) <= 10_000
        received[chunk.partition] += chunk_records(chunk)
    assert received == {p: [*enumerate(rows(500 * p, p))] for p in range(4)}


def test_null_and_empty_values_are_records_as_any_other(driver: EventLogDriver) -> None:
    topic = driver.create()
    odd: list[Row] = [(NOON, None), (NOON, b""), (NOON, b"x"), (NOON, None), (NOON, b"")]
    driver.put(topic, 0, odd)
    assert read(driver.log, topic, 0, 5) == [*enumerate(odd)]


def test_aborted_records_are_absent_and_markers_only_leave_gaps(driver: EventLogDriver) -> None:
    topic = driver.create()
    driver.put(topic, 0, rows(2))
    driver.begin_transaction(topic, 0, rows(3, 2))(False)  # offsets 2 to 4, marker 5
    driver.begin_transaction(topic, 0, rows(2, 5))(True)  # offsets 6 and 7, marker 8
    driver.put(topic, 0, rows(1, 7))
    expected = [*zip([0, 1, 6, 7, 9], [*rows(2), *rows(3, 5)], strict=True)]
    assert read(driver.log, topic, 0, 10) == expected
    for end in range(11):
        assert read(driver.log, topic, 0, end) == [record for record in expected if record[0] < end]
    for start in range(11):
        assert read(driver.log, topic, start, 10) == [r for r in expected if r[0] >= start]


def test_a_range_that_ends_in_a_marker_at_the_very_end_of_the_log_ends(
    driver: EventLogDriver,
) -> None:
    topic = driver.create()
    driver.begin_transaction(topic, 0, rows(3))(False)
    driver.begin_transaction(topic, 1, rows(3))(True)
    assert (
        driver.log.offset_ranges(topic)[0]
        == driver.log.offset_ranges(topic)[1]
        == OffsetRange(0, 4)
    )
    assert read(driver.log, topic, 0, 4) == []
    assert read(driver.log, topic, 3, 4) == []
    assert read(driver.log, topic, 0, 4, partition=1) == [*enumerate(rows(3))]


def test_an_open_transaction_holds_the_last_stable_offset(driver: EventLogDriver) -> None:
    topic = driver.create()
    driver.put(topic, 0, rows(2))
    end_transaction = driver.begin_transaction(topic, 0, rows(1))
    driver.put(topic, 0, rows(1))
    assert driver.log.offset_ranges(topic)[0] == OffsetRange(0, 2)
    end_transaction(True)
    assert driver.log.offset_ranges(topic)[0] == OffsetRange(0, 5)
    assert [offset for offset, _ in read(driver.log, topic, 0, 5)] == [0, 1, 2, 3]


def test_offsets_by_time_are_at_or_before_the_first_record_not_older(
    driver: EventLogDriver,
) -> None:
    topic = driver.create()
    driver.put(topic, 0, [(NOON, b"a"), (NOON + 5, b"b"), (NOON + 2, b"c"), (NOON + 9, b"d")])
    driver.put(topic, 1, [(NOON, b"a")])
    assert driver.log.offsets_for_timestamp(topic, NOON) == {0: 0, 1: 0, 2: None, 3: None}
    assert driver.log.offsets_for_timestamp(topic, NOON + 5) == {0: 1, 1: None, 2: None, 3: None}
    assert driver.log.offsets_for_timestamp(topic, NOON + 6) == {0: 3, 1: None, 2: None, 3: None}
    assert driver.log.offsets_for_timestamp(topic, NOON + 10) == dict.fromkeys(range(4))


def test_deleted_offsets_are_named_exactly(driver: EventLogDriver) -> None:
    topic = driver.create()
    driver.put(topic, 0, rows(30))
    driver.delete_before(topic, 0, 12)
    assert driver.log.offset_ranges(topic)[0] == OffsetRange(12, 30)
    assert len(read(driver.log, topic, 12, 30)) == 18
    with pytest.raises(OffsetsExpired, match="offsets 7 to 11 of partition 0"):
        read(driver.log, topic, 7, 30)
    with pytest.raises(OffsetsExpired, match="offsets 3 to 4 of partition 0"):
        read(driver.log, topic, 3, 5)


def test_a_log_that_ends_before_the_range_is_truncated(driver: EventLogDriver) -> None:
    topic = driver.create()
    driver.put(topic, 0, rows(10))
    for start in (0, 10, 11):
        with pytest.raises(LogTruncated, match="ends at offset 10, before 12"):
            read(driver.log, topic, start, 12)
    assert len(read(driver.log, topic, 0, 10)) == 10


def test_a_recreated_topic_has_another_id_in_the_same_cluster(driver: EventLogDriver) -> None:
    topic = driver.create()
    driver.put(topic, 0, rows(10))
    before = driver.log.topic(topic)
    assert len(read(driver.log, topic, 0, 10)) == 10
    driver.recreate(topic)
    after = driver.log.topic(topic)
    assert after.cluster_id == before.cluster_id
    assert after.topic_id != before.topic_id
    assert driver.log.offset_ranges(topic)[0] == OffsetRange(0, 0)
    driver.put(topic, 0, rows(5, 50))
    assert read(driver.log, topic, 0, 5) == [*enumerate(rows(5, 50))]


def test_a_missing_topic_is_reported(driver: EventLogDriver) -> None:
    for call in (
        driver.log.topic,
        driver.log.offset_ranges,
        lambda t: driver.log.offsets_for_timestamp(t, NOON),
    ):
        with pytest.raises(TopicMissing, match="no-such-topic"):
            call("no-such-topic")
    with pytest.raises(TopicMissing, match="no-such-topic"):
        read(driver.log, "no-such-topic", 0, 5)


def test_a_compacted_topic_is_marked(driver: EventLogDriver) -> None:
    assert not driver.log.topic(driver.create()).compacted
    assert driver.log.topic(driver.create(**{"cleanup.policy": "compact"})).compacted
    assert driver.log.topic(driver.create(**{"cleanup.policy": "compact,delete"})).compacted


def test_a_reader_may_stop_early_and_read_again(driver: EventLogDriver) -> None:
    topic = driver.create()
    driver.put(topic, 0, rows(5000))
    ranges = {0: (100, 5000)}
    for expected_records in (1, 64, None):
        with closing(driver.log.read(topic, ranges, expected_records)) as chunks:
            assert next(chunks).offsets[0] == 100
        chunks = driver.log.read(topic, ranges, expected_records)
        assert [offset for chunk in chunks for offset in chunk.offsets] == [*range(100, 5000)]


def test_two_readers_of_one_log_do_not_disturb_each_other(driver: EventLogDriver) -> None:
    topic = driver.create()
    driver.put(topic, 0, rows(300))
    driver.put(topic, 1, rows(300, 300))
    one, other = (driver.log.read(topic, {p: (0, 300)}, 10) for p in (0, 1))
    offsets: list[list[int]] = [[], []]
    for pair in zip_longest(one, other):
        for chunk in filter(None, pair):
            offsets[chunk.partition] += chunk.offsets
    assert offsets == [[*range(300)], [*range(300)]]


@settings(max_examples=10)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["put", "abort", "commit"]), st.integers(1, 3)), max_size=6
    ),
    cuts=st.lists(st.integers(0, 24), max_size=4),
)
def test_consecutive_ranges_give_what_one_range_gives(
    driver: EventLogDriver, steps: list[tuple[str, int]], cuts: list[int]
) -> None:
    topic = driver.create(1)
    for what, count in steps:
        if what == "put":
            driver.put(topic, 0, rows(count))
        else:
            driver.begin_transaction(topic, 0, rows(count))(what == "commit")
    end = driver.log.offset_ranges(topic)[0].last_stable_offset
    assert end == sum(count + (what != "put") for what, count in steps)
    edges = sorted({0, end, *(cut for cut in cuts if cut < end)})
    whole = read(driver.log, topic, 0, end)
    assert [r for a, b in pairwise(edges) for r in read(driver.log, topic, a, b)] == whole
    assert len(whole) == sum(count for what, count in steps if what != "abort")


def test_a_record_without_timestamp_has_none() -> None:
    log = MemoryLog()
    log.create_topic("events", 1)
    log.append("events", 0, b"x", None)
    (chunk,) = log.read("events", {0: (0, 1)})
    assert chunk.timestamps == [None]
    assert log.offsets_for_timestamp("events", 0)[0] is None
