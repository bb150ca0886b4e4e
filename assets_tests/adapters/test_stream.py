"""Producing a stream: each event once and in order, across interruptions."""

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

from adapters.streams import (
    MINUTE,
    PARTITIONS,
    make_stream,
    read_records,
    read_sequences,
    record_count,
    sequences_by_partition,
)
from tidemill import failpoints
from tidemill.adapters.kafka import Cluster, create_topic
from tidemill.core.errors import LogUnavailable
from tidemill.local import broker
from tidemill.simulation import flights
from tidemill.simulation.produce import ProduceResult, produce, remaining

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
    lock_folder=Path(folder), clock=lambda: 0, sleep=time.sleep,
)
"""


def test_every_event_is_in_its_partition_with_its_key_time_and_bytes(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    events, topic = make_stream(100), new_topic()
    result = produce_events(events, topic)
    assert (result.produced, result.already_present) == (100, 0)
    assert (result.not_producible, result.backfilled) == (0, 0)
    for partition, messages in read_records(kafka, topic).items():
        expected = events.filter(pl.col("partition") == partition)
        actual = [
            (message.key().decode(), message.timestamp()[1], message.value().decode())
            for message in messages
        ]
        assert actual == expected.select("key", "timestamp", "value").rows()
        assert result.last_seq[partition] == expected["seq"].max()


def test_producing_again_adds_nothing_and_reports_it(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    events, topic = make_stream(100), new_topic()
    first = produce_events(events, topic)
    second = produce_events(events, topic)
    assert (second.produced, second.already_present) == (0, 100)
    assert second.last_seq == first.last_seq
    assert read_sequences(kafka, topic) == sequences_by_partition(events)


def test_consecutive_ranges_are_one_stream(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    events, topic = make_stream(100), new_topic()
    counts = [
        produce_events(events, topic, start, start + 30).produced for start in (0, 30, 60, 90)
    ]
    assert counts == [30, 30, 30, 10]
    assert read_sequences(kafka, topic) == sequences_by_partition(events)


def test_a_range_before_the_topics_first_event_adds_nothing_and_reports_it(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    events, topic = make_stream(100), new_topic()
    assert produce_events(events, topic, 50, 60).produced == 10
    result = produce_events(events, topic, 20, 40)
    assert (result.produced, result.already_present, result.not_producible) == (0, 0, 20)
    assert read_sequences(kafka, topic) == sequences_by_partition(events[50:60])


def test_a_later_range_leaves_no_gap(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    events, topic = make_stream(100), new_topic()
    produce_events(events, topic, 10, 20)
    result = produce_events(events, topic, 50, 60)
    assert (result.produced, result.backfilled) == (40, 30)
    assert read_sequences(kafka, topic) == sequences_by_partition(events[10:60])


def test_an_empty_partition_starts_at_the_topics_origin(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    events, topic = make_stream(100), new_topic()
    produce_events(events, topic, 10, 11)
    produce_events(events, topic, 60, 70)
    assert read_sequences(kafka, topic) == sequences_by_partition(events[10:70])


def test_a_range_without_events_is_not_an_error(
    new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    result = produce_events(make_stream(10), new_topic(), 500, 600)
    assert (result.produced, result.already_present, result.not_producible) == (0, 0, 0)
    assert set(result.last_seq.values()) == {None}


def test_kill_9_at_any_time_leaves_a_prefix_and_the_next_run_continues(
    kafka: str,
    new_topic: Callable[..., str],
    produce_events: Callable[..., ProduceResult],
    tmp_path: Path,
) -> None:
    events, topic = make_stream(120_000, "x" * 300), new_topic(PARTITIONS)
    expected = sequences_by_partition(events)
    events.write_parquet(tmp_path / "events.parquet")
    generator = random.Random(2013)
    cut_short = 0
    # The first is killed with 80,000 queued, at most 50,000 of them in flight; others at random.
    for fault in ("simulation.queued:kill:41", "", "", ""):
        goal = events.height if fault else record_count(kafka, topic) + generator.randint(1, 25_000)
        command = [sys.executable, "-c", CHILD, kafka, topic, str(tmp_path), fault]
        with subprocess.Popen(command) as child:
            while child.poll() is None and record_count(kafka, topic) < goal:
                time.sleep(0.002)
            child.kill()
        actual = read_sequences(kafka, topic)
        assert all(actual[p] == expected[p][: len(actual[p])] for p in expected)
        cut_short += 0 < sum(map(len, actual.values())) < events.height
    assert cut_short > 0
    already_present = record_count(kafka, topic)
    assert produce_events(events, topic).produced == events.height - already_present
    assert read_sequences(kafka, topic) == expected


@pytest.mark.faults
def test_a_broker_killed_while_history_is_produced_has_no_event_twice(tmp_path: Path) -> None:
    """A restarted broker forgets producers whose records are old, and cannot deduplicate them."""
    events = make_stream(300_000, "x" * 300)
    started = broker.start(tmp_path / "broker")
    cluster = Cluster(started.bootstrap_servers, 60)
    create_topic(cluster, "history", PARTITIONS)

    def run() -> ProduceResult:
        return produce(
            events,
            cluster,
            "history",
            0,
            10**12,
            lock_folder=tmp_path,
            clock=lambda: 0,
            sleep=time.sleep,
        )

    reached = itertools.count(1)

    def kill(_: str) -> None:
        if next(reached) == 75:  # 150,000 queued, at most 50,000 of them in flight
            psutil.Process(started.pid).kill()

    failpoints.on_reached(kill)
    try:
        with pytest.raises(LogUnavailable, match="the topic history"):
            run()
        failpoints.on_reached(None)
        broker.start(tmp_path / "broker")
        assert 0 < record_count(cluster.servers, "history") < events.height
        run()
        assert read_sequences(cluster.servers, "history") == sequences_by_partition(events)
    finally:
        failpoints.on_reached(None)
        broker.stop(tmp_path / "broker")


def test_an_interrupted_run_is_continued(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    events, topic, sleeps = make_stream(50), new_topic(), iter(range(20))

    def sleep(_: float) -> None:
        time.sleep(0.02)
        if next(sleeps, None) is None:
            raise KeyboardInterrupt

    now = iter(range(0, 10**9, MINUTE // 4))
    with pytest.raises(KeyboardInterrupt):
        produce_events(events, topic, speed=1.0, clock=lambda: next(now), sleep=sleep)
    already_present = sum(map(len, read_sequences(kafka, topic).values()))
    assert 0 < already_present < 50
    result = produce_events(events, topic, speed=1.0, clock=lambda: 10**9)
    assert (result.produced, result.already_present) == (50 - already_present, already_present)
    assert read_sequences(kafka, topic) == sequences_by_partition(events)


@given(
    first=st.integers(0, 60),
    cuts=st.lists(st.integers(0, 30), min_size=PARTITIONS, max_size=PARTITIONS),
    end=st.integers(0, 70),
)
def test_present_and_remaining_events_are_the_stream_without_overlap(
    first: int, cuts: list[int], end: int
) -> None:
    events = make_stream(60)
    own = sequences_by_partition(events[first:])
    present = {p: own[p][: cuts[p]] for p in own}
    last = {p: seqs[-1] if seqs else None for p, seqs in present.items()}
    rest = sequences_by_partition(remaining(events, first, last, (end + 1) * MINUTE))
    for p, seqs in own.items():
        assert present[p] + rest[p] == [s for s in seqs if s < end or s in present[p]]


def test_a_month_of_flights_is_produced_once(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    events, topic = flights.events(), new_topic()
    first_of_february = 1_359_694_800_000  # midnight in New York
    end = first_of_february // MINUTE - 1
    result = produce_events(events, topic, 0, end)
    assert result.produced == events.filter(pl.col("due") < first_of_february).height
    assert produce_events(events, topic, 0, end).produced == 0
    assert read_sequences(kafka, topic) == sequences_by_partition(events[: result.produced])
