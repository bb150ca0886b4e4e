"""Topics: querying the brokers for their current state, and creating new ones."""

from collections.abc import Callable, Mapping, Sequence
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
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec, ResourceType

from tidemill.adapters.kafka.client import Cluster
from tidemill.adapters.kafka.retries import RETRYABLE, TRANSIENT, TopicExistsError, retrying
from tidemill.core.errors import TopicMissing
from tidemill.core.event_log import OffsetRange, Topic
from tidemill.polling import retry

_MAX_TIMESTAMP_MS = 2**63 - 1
_PROBES_PER_BROKER = 4
"""Requests per broker, so that each broker is likely to have received one."""
T = TypeVar("T")


def make_admin_client(cluster: Cluster) -> AdminClient:
    """A client for querying and creating topics."""
    return AdminClient(cluster.client_config())


def make_producer(cluster: Cluster, overrides: Mapping[str, Any] | None = None) -> Producer:
    """An idempotent producer that fails a record after the cluster's time budget."""
    settings = {
        "enable.idempotence": True,
        "acks": "all",
        "message.timeout.ms": round(cluster.timeout * 1000),
        **(overrides or {}),
    }
    return Producer(cluster.client_config(settings))


def create_topic(
    cluster: Cluster, name: str, partitions: int = 4, config: Mapping[str, str] | None = None
) -> bool:
    """Create a topic with unlimited retention if there is none; True if it was created now.

    Its records may have any timestamp, however old or far ahead of the broker's clock.
    Raises `LogUnavailable`.
    """
    settings = {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "message.timestamp.before.max.ms": str(_MAX_TIMESTAMP_MS),
        "message.timestamp.after.max.ms": str(_MAX_TIMESTAMP_MS),
        **(config or {}),
    }
    new = NewTopic(name, num_partitions=partitions, config=settings)
    client = make_admin_client(cluster)

    def request(seconds: float) -> None:
        client.create_topics([new], request_timeout=seconds)[name].result()

    try:
        # Not retried on a timeout: it would be unknown which attempt created the topic.
        retrying(client, cluster, f"creating topic {name}", request, TRANSIENT, cluster.timeout)
    except TopicExistsError:
        return False
    _wait_until_visible(client, cluster, name)
    return True


def _wait_until_visible(client: AdminClient, cluster: Cluster, name: str) -> None:
    """Wait until every broker knows the topic that the controller has created.

    Any broker may answer a request, so with several brokers it is sent several times.
    """
    brokers = retrying(
        client,
        cluster,
        "counting the brokers",
        lambda s: len(client.list_topics(timeout=s).brokers),
    )

    def probe() -> None:
        for _ in range(1 if brokers == 1 else _PROBES_PER_BROKER * brokers):
            identity(client, cluster, name)

    retry(probe, lambda error: isinstance(error, TopicMissing), cluster.timeout)


def topic_config(client: AdminClient, cluster: Cluster, name: str) -> dict[str, str]:
    """A topic's settings, defaults included. Raises `TopicMissing`, `LogUnavailable`."""
    return retrying(
        client,
        cluster,
        f"reading the settings of topic {name}",
        lambda s: _request_config(client, name, s)(),
    )


def _request_config(client: AdminClient, name: str, seconds: float) -> Callable[[], dict[str, str]]:
    """Request a topic's settings; calling the result waits for them."""
    resource = ConfigResource(ResourceType.TOPIC, name)
    future = client.describe_configs([resource], request_timeout=seconds)[resource]
    return lambda: {key: entry.value for key, entry in future.result().items()}


def identity(client: AdminClient, cluster: Cluster, name: str) -> tuple[str, list[int]]:
    """A topic's id and its partitions. Raises `TopicMissing`, `LogUnavailable`."""
    return retrying(
        client, cluster, f"describing topic {name}", lambda s: _request_identity(client, name, s)()
    )


def _request_identity(
    client: AdminClient, name: str, seconds: float
) -> Callable[[], tuple[str, list[int]]]:
    """Request a topic's id and partitions; calling the result waits for them."""
    future = client.describe_topics(TopicCollection([name]), request_timeout=seconds)[name]

    def wait_for_identity() -> tuple[str, list[int]]:
        topic = future.result()
        return str(topic.topic_id), sorted(partition.id for partition in topic.partitions)

    return wait_for_identity


def describe(client: AdminClient, cluster: Cluster, name: str) -> Topic:
    """A topic as its cluster describes it. Raises `TopicMissing`, `LogUnavailable`."""

    def request(seconds: float) -> Topic:
        wait_for_identity = _request_identity(client, name, seconds)  # three concurrent requests
        wait_for_config = _request_config(client, name, seconds)
        cluster_future = client.describe_cluster(request_timeout=seconds)
        topic_id, _ = wait_for_identity()
        compacted = "compact" in wait_for_config()["cleanup.policy"]
        return Topic(name, str(cluster_future.result().cluster_id), topic_id, compacted)

    return retrying(client, cluster, f"describing topic {name}", request)


def offset_ranges(client: AdminClient, cluster: Cluster, name: str) -> dict[int, OffsetRange]:
    """Current offset ranges by partition. Raises `TopicMissing`, `LogUnavailable`."""
    earliest, latest = _offsets(client, cluster, name, [OffsetSpec.earliest(), OffsetSpec.latest()])
    return {p: OffsetRange(earliest[p], latest[p]) for p in sorted(earliest)}


def offsets_for_timestamp(
    client: AdminClient, cluster: Cluster, name: str, timestamp_ms: int
) -> dict[int, int | None]:
    """The first offset with a timestamp at or after this one (ms), or None, by partition."""
    (offsets,) = _offsets(client, cluster, name, [OffsetSpec.for_timestamp(timestamp_ms)])
    return {p: None if offset < 0 else offset for p, offset in offsets.items()}


def _offsets(
    client: AdminClient, cluster: Cluster, name: str, specs: Sequence[OffsetSpec]
) -> list[dict[int, int]]:
    """For each spec the offset by partition, from the partition's current leader."""

    def request(seconds: float) -> list[dict[int, int]]:
        _, partitions = identity(client, cluster, name)  # also refreshes the leaders
        futures = [
            client.list_offsets(
                {TopicPartition(name, p): spec for p in partitions},
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=seconds,
            )
            for spec in specs
        ]
        results = [
            {p.partition: future.result().offset for p, future in by_partition.items()}
            for by_partition in futures
        ]
        if any(OFFSET_INVALID in offsets.values() for offsets in results):
            # From a new leader, librdkafka may return no offset and no error.
            raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
        return results

    # A broker may report a topic as unknown because it has not learned of it yet.
    retryable = RETRYABLE | {KafkaError.UNKNOWN_TOPIC_OR_PART}
    return retrying(client, cluster, f"querying the offsets of topic {name}", request, retryable)
