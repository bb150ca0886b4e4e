"""Sends records to Kafka in order, without a gap in a partition."""

from collections.abc import Callable, Iterator
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tidemill.adapters.kafka import Cluster, make_producer
from tidemill.core.errors import LogUnavailable
from tidemill.failpoints import failpoint
from tidemill.ports import Clock

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


def make_wait(clock: Clock, sleep: Callable[[float], None]) -> Wait:
    """A wait until `clock` (ms) reaches the time; `sleep` takes seconds."""

    def wait(timestamp_ms: int, client: Producer) -> None:
        client.poll(0)
        while (remaining_ms := timestamp_ms - clock()) > 0:
            sleep(min(remaining_ms / 1000, 1.0))
            client.poll(0)

    return wait


def send(cluster: Cluster, topic: str, records: Iterator[Record], wait: Wait | None) -> None:
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
