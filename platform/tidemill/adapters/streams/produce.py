"""Produces a stream to its topic, each event once, however often it is interrupted and repeated.

A stream is one deterministic sequence of events: a frame with the columns `seq` (0, 1, …, the row),
`partition`, `key`, `timestamp`, `due` (when an event is told; ascending) and `value`; both times
are milliseconds since 1970, above 0 (to Kafka's client 0 is "now"). Each Kafka partition holds its
own events from the topic's first one on, without a gap, so its last record says where to go on.
"""

import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tidemill.adapters.kafka import Cluster, producer
from tidemill.adapters.streams.ends import BEGUN, SEQ, Begun, Ends, check_alone, read_ends
from tidemill.core.errors import AlreadyRunning, LogUnavailable, OperationNotAllowed
from tidemill.failpoints import failpoint
from tidemill.ports import Clock

_POLL_EVERY = 2_000
_QUEUE = 50_000
_SLICE = 0.1
_LAST_WAIT = 5.0
_PRODUCER = {
    # Together these keep a partition free of gaps: no event is given up while later ones go on.
    # A broker that is away for too long is found by `_drain`.
    "enable.gapless.guarantee": True,
    "message.timeout.ms": 0,
    "linger.ms": 50,
    "compression.type": "lz4",
    "delivery.report.only.error": True,
    "log_level": 3,  # librdkafka warns at each start that the guarantee is young
}


Record = tuple[int, dict[str, Any]]
"""When an event is sent, in ms of the topic's time, and what `Producer.produce` takes."""
Wait = Callable[[int, Producer], None]
"""Returns when this moment (ms) has come, and looks after the producer meanwhile."""


@dataclass(frozen=True)
class Told:
    """What one call of `produce` did.

    Of the events in the range that was asked for, `present` stood in the topic already, and
    `before` lie before the topic's first event, where nothing can be added. `filled` counts those
    of the produced that are due before the range: a stream has no holes. `last` is the `seq` of
    each Kafka partition's last event.
    """

    topic: str
    produced: int
    present: int
    before: int
    filled: int
    last: Mapping[int, int | None]


def produce(
    events: pl.DataFrame,
    at: Cluster,
    topic: str,
    start: int,
    end: int,
    *,
    locks: Path,
    clock: Clock,
    sleep: Callable[[float], None],
    speed: float = 0.0,
    started: int | None = None,
) -> Told:
    """Bring the topic up to the last event that is due in `[start, end)`, ms of the stream's time.

    A missing topic is created, kept for ever, with as many partitions as the stream has. An empty
    one begins with the first event due at or after `start`; any other goes on where it
    stands. With a `speed` above 0 the replay is live: each event waits for its moment on `clock`
    (`sleep` takes seconds), and is sent at once if that has passed. An empty topic's replay has its
    `start` at the moment `started`, by default now. Raises `AlreadyRunning`, `Refused` (the topic
    holds anything else), `OffsetsExpired`, `LogUnavailable`; after any end the same call goes on.
    """
    with _alone(locks, topic):
        ends = read_ends(at, topic, events)
        begun = ends.begun or _begin(events, start, speed, started, clock)
        _check_pace(topic, begun, speed)
        due = remaining(events, begun.first, ends.last, end)
        if due.height:
            _send(at, topic, _records(due, begun), _waiter(clock, sleep) if speed else None)
            check_alone(at, topic, ends, due)
        return _told(topic, events, begun.first, ends, due, start, end)


def remaining(
    events: pl.DataFrame, first: int, last: Mapping[int, int | None], end: int
) -> pl.DataFrame:
    """The events from `first` on, due before `end`, that are not in the topic; in their order."""
    reached = {p: first - 1 if seq is None else seq for p, seq in last.items()}
    stands = pl.col("partition").replace_strict(reached, return_dtype=pl.Int64)
    return events.filter(pl.col("due") < end, pl.col("seq").cast(pl.Int64) > stands)


def _begin(
    events: pl.DataFrame, start: int, speed: float, started: int | None, clock: Clock
) -> Begun:
    first = int((events["due"] < start).sum())
    if speed == 0:
        return Begun(first)
    return Begun(first, start, clock() if started is None else started, speed)


def _check_pace(topic: str, begun: Begun, speed: float) -> None:
    if begun.speed != speed:
        kind = f"a live replay at speed {begun.speed:g}" if begun.speed else "a replay of history"
        raise OperationNotAllowed(
            f"The topic {topic} holds {kind}; going on in another way would mix its clocks.",
            "Ask for the same again, or name another topic with --topic.",
        )


def _told(
    topic: str,
    events: pl.DataFrame,
    first: int,
    ends: Ends,
    sent: pl.DataFrame,
    start: int,
    end: int,
) -> Told:
    asked = events.filter(pl.col("due") >= start, pl.col("due") < end)
    before = asked.filter(pl.col("seq") < first).height
    filled = sent.filter(pl.col("due") < start).height
    present = asked.height - before - (sent.height - filled)
    newest = dict(sent.group_by("partition").agg(pl.col("seq").max()).iter_rows())
    return Told(topic, sent.height, present, before, filled, {**ends.last, **newest})


def _send(at: Cluster, topic: str, records: Iterator[Record], wait: Wait | None) -> None:
    """Send these records in order and return when Kafka has them all. Raises `LogUnavailable`."""
    failures: list[KafkaError] = []
    client = producer(at, {**_PRODUCER, **_callbacks(failures, history=wait is None)})
    try:
        for count, (moment, record) in enumerate(records):
            if wait is not None:
                wait(moment, client)
            elif count % _POLL_EVERY == 0:
                client.poll(0)
                failpoint("stream.handed")
            if len(client) >= _QUEUE:
                _drain(at, topic, client, _QUEUE // 2, failures)
            if failures:
                break
            client.produce(topic, **record)
        _drain(at, topic, client, 0, failures)
    except KafkaException as error:
        failures.append(error.args[0])
    finally:
        # What is on its way may arrive, so wait for it; what is not shall never be sent.
        cause = failures[0] if failures else None
        client.purge(in_queue=True, in_flight=False)
        client.flush(_LAST_WAIT)
    if cause is not None:
        raise _lost(at, topic, cause.str())


def _callbacks(failures: list[KafkaError], history: bool) -> dict[str, Any]:
    """What tells of events that were refused and, for history, of Kafka's going away.

    A broker that starts again has forgotten the producers whose newest record is a day old, so it
    takes what is sent once more for new. History must stop there, and go on from the topic.
    """

    def refused(error: KafkaError, _: Message) -> None:
        failures.append(error)

    def gone(error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            failures.append(error)

    return {"on_delivery": refused, **({"error_cb": gone} if history else {})}


def _records(due: pl.DataFrame, begun: Begun) -> Iterator[Record]:
    header = (BEGUN, msgspec.json.encode(begun))
    columns = due.select("seq", "partition", "key", "timestamp", "due", "value")
    for seq, partition, key, timestamp, moment, value in columns.iter_rows():
        yield (
            begun.at(moment),
            {
                "value": value,
                "key": key,
                "partition": partition,
                "timestamp": begun.at(timestamp),
                "headers": [(SEQ, b"%d" % seq), header],
            },
        )


def _waiter(clock: Clock, sleep: Callable[[float], None]) -> Wait:
    def wait(moment: int, client: Producer) -> None:
        client.poll(0)
        while (left := moment - clock()) > 0:
            sleep(min(left / 1000, 1.0))
            client.poll(0)

    return wait


def _drain(
    at: Cluster, topic: str, client: Producer, until: int, failures: list[KafkaError]
) -> None:
    """Wait until at most this many events are not yet in Kafka, or one has failed.

    Raises `LogUnavailable` where none arrives for the cluster's time budget.
    """
    fewest, patience = len(client), at.timeout
    while fewest > until and not failures:
        left = client.flush(_SLICE)
        patience = at.timeout if left < fewest else patience - _SLICE
        fewest = min(left, fewest)
        if patience <= 0:
            raise _lost(at, topic, f"it took none for {at.timeout:g} s")


def _lost(at: Cluster, topic: str, why: str) -> LogUnavailable:
    return LogUnavailable(
        f"Kafka at {at.servers} did not take all events into the topic {topic}: {why}.",
        "See that the brokers are up, and run the same command again; it goes on where the topic "
        "stands.",
    )


@contextmanager
def _alone(locks: Path, topic: str) -> Iterator[None]:
    """Hold the topic's lock in this folder; a dying process gives it back."""
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / f"stream-{topic}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(
                f"Another process is producing to the topic {topic}.",
                "Wait until it ends, or stop it; what it produced stays.",
            ) from None
        yield
