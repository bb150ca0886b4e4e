"""Requests to the brokers, which are retried while a broker is not available."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from tidemill.adapters.kafka.client import Cluster, translate_error
from tidemill.polling import retry

TRANSIENT = frozenset(
    {KafkaError._TRANSPORT, KafkaError.REQUEST_TIMED_OUT, KafkaError.NOT_CONTROLLER}
)
_ATTEMPT_TIMEOUT_SECONDS = 5.0
"""Seconds after which a request is retried: the broker it was sent to may be gone."""
RETRYABLE = TRANSIENT | {
    KafkaError._TIMED_OUT,
    KafkaError._NOENT,  # librdkafka's "No leaders found"
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.NETWORK_EXCEPTION,
    # Another broker became the leader, or the same one again.
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.KAFKA_STORAGE_ERROR,
}
T = TypeVar("T")


class TopicExistsError(Exception):
    """There is a topic of this name."""


def retrying(
    client: AdminClient,
    cluster: Cluster,
    action: str,
    request: Callable[[float], T],
    retryable: frozenset[int] = RETRYABLE,
    attempt_timeout: float = _ATTEMPT_TIMEOUT_SECONDS,
) -> T:
    """The result of `request`, which is retried within the time budget on a retryable error.

    `request` is passed the seconds that the attempt may take.
    """
    deadline = time.monotonic() + cluster.timeout

    def can_retry(error: Exception) -> bool:
        return isinstance(error, KafkaException) and error.args[0].code() in retryable

    def before_retry(error: Exception) -> None:
        if error.args[0].code() == KafkaError._TIMED_OUT:
            _refresh_metadata(client)

    try:
        return retry(
            lambda: request(max(0.1, min(attempt_timeout, deadline - time.monotonic()))),
            can_retry,
            cluster.timeout,
            before_retry,
        )
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
            raise TopicExistsError from error
        raise translate_error(error, cluster, action) from error


def _refresh_metadata(client: AdminClient) -> None:
    """Refresh the client's list of brokers; else it would wait for one that is gone."""
    with suppress(KafkaException):
        client.list_topics(timeout=1)
