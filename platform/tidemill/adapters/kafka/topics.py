"""Topics: what the brokers say of them now, and making new ones."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from confluent_kafka import (
    OFFSET_INVALID,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from tidemill.adapters.kafka.client import Cluster, named
from tidemill.core.errors import TopicMissing
from tidemill.core.log import OffsetRange, Topic

_FAR_FUTURE_MS = 2**63 - 1
_PASSING = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NOT_CONTROLLER,
    }
)
_ATTEMPT = 5.0
"""Seconds after which a question is asked anew: whom the client would ask may have gone."""
_AGAIN = _PASSING | {
    KafkaError._TIMED_OUT,
    KafkaError._NOENT,  # librdkafka's "No leaders found"
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.NETWORK_EXCEPTION,
    # Another broker leads, or the same one anew after it was away.
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.KAFKA_STORAGE_ERROR,
}
_ASKS = 4
"""Questions a broker, after which each is likely to have been asked."""
T = TypeVar("T")


def admin(at: Cluster) -> AdminClient:
    """A client that asks about topics."""
    return AdminClient(at.connection())


def producer(at: Cluster, more: Mapping[str, Any] | None = None) -> Producer:
    """A producer that keeps each partition in order and gives up after the time budget."""
    settings = {
        "enable.idempotence": True,
        "acks": "all",
        "message.timeout.ms": round(at.timeout * 1000),
        **(more or {}),
    }
    return Producer(at.connection(settings))


def create_topic(
    at: Cluster, name: str, partitions: int = 4, config: Mapping[str, str] | None = None
) -> bool:
    """Create a topic of events, kept for ever, if there is none; True if it was created now.

    Its records may be stamped at any time: as old as history, or ahead of the broker's clock.
    Raises `LogUnavailable`.
    """
    settings = {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "message.timestamp.before.max.ms": str(_FAR_FUTURE_MS),
        "message.timestamp.after.max.ms": str(_FAR_FUTURE_MS),
        **(config or {}),
    }
    new = NewTopic(name, num_partitions=partitions, config=settings)
    client = admin(at)

    def ask(seconds: float) -> None:
        client.create_topics([new], request_timeout=seconds)[name].result()

    try:
        # Once: after a second time nobody could say whose creation it was.
        _asked(client, at, f"creating topic {name}", ask, _PASSING, at.timeout)
    except _TopicExistsError:
        return False
    _until_known(client, at, name)
    return True


def _until_known(client: AdminClient, at: Cluster, name: str) -> None:
    """Wait for the brokers to have heard of what the controller has created.

    Any of them may answer a question, so where there are several it is put several times.
    """
    until, known = time.monotonic() + at.timeout, 0
    brokers = _asked(
        client, at, "counting the brokers", lambda s: len(client.list_topics(timeout=s).brokers)
    )
    while known < (1 if brokers == 1 else _ASKS * brokers):
        try:
            identity(client, at, name)
            known += 1
        except TopicMissing:
            known = 0
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def config_of(client: AdminClient, at: Cluster, name: str) -> dict[str, str]:
    """A topic's settings, defaults included. Raises `TopicMissing`, `LogUnavailable`."""
    return _asked(
        client, at, f"reading the settings of topic {name}", lambda s: _settings(client, name, s)()
    )


def _settings(client: AdminClient, name: str, seconds: float) -> Callable[[], dict[str, str]]:
    """Ask for a topic's settings; what is returned waits for them."""
    resource = ConfigResource(ResourceType.TOPIC, name)
    told = client.describe_configs([resource], request_timeout=seconds)[resource]
    return lambda: {key: entry.value for key, entry in told.result().items()}


def identity(client: AdminClient, at: Cluster, name: str) -> tuple[str, list[int]]:
    """A topic's id and its partitions. Raises `TopicMissing`, `LogUnavailable`."""
    return _asked(client, at, f"looking at topic {name}", lambda s: _identity(client, name, s)())


def _identity(
    client: AdminClient, name: str, seconds: float
) -> Callable[[], tuple[str, list[int]]]:
    """Ask who a topic is; what is returned waits for the answer."""
    told = client.describe_topics(TopicCollection([name]), request_timeout=seconds)[name]

    def answer() -> tuple[str, list[int]]:
        topic = told.result()
        return str(topic.topic_id), sorted(partition.id for partition in topic.partitions)

    return answer


def describe(client: AdminClient, at: Cluster, name: str) -> Topic:
    """A topic as its cluster describes it. Raises `TopicMissing`, `LogUnavailable`."""

    def ask(seconds: float) -> Topic:
        who = _identity(client, name, seconds)  # three questions, one wait
        settings = _settings(client, name, seconds)
        cluster = client.describe_cluster(request_timeout=seconds)
        topic_id, _ = who()
        compacted = "compact" in settings()["cleanup.policy"]
        return Topic(name, str(cluster.result().cluster_id), topic_id, compacted)

    return _asked(client, at, f"looking at topic {name}", ask)


def extents(client: AdminClient, at: Cluster, name: str) -> dict[int, OffsetRange]:
    """Fresh extents of all partitions. Raises `TopicMissing`, `LogUnavailable`."""
    low, stable = _offsets(client, at, name, [OffsetSpec.earliest(), OffsetSpec.latest()])
    return {p: OffsetRange(low[p], stable[p]) for p in sorted(low)}


def offsets_at(
    client: AdminClient, at: Cluster, name: str, timestamp: int
) -> dict[int, int | None]:
    """The first offset with a timestamp at or after this one; None where there is none."""
    (found,) = _offsets(client, at, name, [OffsetSpec.for_timestamp(timestamp)])
    return {p: None if offset < 0 else offset for p, offset in found.items()}


def _offsets(
    client: AdminClient, at: Cluster, name: str, specs: Sequence[OffsetSpec]
) -> list[dict[int, int]]:
    """For each spec the offset of each partition, from its leader, whoever that comes to be."""

    def ask(seconds: float) -> list[dict[int, int]]:
        _, known = identity(client, at, name)  # which also tells the client who leads now
        asked = [
            client.list_offsets(
                {TopicPartition(name, p): spec for p in known},
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=seconds,
            )
            for spec in specs
        ]
        found = [{at.partition: f.result().offset for at, f in told.items()} for told in asked]
        if any(OFFSET_INVALID in offsets.values() for offsets in found):
            # A leader that has just come to be: librdkafka then gives no offset, and no error.
            raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
        return found

    # That a topic is unknown may be said by a broker that has not heard of it yet.
    passing = _AGAIN | {KafkaError.UNKNOWN_TOPIC_OR_PART}
    return _asked(client, at, f"asking for the offsets of topic {name}", ask, passing)


class _TopicExistsError(Exception):
    """There is a topic of this name."""


def _asked(
    client: AdminClient,
    at: Cluster,
    doing: str,
    ask: Callable[[float], T],
    passing: frozenset[int] = _AGAIN,
    attempt: float = _ATTEMPT,
) -> T:
    """What `ask` tells within the time budget; again if that helps.

    It is given the seconds that this attempt may take.
    """
    until = time.monotonic() + at.timeout
    while True:
        try:
            return ask(max(0.1, min(attempt, until - time.monotonic())))
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.TOPIC_ALREADY_EXISTS:
                raise _TopicExistsError from error
            if code not in passing or time.monotonic() >= until:
                raise named(error, at, doing) from error
            if code == KafkaError._TIMED_OUT:
                _look_around(client)
            time.sleep(0.05)


def _look_around(client: AdminClient) -> None:
    """Let the client hear which brokers there are now; by itself it waits for one that is gone."""
    with suppress(KafkaException):
        client.list_topics(timeout=1)
