"""Producing a stream: each event once, in order, whatever interrupts it."""

import itertools
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill import failpoints
from tidemill.adapters.kafka import Cluster, create_topic
from tidemill.core.errors import LogUnavailable
from tidemill.local import broker
from tidemill.simulation import flights
from tidemill.simulation.produce import ProduceResult, produce, remaining
from topic_readers import (
    MINUTE,
    PARTITIONS,
    make_stream,
    read_records,
    read_sequences,
    record_count,
    sequences_by_partition,
)

CHILD = """
import sys, time
from pathlib import Path
import polars as pl
from tidemill import failpoints
from tidemill.simulation.produce import produce
from tidemill.adapters.kafka import Cluster
servers, topic, folder, fault = sys.argv[1:]
failpoints.arm(fault)
events = pl.read_parquet(Path(folder) / "events.parquet")
produce(
    events, Cluster(servers, 60), topic, 0, 10**12,
    locks=Path(folder), clock=lambda: 0, sleep=time.sleep,
)
"""


def test_every_event_stands_in_its_partition_with_its_key_time_and_bytes(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    events, topic = make_stream(100), new_topic()
    told = produce_events(events, topic)
    assert (told.produced, told.already_present, told.not_producible, told.backfilled) == (
        100,
        0,
        0,
        0,
    )
    for partition, messages in read_records(kafka, topic).items():
        wanted = events.filter(pl.col("partition") == partition)
        found = [
            (message.key().decode(), message.timestamp()[1], message.value().decode())
            for message in messages
        ]
        assert found == wanted.select("key", "timestamp", "value").rows()
        assert told.last_seq[partition] == wanted["seq"].max()


def test_producing_again_adds_nothing_and_says_so(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    events, topic = make_stream(100), new_topic()
    first = produce_events(events, topic)
    again = produce_events(events, topic)
    assert (again.produced, again.already_present) == (0, 100)
    assert again.last_seq == first.last_seq
    assert read_sequences(kafka, topic) == sequences_by_partition(events)


def test_ranges_one_after_another_are_one_stream(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    events, topic = make_stream(100), new_topic()
    counts = [
        produce_events(events, topic, start, start + 30).produced for start in (0, 30, 60, 90)
    ]
    assert counts == [30, 30, 30, 10]
    assert read_sequences(kafka, topic) == sequences_by_partition(events)


def test_a_range_before_the_topics_first_event_adds_nothing_and_says_so(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    events, topic = make_stream(100), new_topic()
    assert produce_events(events, topic, 50, 60).produced == 10
    told = produce_events(events, topic, 20, 40)
    assert (told.produced, told.already_present, told.not_producible) == (0, 0, 20)
    assert read_sequences(kafka, topic) == sequences_by_partition(events[50:60])


def test_a_range_further_on_leaves_no_hole(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    events, topic = make_stream(100), new_topic()
    produce_events(events, topic, 10, 20)
    told = produce_events(events, topic, 50, 60)
    assert (told.produced, told.backfilled) == (40, 30)
    assert read_sequences(kafka, topic) == sequences_by_partition(events[10:60])


def test_a_partition_that_had_nothing_yet_begins_where_its_topic_began(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    events, topic = make_stream(100), new_topic()
    produce_events(events, topic, 10, 11)
    produce_events(events, topic, 60, 70)
    assert read_sequences(kafka, topic) == sequences_by_partition(events[10:70])


def test_a_range_without_events_is_no_fault(
    new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    told = produce_events(make_stream(10), new_topic(), 500, 600)
    assert (told.produced, told.already_present, told.not_producible) == (0, 0, 0)
    assert set(told.last_seq.values()) == {None}


def test_kill_9_at_any_moment_leaves_a_prefix_and_the_next_run_goes_on(
    kafka: str,
    new_topic: Callable[..., str],
    produce_events: Callable[..., ProduceResult],
    tmp_path: Path,
) -> None:
    events, topic = make_stream(120_000, "x" * 300), new_topic(PARTITIONS)
    whole = sequences_by_partition(events)
    events.write_parquet(tmp_path / "events.parquet")
    chance = random.Random(2013)
    cut_short = 0
    # The first ends with 80,000 handed over, at most 50,000 of them under way; others by chance.
    for fault in ("stream.handed:kill:41", "", "", ""):
        goal = events.height if fault else record_count(kafka, topic) + chance.randint(1, 25_000)
        command = [sys.executable, "-c", CHILD, kafka, topic, str(tmp_path), fault]
        with subprocess.Popen(command) as child:
            while child.poll() is None and record_count(kafka, topic) < goal:
                time.sleep(0.002)
            child.kill()
        found = read_sequences(kafka, topic)
        assert all(found[p] == whole[p][: len(found[p])] for p in whole)
        cut_short += 0 < sum(map(len, found.values())) < events.height
    assert cut_short > 0
    already = record_count(kafka, topic)
    assert produce_events(events, topic).produced == events.height - already
    assert read_sequences(kafka, topic) == whole


@pytest.mark.faults
def test_a_broker_killed_while_history_is_produced_takes_no_event_twice(tmp_path: Path) -> None:
    """A broker started again forgets producers whose records are old, and with them what it has."""
    events = make_stream(300_000, "x" * 300)
    started = broker.start(tmp_path / "broker")
    at = Cluster(started.bootstrap_servers, 60)
    create_topic(at, "history", PARTITIONS)

    def run() -> ProduceResult:
        return produce(
            events,
            at,
            "history",
            0,
            10**12,
            lock_folder=tmp_path,
            clock=lambda: 0,
            sleep=time.sleep,
        )

    handed = itertools.count(1)

    def kill(_: str) -> None:
        if next(handed) == 75:  # 150,000 handed over, at most 50,000 of them under way
            psutil.Process(started.pid).kill()

    failpoints.on_reached(kill)
    try:
        with pytest.raises(LogUnavailable, match="the topic history"):
            run()
        failpoints.on_reached(None)
        broker.start(tmp_path / "broker")
        assert 0 < record_count(at.servers, "history") < events.height
        run()
        assert read_sequences(at.servers, "history") == sequences_by_partition(events)
    finally:
        failpoints.on_reached(None)
        broker.stop(tmp_path / "broker")


def test_an_interrupted_run_is_gone_on_with(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    events, topic, naps = make_stream(50), new_topic(), iter(range(20))

    def sleep(_: float) -> None:
        time.sleep(0.02)
        if next(naps, None) is None:
            raise KeyboardInterrupt

    now = iter(range(0, 10**9, MINUTE // 4))
    with pytest.raises(KeyboardInterrupt):
        produce_events(events, topic, speed=1.0, clock=lambda: next(now), sleep=sleep)
    found = sum(map(len, read_sequences(kafka, topic).values()))
    assert 0 < found < 50
    told = produce_events(events, topic, speed=1.0, clock=lambda: 10**9)
    assert (told.produced, told.already_present) == (50 - found, found)
    assert read_sequences(kafka, topic) == sequences_by_partition(events)


@given(
    first=st.integers(0, 60),
    cuts=st.lists(st.integers(0, 30), min_size=PARTITIONS, max_size=PARTITIONS),
    end=st.integers(0, 70),
)
def test_what_remains_and_what_stands_are_the_stream_without_overlap(
    first: int, cuts: list[int], end: int
) -> None:
    events = make_stream(60)
    own = sequences_by_partition(events[first:])
    stands = {p: own[p][: cuts[p]] for p in own}
    last = {p: seqs[-1] if seqs else None for p, seqs in stands.items()}
    left = sequences_by_partition(remaining(events, first, last, (end + 1) * MINUTE))
    for p, seqs in own.items():
        assert stands[p] + left[p] == [s for s in seqs if s < end or s in stands[p]]


def test_a_month_of_flights_is_produced_once(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    events, topic = flights.events(), new_topic()
    first_of_february = 1_359_694_800_000  # midnight in New York
    end = first_of_february // MINUTE - 1
    told = produce_events(events, topic, 0, end)
    assert told.produced == events.filter(pl.col("due") < first_of_february).height
    assert produce_events(events, topic, 0, end).produced == 0
    assert read_sequences(kafka, topic) == sequences_by_partition(events[: told.produced])
