"""Producing a stream: each event once, in order, on the right clock, whatever interrupts it."""

import random
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType
from hypothesis import given
from hypothesis import strategies as st

from tidemill.adapters import broker
from tidemill.adapters.kafka import Cluster, create_topic
from tidemill.adapters.streams import flights
from tidemill.adapters.streams.ends import Begun
from tidemill.adapters.streams.produce import Told, produce, remaining
from tidemill.core.errors import (
    AlreadyRunning,
    LogUnavailable,
    OffsetsExpired,
    Refused,
)

MINUTE = 60_000
PARTITIONS = 4
CHILD = """
import sys, time
from pathlib import Path
import polars as pl
from tidemill.adapters.streams.produce import produce
from tidemill.adapters.kafka import Cluster
servers, topic, folder = sys.argv[1:]
events = pl.read_parquet(Path(folder) / "events.parquet")
produce(
    events, Cluster(servers, 60), topic, 0, 10**12,
    locks=Path(folder), clock=lambda: 0, sleep=time.sleep,
)
"""


def frame(size: int, text: str = "") -> pl.DataFrame:
    """A stream of `size` events, one a minute from 0:01 of 1970, each told half a minute later."""
    seq = pl.int_range(size, dtype=pl.Int64)
    return pl.select(
        seq=seq.cast(pl.UInt32),
        partition=(seq * 7 // 3) % PARTITIONS,
        key=pl.format("key {}", seq % 10),
        timestamp=(seq + 1) * MINUTE,
        due=(seq + 1) * MINUTE + MINUTE // 2,
        value=pl.concat_str(pl.lit('{"event":'), seq, pl.lit(f',"text":"{text}"}}')),
    )


@pytest.fixture
def new_topic(kafka: str) -> Callable[..., str]:
    """The name of a topic of its own for a test; with `partitions`, it is there."""

    def make(partitions: int = 0) -> str:
        name = f"stream-{uuid.uuid4().hex}"
        if partitions:
            create_topic(Cluster(kafka, 30), name, partitions)
        return name

    return make


@pytest.fixture
def bring(kafka: str, tmp_path: Path) -> Callable[..., Told]:
    """`produce` to the real broker, in minutes of the stream's time from its first event on."""

    def run(
        events: pl.DataFrame, topic: str, start: int = 0, end: int = 10**6, **told: Any
    ) -> Told:
        told = {"locks": tmp_path, "clock": lambda: 0, "sleep": time.sleep, **told}
        span = (start + 1) * MINUTE, (end + 1) * MINUTE
        return produce(events, Cluster(kafka, 30), topic, *span, **told)

    return run


def records(kafka: str, topic: str) -> dict[int, list[Message]]:
    """All records of each partition, by a reader that knows nothing of streams."""
    consumer = Consumer(
        {"bootstrap.servers": kafka, "group.id": "test", "enable.partition.eof": True}
    )
    found: dict[int, list[Message]] = {partition: [] for partition in range(PARTITIONS)}
    try:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in found])
        open_ends = set(found)
        while open_ends:
            for message in consumer.consume(10_000, 0.2):
                error = message.error()
                if error is None:
                    found[message.partition()].append(message)
                else:
                    assert error.code() == KafkaError._PARTITION_EOF
                    open_ends.discard(message.partition())
    finally:
        consumer.close()
    return found


def size(kafka: str, topic: str) -> int:
    """How many records stand in all partitions."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "test"})
    try:
        places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        return sum(consumer.get_watermark_offsets(place, cached=False)[1] for place in places)
    finally:
        consumer.close()


def sequences(kafka: str, topic: str) -> dict[int, list[int]]:
    return {
        partition: [int(dict(message.headers())["seq"]) for message in messages]
        for partition, messages in records(kafka, topic).items()
    }


def of_partitions(events: pl.DataFrame) -> dict[int, list[int]]:
    return {
        partition: events.filter(pl.col("partition") == partition)["seq"].to_list()
        for partition in range(PARTITIONS)
    }


def test_every_event_stands_in_its_partition_with_its_key_time_and_bytes(
    kafka: str, new_topic: Callable[..., str], bring: Callable[..., Told]
) -> None:
    events, topic = frame(100), new_topic()
    told = bring(events, topic)
    assert (told.produced, told.present, told.before, told.filled) == (100, 0, 0, 0)
    for partition, messages in records(kafka, topic).items():
        wanted = events.filter(pl.col("partition") == partition)
        found = [
            (message.key().decode(), message.timestamp()[1], message.value().decode())
            for message in messages
        ]
        assert found == wanted.select("key", "timestamp", "value").rows()
        assert told.last[partition] == wanted["seq"].max()


def test_producing_again_adds_nothing_and_says_so(
    kafka: str, new_topic: Callable[..., str], bring: Callable[..., Told]
) -> None:
    events, topic = frame(100), new_topic()
    first = bring(events, topic)
    again = bring(events, topic)
    assert (again.produced, again.present) == (0, 100)
    assert again.last == first.last
    assert sequences(kafka, topic) == of_partitions(events)


def test_ranges_one_after_another_are_one_stream(
    kafka: str, new_topic: Callable[..., str], bring: Callable[..., Told]
) -> None:
    events, topic = frame(100), new_topic()
    counts = [bring(events, topic, start, start + 30).produced for start in (0, 30, 60, 90)]
    assert counts == [30, 30, 30, 10]
    assert sequences(kafka, topic) == of_partitions(events)


def test_a_range_before_the_topics_first_event_adds_nothing_and_says_so(
    kafka: str, new_topic: Callable[..., str], bring: Callable[..., Told]
) -> None:
    events, topic = frame(100), new_topic()
    assert bring(events, topic, 50, 60).produced == 10
    told = bring(events, topic, 20, 40)
    assert (told.produced, told.present, told.before) == (0, 0, 20)
    assert sequences(kafka, topic) == of_partitions(events[50:60])


def test_a_range_further_on_leaves_no_hole(
    kafka: str, new_topic: Callable[..., str], bring: Callable[..., Told]
) -> None:
    events, topic = frame(100), new_topic()
    bring(events, topic, 10, 20)
    told = bring(events, topic, 50, 60)
    assert (told.produced, told.filled) == (40, 30)
    assert sequences(kafka, topic) == of_partitions(events[10:60])


def test_a_partition_that_had_nothing_yet_begins_where_its_topic_began(
    kafka: str, new_topic: Callable[..., str], bring: Callable[..., Told]
) -> None:
    events, topic = frame(100), new_topic()
    bring(events, topic, 10, 11)
    bring(events, topic, 60, 70)
    assert sequences(kafka, topic) == of_partitions(events[10:70])


def test_a_range_without_events_is_no_fault(
    new_topic: Callable[..., str], bring: Callable[..., Told]
) -> None:
    told = bring(frame(10), new_topic(), 500, 600)
    assert (told.produced, told.present, told.before) == (0, 0, 0)
    assert set(told.last.values()) == {None}


def test_kill_9_at_any_moment_leaves_a_prefix_and_the_next_run_goes_on(
    kafka: str, new_topic: Callable[..., str], bring: Callable[..., Told], tmp_path: Path
) -> None:
    events, topic = frame(120_000, "x" * 300), new_topic(PARTITIONS)
    whole = of_partitions(events)
    events.write_parquet(tmp_path / "events.parquet")
    chance = random.Random(2013)
    cut_short = 0
    for _ in range(4):
        goal = size(kafka, topic) + chance.randint(1, 25_000)
        command = [sys.executable, "-c", CHILD, kafka, topic, str(tmp_path)]
        with subprocess.Popen(command) as child:
            while child.poll() is None and size(kafka, topic) < goal:
                time.sleep(0.002)
            child.kill()
        found = sequences(kafka, topic)
        assert all(found[p] == whole[p][: len(found[p])] for p in whole)
        cut_short += 0 < sum(map(len, found.values())) < events.height
    assert cut_short > 0
    already = size(kafka, topic)
    assert bring(events, topic).produced == events.height - already
    assert sequences(kafka, topic) == whole


@pytest.mark.faults
def test_a_broker_killed_while_history_is_produced_takes_no_event_twice(tmp_path: Path) -> None:
    """A broker started again forgets producers whose records are old, and with them what it has."""
    events = frame(300_000, "x" * 300)
    started = broker.start(tmp_path / "broker")
    at = Cluster(started.bootstrap_servers, 60)
    create_topic(at, "history", PARTITIONS)

    def run() -> Told:
        return produce(
            events, at, "history", 0, 10**12, locks=tmp_path, clock=lambda: 0, sleep=time.sleep
        )

    def kill() -> None:
        while size(at.servers, "history") < 1_000:
            time.sleep(0.002)
        psutil.Process(started.pid).kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(LogUnavailable, match="the topic history"):
            run()
        killer.join()
        broker.start(tmp_path / "broker")
        assert 0 < size(at.servers, "history") < events.height
        run()
        assert sequences(at.servers, "history") == of_partitions(events)
    finally:
        broker.stop(tmp_path / "broker")


def test_an_interrupted_run_is_gone_on_with(
    kafka: str, new_topic: Callable[..., str], bring: Callable[..., Told]
) -> None:
    events, topic, naps = frame(50), new_topic(), iter(range(20))

    def sleep(_: float) -> None:
        time.sleep(0.02)
        if next(naps, None) is None:
            raise KeyboardInterrupt

    now = iter(range(0, 10**9, MINUTE // 4))
    with pytest.raises(KeyboardInterrupt):
        bring(events, topic, speed=1.0, clock=lambda: next(now), sleep=sleep)
    found = sum(map(len, sequences(kafka, topic).values()))
    assert 0 < found < 50
    told = bring(events, topic, speed=1.0, clock=lambda: 10**9)
    assert (told.produced, told.present) == (50 - found, found)
    assert sequences(kafka, topic) == of_partitions(events)


def test_a_live_replay_puts_each_event_on_todays_clock_and_waits_for_it(
    kafka: str, new_topic: Callable[..., str], bring: Callable[..., Told]
) -> None:
    events, topic = frame(40), new_topic()
    today, speed = 1_700_000_000_000, 60.0
    now = today

    def sleep(seconds: float) -> None:
        nonlocal now
        now += round(seconds * 1000)

    bring(events, topic, 10, 30, speed=speed, clock=lambda: now, sleep=sleep)
    assert now == today + 19_500  # the last of twenty minutes, sixty times as fast
    stamps = sorted(m.timestamp()[1] for ms in records(kafka, topic).values() for m in ms)
    assert stamps == [today + 1000 * n for n in range(20)]


def test_a_live_replay_keeps_its_start_and_catches_up(
    kafka: str, new_topic: Callable[..., str], bring: Callable[..., Told]
) -> None:
    events, topic = frame(40), new_topic()
    today = 1_700_000_000_000

    def never(_: float) -> None:
        raise AssertionError("it slept although it was behind")

    clock = iter([today, *[today + 10**6] * 100])
    bring(events, topic, 0, 20, speed=60.0, clock=lambda: next(clock), sleep=never)
    bring(events, topic, 0, 40, speed=60.0, clock=lambda: today + 10**7, sleep=never)
    stamps = sorted(m.timestamp()[1] for ms in records(kafka, topic).values() for m in ms)
    assert stamps == [today + 1000 * n for n in range(40)]


@pytest.mark.parametrize(("first", "second"), [(0.0, 60.0), (60.0, 0.0), (60.0, 1440.0)])
def test_a_topic_keeps_one_clock(
    new_topic: Callable[..., str], bring: Callable[..., Told], first: float, second: float
) -> None:
    events, topic = frame(40), new_topic()
    now = iter([10**12, *[10**13] * 100])
    bring(events, topic, 0, 20, speed=first, clock=lambda: next(now))
    bring(events, topic, 0, 20, speed=first, clock=lambda: 10**13)
    with pytest.raises(Refused, match="mix its clocks"):
        bring(events, topic, 20, 40, speed=second, clock=lambda: 10**13)


@pytest.mark.parametrize(
    "record",
    [
        {"value": b'{"event":0}'},
        {"value": b"{}", "headers": [("seq", b"3"), ("begun", b'{"first":0}')]},
        {"value": None, "headers": [("seq", b"3"), ("begun", b'{"first":0}')]},
        {"value": b"{}", "headers": [("seq", b"99"), ("begun", b'{"first":0}')]},
        {"value": b"{}", "headers": [("seq", None), ("begun", b'{"first":0}')]},
        {"value": b"{}", "headers": [("seq", b"0"), ("begun", b"{")]},
    ],
)
def test_a_topic_of_other_records_is_refused_and_left_alone(
    kafka: str,
    new_topic: Callable[..., str],
    bring: Callable[..., Told],
    record: dict[str, Any],
) -> None:
    topic = new_topic(PARTITIONS)
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce(topic, partition=1, **record)
    assert producer.flush(30) == 0
    with pytest.raises(Refused, match="not this stream's"):
        bring(frame(10), topic)
    assert [len(messages) for messages in records(kafka, topic).values()] == [0, 1, 0, 0]


def test_a_changed_stream_is_refused(
    new_topic: Callable[..., str], bring: Callable[..., Told]
) -> None:
    topic = new_topic()
    bring(frame(10), topic)
    with pytest.raises(Refused, match="differs from event"):
        bring(frame(20, "changed"), topic)


def test_a_topic_that_ends_with_a_transactions_marker_is_refused(
    kafka: str, new_topic: Callable[..., str], bring: Callable[..., Told]
) -> None:
    topic = new_topic(PARTITIONS)
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"{}", partition=0)
    producer.commit_transaction(30)
    with pytest.raises(Refused, match="not this stream's"):
        bring(frame(10), topic)


def test_a_topic_of_another_number_of_partitions_is_refused(
    new_topic: Callable[..., str], bring: Callable[..., Told]
) -> None:
    with pytest.raises(Refused, match="has 3 partitions"):
        bring(frame(10), new_topic(3))


def test_a_topic_whose_last_records_are_deleted_is_named(
    kafka: str, new_topic: Callable[..., str], bring: Callable[..., Told]
) -> None:
    topic = new_topic()
    bring(frame(20), topic)
    client = AdminClient({"bootstrap.servers": kafka})
    deleted = client.delete_records([TopicPartition(topic, 2, -1)])
    for done in deleted.values():
        done.result(30)
    with pytest.raises(OffsetsExpired, match="partition 2"):
        bring(frame(20), topic)


def test_a_missing_topic_is_created_to_be_kept_for_ever(
    kafka: str, new_topic: Callable[..., str], bring: Callable[..., Told]
) -> None:
    topic = new_topic()
    bring(frame(10), topic)
    resource = ConfigResource(ResourceType.TOPIC, topic)
    client = AdminClient({"bootstrap.servers": kafka})
    asked = client.describe_configs([resource])
    config = {name: entry.value for name, entry in asked[resource].result(30).items()}
    assert (config["retention.ms"], config["cleanup.policy"]) == ("-1", "delete")
    assert len(records(kafka, topic)) == PARTITIONS


def test_an_event_that_kafka_refuses_leaves_no_gap_behind_it(
    kafka: str, new_topic: Callable[..., str], bring: Callable[..., Told]
) -> None:
    topic, size = new_topic(), 4_000
    create_topic(Cluster(kafka, 30), topic, PARTITIONS, {"max.message.bytes": "100000"})
    noise = random.Random(0).randbytes(300_000).hex()  # lz4 makes no less than 100 kB of it
    value = pl.when(pl.col("seq") == 2_000).then(pl.lit(noise)).otherwise("value")
    events = frame(size).with_columns(value=value)
    refused = events.row(2_000, named=True)["partition"]
    with pytest.raises(LogUnavailable, match=topic):
        bring(events, topic)
    found, whole = sequences(kafka, topic), of_partitions(events)
    assert all(found[p] == whole[p][: len(found[p])] for p in whole)
    assert max(found[refused], default=-1) < 2_000


def test_two_producers_at_once_are_one_too_many(
    new_topic: Callable[..., str], bring: Callable[..., Told]
) -> None:
    topic = new_topic()

    def sleep(_: float) -> None:
        with pytest.raises(AlreadyRunning, match=topic):
            bring(frame(10), topic)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(frame(10), topic, speed=1.0, clock=lambda: 0, sleep=sleep)


def test_a_producer_on_another_machine_is_found_out(
    new_topic: Callable[..., str], bring: Callable[..., Told], tmp_path: Path
) -> None:
    """Another folder of locks stands for another machine."""
    events, topic, now = frame(10), new_topic(), 0

    def sleep(_: float) -> None:
        nonlocal now
        if now == 0:
            bring(events, topic, locks=tmp_path / "elsewhere")
        now = 10**9

    with pytest.raises(Refused, match="somebody else"):
        bring(events, topic, speed=1.0, clock=lambda: now, sleep=sleep)


def test_a_broker_that_is_not_there_is_named_in_time(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        servers = f"127.0.0.1:{closed.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(LogUnavailable):
            produce(
                frame(10), Cluster(servers, 1.0), "any", 0, 10,
                locks=tmp_path, clock=lambda: 0, sleep=time.sleep,
            )  # fmt: skip
        assert time.monotonic() - began < 10


@given(
    first=st.integers(0, 60),
    cuts=st.lists(st.integers(0, 30), min_size=PARTITIONS, max_size=PARTITIONS),
    end=st.integers(0, 70),
)
def test_what_remains_and_what_stands_are_the_stream_without_overlap(
    first: int, cuts: list[int], end: int
) -> None:
    events = frame(60)
    own = of_partitions(events[first:])
    stands = {p: own[p][: cuts[p]] for p in own}
    last = {p: seqs[-1] if seqs else None for p, seqs in stands.items()}
    left = of_partitions(remaining(events, first, last, (end + 1) * MINUTE))
    for p, seqs in own.items():
        assert stands[p] + left[p] == [s for s in seqs if s < end or s in stands[p]]


@given(
    moments=st.lists(st.integers(0, 10**13), min_size=2),
    started=st.integers(0, 2 * 10**12),
    speed=st.floats(0.01, 10**5),
)
def test_a_live_clock_never_turns_back(moments: list[int], started: int, speed: float) -> None:
    begun = Begun(0, min(moments), started, speed)
    told = [begun.at(moment) for moment in sorted(moments)]
    assert told == sorted(told)
    assert told[0] == started


def test_history_keeps_its_own_clock() -> None:
    assert Begun(7).at(1_357_000_000_123) == 1_357_000_000_123


def test_a_month_of_flights_is_produced_once(
    kafka: str, new_topic: Callable[..., str], bring: Callable[..., Told]
) -> None:
    events, topic = flights.events(), new_topic()
    first_of_february = 1_359_694_800_000  # midnight in New York
    end = first_of_february // MINUTE - 1
    told = bring(events, topic, 0, end)
    assert told.produced == events.filter(pl.col("due") < first_of_february).height
    assert bring(events, topic, 0, end).produced == 0
    assert sequences(kafka, topic) == of_partitions(events[: told.produced])
