"""Produces a stream to its topic, each event exactly once across interruptions and reruns.

A stream is one deterministic sequence of events: a frame with the columns `seq` (0, 1, …, the row),
`partition`, `key`, `timestamp`, `due` (when an event is sent; ascending) and `value`; both times
are milliseconds since 1970, above 0 (Kafka's client takes 0 for "now"). Each Kafka partition
contains its own events from the topic's first one, without a gap, so its last record determines
where to continue.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import polars as pl

from tidemill import locks
from tidemill.adapters.kafka import Cluster
from tidemill.core.errors import AlreadyRunning, OperationNotAllowed
from tidemill.ports import Clock
from tidemill.simulation.sending import Record, make_wait, send
from tidemill.simulation.topic_position import (
    ORIGIN_HEADER,
    SEQ_HEADER,
    StreamOrigin,
    TopicPosition,
    assert_single_producer,
    read_topic_position,
)


@dataclass(frozen=True)
class ProduceResult:
    """The result of one call of `produce`.

    Of the events in the requested range, `already_present` were in the topic before, and
    `not_producible` precede the topic's first event, where none can be added. `backfilled` counts
    the produced events that are due before the range, because a stream has no gaps. `last_seq` is
    the `seq` of each Kafka partition's last event.
    """

    topic: str
    produced: int
    already_present: int
    not_producible: int
    backfilled: int
    last_seq: Mapping[int, int | None]


def produce(
    events: pl.DataFrame,
    cluster: Cluster,
    topic: str,
    start: int,
    end: int,
    *,
    lock_folder: Path,
    clock: Clock,
    sleep: Callable[[float], None],
    speed: float = 0.0,
    topic_start_ms: int | None = None,
) -> ProduceResult:
    """Produce to the topic up to the last event due in `[start, end)`, ms of the stream's time.

    A missing topic is created with unlimited retention and the stream's number of partitions. An
    empty one starts with the first event due at or after `start`; any other continues at its
    position. With a `speed` above 0 the simulation is live: each event is sent at its time on
    `clock` (`sleep` takes seconds), or immediately if that has passed; an empty topic maps `start`
    to `topic_start_ms`, by default now. Raises `AlreadyRunning`, `OperationNotAllowed` (the topic
    contains anything else), `OffsetsExpired`, `LogUnavailable`; the same call then continues.
    """
    with _exclusive_lock(lock_folder, topic):
        position = read_topic_position(cluster, topic, events)
        origin = position.origin or _new_origin(events, start, speed, topic_start_ms, clock)
        _check_speed(topic, origin, speed)
        pending = remaining(events, origin.first_seq, position.last_seq, end)
        if pending.height:
            wait = make_wait(clock, sleep) if speed else None
            send(cluster, topic, _records(pending, origin), wait)
            assert_single_producer(cluster, topic, position, pending)
        return _produce_result(topic, events, origin.first_seq, position, pending, start, end)


def remaining(
    events: pl.DataFrame, first_seq: int, last_seq: Mapping[int, int | None], end: int
) -> pl.DataFrame:
    """The events from `first_seq`, due before `end`, that are not in the topic, in order."""
    last_sent = {p: first_seq - 1 if seq is None else seq for p, seq in last_seq.items()}
    last_of_partition = pl.col("partition").replace_strict(last_sent, return_dtype=pl.Int64)
    return events.filter(pl.col("due") < end, pl.col("seq").cast(pl.Int64) > last_of_partition)


def _new_origin(
    events: pl.DataFrame, start: int, speed: float, topic_start_ms: int | None, clock: Clock
) -> StreamOrigin:
    first_seq = int((events["due"] < start).sum())
    if speed == 0:
        return StreamOrigin(first_seq)
    return StreamOrigin(
        first_seq, start, clock() if topic_start_ms is None else topic_start_ms, speed
    )


def _check_speed(topic: str, origin: StreamOrigin, speed: float) -> None:
    if origin.speed != speed:
        kind = f"live simulation at speed {origin.speed:g}" if origin.speed else "simulated history"
        raise OperationNotAllowed(
            f"The topic {topic} contains {kind}; another speed would mix its clocks.",
            "Use the same speed, or name another topic with --topic.",
        )


def _produce_result(
    topic: str,
    events: pl.DataFrame,
    first_seq: int,
    position: TopicPosition,
    sent: pl.DataFrame,
    start: int,
    end: int,
) -> ProduceResult:
    requested = events.filter(pl.col("due") >= start, pl.col("due") < end)
    not_producible = requested.filter(pl.col("seq") < first_seq).height
    backfilled = sent.filter(pl.col("due") < start).height
    already_present = requested.height - not_producible - (sent.height - backfilled)
    newest = dict(sent.group_by("partition").agg(pl.col("seq").max()).iter_rows())
    last_seq = {**position.last_seq, **newest}
    return ProduceResult(topic, sent.height, already_present, not_producible, backfilled, last_seq)


def _records(pending: pl.DataFrame, origin: StreamOrigin) -> Iterator[Record]:
    header = (ORIGIN_HEADER, msgspec.json.encode(origin))
    columns = pending.select("seq", "partition", "key", "timestamp", "due", "value")
    for seq, partition, key, timestamp, due_ms, value in columns.iter_rows():
        yield (
            origin.to_topic_time(due_ms),
            {
                "value": value,
                "key": key,
                "partition": partition,
                "timestamp": origin.to_topic_time(timestamp),
                "headers": [(SEQ_HEADER, b"%d" % seq), header],
            },
        )


def _exclusive_lock(lock_folder: Path, topic: str) -> AbstractContextManager[None]:
    """Hold the topic's lock in this folder. Raises `AlreadyRunning`."""

    def error(holder: str) -> AlreadyRunning:
        return AlreadyRunning(
            f"Another process is producing to the topic {topic}.",
            "Wait until it ends, or stop it; what it has produced is kept.",
        )

    return locks.exclusive_or_raise(lock_folder / f"stream-{topic}.lock", error)
