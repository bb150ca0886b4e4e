"""A Kafka cluster: how to reach it, and what its clients' errors mean."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from tidemill.core.errors import LogUnavailable, TopicMissing

logger = logging.getLogger("tidemill.kafka")
logger.addHandler(logging.NullHandler())  # else the client's chatter goes to the terminal

STRICT_CONSUMER_CONFIG: Mapping[str, Any] = {
    "enable.auto.commit": False,  # group offsets are never the truth
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "enable.partition.eof": True,
    "allow.auto.create.topics": False,
    "check.crcs": True,
    "max.poll.interval.ms": 86_400_000,  # between two reads lies whatever the caller does
    "fetch.error.backoff.ms": 50,
}
"""librdkafka's settings of whoever reads by offset, and must neither skip nor invent a record."""

_MISSING_TOPIC_CODES = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
}


@dataclass(frozen=True)
class Cluster:
    """The clients' settings (they may hold secrets, so they are never shown) and time budget."""

    servers: str
    timeout: float
    """Seconds that Kafka may be away before `LogUnavailable`."""
    ledger_topic: str = "tidemill.ledger"
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def client_config(self, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """librdkafka's settings of any client, with these over them."""
        return {
            "bootstrap.servers": self.servers,
            "logger": logger,
            "error_cb": _ignore_error,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1000,
            **self.config,
            **(overrides or {}),
        }


def _ignore_error(_: KafkaError) -> None:
    """What matters of the client's errors comes back from its calls."""


def translate_error(error: KafkaException | KafkaError, cluster: Cluster, action: str) -> Exception:
    """The named fault of a client's error. `doing` is a gerund: what was tried, on which topic."""
    cause = error if isinstance(error, KafkaError) else error.args[0]
    if isinstance(cause, KafkaError) and cause.code() in _MISSING_TOPIC_CODES:
        return TopicMissing(
            f"Kafka at {cluster.servers} has no such topic or partition ({action}).",
            "Create the topic, or correct `topic` in defs.yaml.",
        )
    message = cause.str() if isinstance(cause, KafkaError) else str(cause)
    return LogUnavailable(
        f"Kafka at {cluster.servers} did not do it within {cluster.timeout:g} s ({action}): {message}.",
        "See that the brokers are up and reachable, and that TIDEMILL_KAFKA__BOOTSTRAP_SERVERS "
        "and the credentials are right; then run it again.",
    )
