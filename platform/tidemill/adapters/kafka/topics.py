"""Topics: what the brokers say of them now, and making new ones."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from confluent_kafka import (
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
from tidemill.core.log import Extent, Topic

_FAR_FUTURE_MS = 2**63 - 1
_PASSING = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NOT_CONTROLLER,
    }
)
_LEADER_MOVES = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,  # known to one broker and not yet to another
    }
)
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
        _asked(at, f"creating topic {name}", ask)
    except _TopicExistsError:
        return False
    _until_known(client, at, name)
    return True


def _until_known(client: AdminClient, at: Cluster, name: str) -> None:
    """Wait for the brokers that answer to have heard of what the controller has created."""
    until = time.monotonic() + at.timeout
    while True:
        try:
            identity(client, at, name)
        except TopicMissing:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


def config_of(client: AdminClient, at: Cluster, name: str) -> dict[str, str]:
    """A topic's settings, defaults included. Raises `TopicMissing`, `LogUnavailable`."""
    resource = ConfigResource(ResourceType.TOPIC, name)

    def ask(seconds: float) -> dict[str, str]:
        told = client.describe_configs([resource], request_timeout=seconds)[resource].result()
        return {key: entry.value for key, entry in told.items()}

    return _asked(at, f"reading the settings of topic {name}", ask)


def identity(client: AdminClient, at: Cluster, name: str) -> tuple[str, list[int]]:
    """A topic's id and its partitions. Raises `TopicMissing`, `LogUnavailable`."""

    def ask(seconds: float) -> tuple[str, list[int]]:
        told = client.describe_topics(TopicCollection([name]), request_timeout=seconds)
        topic = told[name].result()
        return str(topic.topic_id), sorted(partition.id for partition in topic.partitions)

    return _asked(at, f"looking at topic {name}", ask)


def describe(client: AdminClient, at: Cluster, name: str) -> Topic:
    """A topic as its cluster describes it. Raises `TopicMissing`, `LogUnavailable`."""
    topic_id, _ = identity(client, at, name)
    policy = config_of(client, at, name)["cleanup.policy"]

    def ask(seconds: float) -> str:
        return str(client.describe_cluster(request_timeout=seconds).result().cluster_id)

    cluster_id = _asked(at, "asking for the cluster's id", ask)
    return Topic(name, cluster_id, topic_id, compacted="compact" in policy)


def extents(client: AdminClient, at: Cluster, name: str) -> dict[int, Extent]:
    """Fresh extents of all partitions. Raises `TopicMissing`, `LogUnavailable`."""
    low = _offsets(client, at, name, OffsetSpec.earliest())
    stable = _offsets(client, at, name, OffsetSpec.latest())
    return {p: Extent(low[p], stable[p]) for p in sorted(low.keys() & stable.keys())}


def offsets_at(
    client: AdminClient, at: Cluster, name: str, timestamp: int
) -> dict[int, int | None]:
    """The first offset with a timestamp at or after this one; None where there is none."""
    found = _offsets(client, at, name, OffsetSpec.for_timestamp(timestamp))
    return {p: None if offset < 0 else offset for p, offset in found.items()}


def _offsets(client: AdminClient, at: Cluster, name: str, spec: OffsetSpec) -> dict[int, int]:
    """The offset asked for of each partition, from its leader, whoever that comes to be."""

    def ask(seconds: float) -> dict[int, int]:
        _, partitions = identity(client, at, name)
        futures = client.list_offsets(
            {TopicPartition(name, p): spec for p in partitions},
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=seconds,
        )
        return {asked.partition: future.result().offset for asked, future in futures.items()}

    return _asked(at, f"asking for the offsets of topic {name}", ask, _PASSING | _LEADER_MOVES)


class _TopicExistsError(Exception):
    """There is a topic of this name."""


def _asked(
    at: Cluster, doing: str, ask: Callable[[float], T], passing: frozenset[int] = _PASSING
) -> T:
    """What `ask` tells within the time budget, whose seconds it is given; again if that helps."""
    until = time.monotonic() + at.timeout
    while True:
        try:
            return ask(max(0.1, until - time.monotonic()))
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                raise _TopicExistsError from error
            if error.args[0].code() not in passing or time.monotonic() >= until:
                raise named(error, at, doing) from error
            time.sleep(0.05)
