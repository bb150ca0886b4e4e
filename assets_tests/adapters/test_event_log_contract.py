"""What every event log does, shown on the one in memory and on real Kafka."""

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

from commands import until
from tidemill.adapters import kafka as real
from tidemill.adapters.kafka import topics
from tidemill.adapters.memory.log import MemoryLog
from tidemill.core.errors import LogTruncated, LogUnavailable, OffsetsExpired, TopicMissing
from tidemill.core.log import RecordBatch, OffsetRange
from tidemill.ports import EventLog

NOON = 1_370_088_000_000
Row = tuple[int, bytes | None]
"""Timestamp and value."""
End = Callable[[bool], None]
"""Ends a transaction: True commits it."""


class World(Protocol):
    """An event log, and the hands that fill and harm it."""

    log: EventLog

    def create(self, partitions: int = 4, **config: str) -> str: ...
    def put(self, topic: str, partition: int, rows: Sequence[Row]) -> None: ...
    def begin(self, topic: str, partition: int, rows: Sequence[Row]) -> End: ...
    def delete_before(self, topic: str, partition: int, offset: int) -> None: ...
    def recreate(self, topic: str) -> None: ...


class InMemory:
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

    def begin(self, topic: str, partition: int, rows: Sequence[Row]) -> End:
        for timestamp, value in rows:
            self.log.append(topic, partition, value, timestamp, transaction=True)

        def end(commit: bool) -> None:
            self.log.end_transaction(topic, partition, commit=commit, timestamp=NOON * 2)

        return end

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        self.log.delete_before(topic, partition, offset)

    def recreate(self, topic: str) -> None:
        self.log.create_topic(topic)


class OnKafka:
    def __init__(self, servers: str) -> None:
        self.at = real.Cluster(servers, 20)
        self.log = real.KafkaLog(self.at)
        self.admin = topics.make_admin_client(self.at)
        self.producer = real.make_producer(self.at)

    def create(self, partitions: int = 4, **config: str) -> str:
        name = uuid.uuid4().hex
        assert real.create_topic(self.at, name, partitions, config)
        return name

    def put(self, topic: str, partition: int, rows: Sequence[Row]) -> None:
        for timestamp, value in rows:
            self.producer.produce(topic, value, partition=partition, timestamp=timestamp)
        assert self.producer.flush(20) == 0

    def begin(self, topic: str, partition: int, rows: Sequence[Row]) -> End:
        producer = real.make_producer(self.at, {"transactional.id": uuid.uuid4().hex})
        producer.init_transactions(20)
        producer.begin_transaction()
        for timestamp, value in rows:
            producer.produce(topic, value, partition=partition, timestamp=timestamp)
        assert producer.flush(20) == 0

        def end(commit: bool) -> None:
            before = self._end(topic, partition)
            producer.commit_transaction(20) if commit else producer.abort_transaction(20)
            # The marker is written a moment after the transaction was ended.
            until(lambda: self._end(topic, partition) > before)

        return end

    def _end(self, topic: str, partition: int) -> int:
        """The end of the partition, open transactions included."""
        (future,) = self.admin.list_offsets(
            {TopicPartition(topic, partition): OffsetSpec.latest()}
        ).values()
        return int(future.result().offset)

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        for done in self.admin.delete_records([TopicPartition(topic, partition, offset)]).values():
            done.result()

    def recreate(self, topic: str) -> None:
        self.admin.delete_topics([topic])[topic].result()
        until(lambda: self._create_again(topic))

    def _create_again(self, topic: str) -> bool:
        try:
            return real.create_topic(self.at, topic)
        except LogUnavailable:  # the old one is still being deleted
            return False


@pytest.fixture(scope="module", params=["memory", "kafka"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "memory":
        yield InMemory()
        return
    found = OnKafka(request.getfixturevalue("kafka"))
    with found.log:
        yield found


def rows(count: int, first: int = 0) -> list[Row]:
    return [(NOON + 1000 * i, b'{"n": %d}' % i) for i in range(first, first + count)]


def read(
    log: EventLog, topic: str, start: int, end: int, partition: int = 0
) -> list[tuple[int, Row]]:
    """Offset, timestamp and value of all that is in the range, which must take less than 5 s."""
    begun = time.monotonic()
    found = list(log.read(topic, {partition: (start, end)}))
    assert time.monotonic() - begun < 5
    return [one for chunk in found for one in each(chunk)]


def each(chunk: RecordBatch) -> Iterator[tuple[int, Row]]:
    parts = zip(chunk.offsets, chunk.timestamps, chunk.values, strict=True)
    return ((offset, (stamp or -1, value)) for offset, stamp, value in parts)


def test_a_range_gives_its_records_and_no_other(world: World) -> None:
    topic = world.create()
    world.put(topic, 2, rows(100))
    assert read(world.log, topic, 10, 20, partition=2) == [*enumerate(rows(10, 10), start=10)]
    assert read(world.log, topic, 0, 100, partition=2) == [*enumerate(rows(100))]
    assert read(world.log, topic, 99, 100, partition=2) == [(99, rows(1, 99)[0])]


def test_an_empty_range_gives_nothing(world: World) -> None:
    topic = world.create()
    assert list(world.log.read(topic, {})) == []
    assert list(world.log.read(topic, {0: (0, 0), 1: (0, 0)})) == []


def test_several_partitions_are_read_whole_and_each_in_order(world: World) -> None:
    topic = world.create()
    for partition in range(4):
        world.put(topic, partition, rows(500 * partition, partition))
    found: dict[int, list[tuple[int, Row]]] = {p: [] for p in range(4)}
    for chunk in world.log.read(topic, {p: (0, 500 * p) for p in range(4)}):
        assert 0 < len(chunk.offsets) <= 10_000
        found[chunk.partition] += each(chunk)
    assert found == {p: [*enumerate(rows(500 * p, p))] for p in range(4)}


def test_null_and_empty_values_are_records_as_any_other(world: World) -> None:
    topic = world.create()
    odd: list[Row] = [(NOON, None), (NOON, b""), (NOON, b"x"), (NOON, None), (NOON, b"")]
    world.put(topic, 0, odd)
    assert read(world.log, topic, 0, 5) == [*enumerate(odd)]


def test_aborted_records_are_absent_and_markers_only_leave_gaps(world: World) -> None:
    topic = world.create()
    world.put(topic, 0, rows(2))
    world.begin(topic, 0, rows(3, 2))(False)  # offsets 2 to 4, marker 5
    world.begin(topic, 0, rows(2, 5))(True)  # offsets 6 and 7, marker 8
    world.put(topic, 0, rows(1, 7))
    wanted = [*zip([0, 1, 6, 7, 9], [*rows(2), *rows(3, 5)], strict=True)]
    assert read(world.log, topic, 0, 10) == wanted
    for end in range(11):
        assert read(world.log, topic, 0, end) == [one for one in wanted if one[0] < end]
    for start in range(11):
        assert read(world.log, topic, start, 10) == [one for one in wanted if one[0] >= start]


def test_a_range_that_ends_in_a_marker_at_the_very_end_of_the_log_ends(world: World) -> None:
    topic = world.create()
    world.begin(topic, 0, rows(3))(False)
    world.begin(topic, 1, rows(3))(True)
    assert world.log.offset_ranges(topic)[0] == world.log.offset_ranges(topic)[1] == OffsetRange(0, 4)
    assert read(world.log, topic, 0, 4) == []
    assert read(world.log, topic, 3, 4) == []
    assert read(world.log, topic, 0, 4, partition=1) == [*enumerate(rows(3))]


def test_the_stable_end_stands_while_a_transaction_is_open(world: World) -> None:
    topic = world.create()
    world.put(topic, 0, rows(2))
    end = world.begin(topic, 0, rows(1))
    world.put(topic, 0, rows(1))
    assert world.log.offset_ranges(topic)[0] == OffsetRange(0, 2)
    end(True)
    assert world.log.offset_ranges(topic)[0] == OffsetRange(0, 5)
    assert [offset for offset, _ in read(world.log, topic, 0, 5)] == [0, 1, 2, 3]


def test_offsets_by_time_are_at_or_before_the_first_record_not_older(world: World) -> None:
    topic = world.create()
    world.put(topic, 0, [(NOON, b"a"), (NOON + 5, b"b"), (NOON + 2, b"c"), (NOON + 9, b"d")])
    world.put(topic, 1, [(NOON, b"a")])
    assert world.log.offsets_for_timestamp(topic, NOON) == {0: 0, 1: 0, 2: None, 3: None}
    assert world.log.offsets_for_timestamp(topic, NOON + 5) == {0: 1, 1: None, 2: None, 3: None}
    assert world.log.offsets_for_timestamp(topic, NOON + 6) == {0: 3, 1: None, 2: None, 3: None}
    assert world.log.offsets_for_timestamp(topic, NOON + 10) == dict.fromkeys(range(4))


def test_deleted_offsets_are_named_exactly(world: World) -> None:
    topic = world.create()
    world.put(topic, 0, rows(30))
    world.delete_before(topic, 0, 12)
    assert world.log.offset_ranges(topic)[0] == OffsetRange(12, 30)
    assert len(read(world.log, topic, 12, 30)) == 18
    with pytest.raises(OffsetsExpired, match="offsets 7 to 11 of partition 0"):
        read(world.log, topic, 7, 30)
    with pytest.raises(OffsetsExpired, match="offsets 3 to 4 of partition 0"):
        read(world.log, topic, 3, 5)


def test_a_log_that_ends_before_the_range_is_truncated(world: World) -> None:
    topic = world.create()
    world.put(topic, 0, rows(10))
    for start in (0, 10, 11):
        with pytest.raises(LogTruncated, match="ends at offset 10, before 12"):
            read(world.log, topic, start, 12)
    assert len(read(world.log, topic, 0, 10)) == 10


def test_a_recreated_topic_has_another_id_in_the_same_cluster(world: World) -> None:
    topic = world.create()
    world.put(topic, 0, rows(10))
    before = world.log.topic(topic)
    assert len(read(world.log, topic, 0, 10)) == 10
    world.recreate(topic)
    after = world.log.topic(topic)
    assert after.cluster_id == before.cluster_id
    assert after.topic_id != before.topic_id
    assert world.log.offset_ranges(topic)[0] == OffsetRange(0, 0)
    world.put(topic, 0, rows(5, 50))
    assert read(world.log, topic, 0, 5) == [*enumerate(rows(5, 50))]


def test_a_missing_topic_is_named(world: World) -> None:
    for ask in (world.log.topic, world.log.offset_ranges, lambda t: world.log.offsets_for_timestamp(t, NOON)):
        with pytest.raises(TopicMissing, match="no-such-topic"):
            ask("no-such-topic")
    with pytest.raises(TopicMissing, match="no-such-topic"):
        read(world.log, "no-such-topic", 0, 5)


def test_a_compacted_topic_says_so(world: World) -> None:
    assert not world.log.topic(world.create()).compacted
    assert world.log.topic(world.create(**{"cleanup.policy": "compact"})).compacted
    assert world.log.topic(world.create(**{"cleanup.policy": "compact,delete"})).compacted


def test_a_reader_may_stop_early_and_begin_anew(world: World) -> None:
    topic = world.create()
    world.put(topic, 0, rows(5000))
    for first in (1, 64, None):
        with closing(world.log.read(topic, {0: (100, 5000)}, first)) as chunks:
            assert next(chunks).offsets[0] == 100
        found = [o for c in world.log.read(topic, {0: (100, 5000)}, first) for o in c.offsets]
        assert found == [*range(100, 5000)]


def test_two_readers_of_one_log_do_not_disturb_each_other(world: World) -> None:
    topic = world.create()
    world.put(topic, 0, rows(300))
    world.put(topic, 1, rows(300, 300))
    one, other = (world.log.read(topic, {p: (0, 300)}, 10) for p in (0, 1))
    found: list[list[int]] = [[], []]
    for pair in zip_longest(one, other):
        for chunk in filter(None, pair):
            found[chunk.partition] += chunk.offsets
    assert found == [[*range(300)], [*range(300)]]


@settings(max_examples=10)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["put", "abort", "commit"]), st.integers(1, 3)), max_size=6
    ),
    cuts=st.lists(st.integers(0, 24), max_size=4),
)
def test_consecutive_ranges_give_what_one_range_gives(
    world: World, steps: list[tuple[str, int]], cuts: list[int]
) -> None:
    topic = world.create(1)
    for what, count in steps:
        if what == "put":
            world.put(topic, 0, rows(count))
        else:
            world.begin(topic, 0, rows(count))(what == "commit")
    end = world.log.offset_ranges(topic)[0].last_stable_offset
    assert end == sum(count + (what != "put") for what, count in steps)
    edges = sorted({0, end, *(cut for cut in cuts if cut < end)})
    whole = read(world.log, topic, 0, end)
    assert [one for a, b in pairwise(edges) for one in read(world.log, topic, a, b)] == whole
    assert len(whole) == sum(count for what, count in steps if what != "abort")


def test_a_record_without_timestamp_has_none() -> None:
    log = MemoryLog()
    log.create_topic("events", 1)
    log.append("events", 0, b"x", None)
    (chunk,) = log.read("events", {0: (0, 1)})
    assert chunk.timestamps == [None]
    assert log.offsets_at("events", 0)[0] is None
