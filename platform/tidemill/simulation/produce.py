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
from typing import Any

import msgspec
import polars as pl
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tidemill import locks
from tidemill.adapters.kafka import Cluster, make_producer
from tidemill.core.errors import AlreadyRunning, LogUnavailable, OperationNotAllowed
from tidemill.failpoints import failpoint
from tidemill.ports import Clock
from tidemill.simulation.topic_position import (
    ORIGIN_HEADER,
    SEQ_HEADER,
    StreamOrigin,
    TopicPosition,
    assert_single_producer,
    read_topic_position,
)

_POLL_EVERY_RECORDS = 2_000
_MAX_QUEUED_RECORDS = 50_000
_FLUSH_INTERVAL_SECONDS = 0.1
_FINAL_FLUSH_SECONDS = 5.0
_PRODUCER_CONFIG = {
    # Together these keep a partition free of gaps: no event is dropped while later ones are sent.
    # `_drain` detects a broker that is unavailable for too long.
    "enable.gapless.guarantee": True,
    "message.timeout.ms": 0,
    "linger.ms": 50,
    "compression.type": "lz4",
    "delivery.report.only.error": True,
    "log_level": 3,  # else librdkafka warns at each start that this guarantee is experimental
}


Record = tuple[int, dict[str, Any]]
"""When an event is sent, in ms of the topic's time, and the arguments of `Producer.produce`."""
Wait = Callable[[int, Producer], None]
"""Waits until this time (ms) and polls the producer meanwhile."""


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
            wait = _make_wait(clock, sleep) if speed else None
            _send(cluster, topic, _records(pending, origin), wait)
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


def _send(cluster: Cluster, topic: str, records: Iterator[Record], wait: Wait | None) -> None:
    """Send these records in order; return when Kafka has all of them. Raises `LogUnavailable`."""
    failures: list[KafkaError] = []
    client = make_producer(
        cluster, {**_PRODUCER_CONFIG, **_callbacks(failures, history=wait is None)}
    )
    try:
        for count, (send_at, record) in enumerate(records):
            if wait is not None:
                wait(send_at, client)
            elif count % _POLL_EVERY_RECORDS == 0:
                client.poll(0)
                failpoint("simulation.queued")
            if len(client) >= _MAX_QUEUED_RECORDS:
                _drain(cluster, topic, client, _MAX_QUEUED_RECORDS // 2, failures)
            if failures:
                break
            client.produce(topic, **record)
        _drain(cluster, topic, client, 0, failures)
    except KafkaException as error:
        failures.append(error.args[0])
    finally:
        # Wait for records in flight, which may arrive; drop the others so they are never sent.
        cause = failures[0] if failures else None
        client.purge(in_queue=True, in_flight=False)
        client.flush(_FINAL_FLUSH_SECONDS)
    if cause is not None:
        raise _send_failed(cluster, topic, cause.str())


def _callbacks(failures: list[KafkaError], history: bool) -> dict[str, Any]:
    """The callbacks that record rejected events and, for history, an unavailable Kafka.

    A restarted broker has forgotten producers whose newest record is a day old, so it accepts their
    retried events as new ones. History must stop then, and continue from the topic's position.
    """

    def on_delivery(error: KafkaError, _: Message) -> None:
        failures.append(error)

    def on_error(error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            failures.append(error)

    return {"on_delivery": on_delivery, **({"error_cb": on_error} if history else {})}


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


def _make_wait(clock: Clock, sleep: Callable[[float], None]) -> Wait:
    def wait(timestamp_ms: int, client: Producer) -> None:
        client.poll(0)
        while (remaining_ms := timestamp_ms - clock()) > 0:
            sleep(min(remaining_ms / 1000, 1.0))
            client.poll(0)

    return wait


def _drain(
    cluster: Cluster, topic: str, client: Producer, max_queued: int, failures: list[KafkaError]
) -> None:
    """Wait until at most this many events are not yet in Kafka, or one has failed.

    Raises `LogUnavailable` if none arrives within the cluster's time budget.
    """
    fewest, time_left = len(client), cluster.timeout
    while fewest > max_queued and not failures:
        queued = client.flush(_FLUSH_INTERVAL_SECONDS)
        time_left = cluster.timeout if queued < fewest else time_left - _FLUSH_INTERVAL_SECONDS
        fewest = min(queued, fewest)
        if time_left <= 0:
            raise _send_failed(cluster, topic, f"it accepted none for {cluster.timeout:g} s")


def _send_failed(cluster: Cluster, topic: str, reason: str) -> LogUnavailable:
    return LogUnavailable(
        f"Kafka at {cluster.servers} did not accept all events for the topic {topic}: {reason}.",
        "Check that the brokers are up, and run the same command again; it continues at the "
        "topic's position.",
    )


def _exclusive_lock(lock_folder: Path, topic: str) -> AbstractContextManager[None]:
    """Hold the topic's lock in this folder. Raises `AlreadyRunning`."""

    def error(holder: str) -> AlreadyRunning:
        return AlreadyRunning(
            f"Another process is producing to the topic {topic}.",
            "Wait until it ends, or stop it; what it has produced is kept.",
        )

    return locks.exclusive_or_raise(lock_folder / f"stream-{topic}.lock", error)
