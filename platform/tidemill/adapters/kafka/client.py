"""A Kafka cluster: how to reach it, and the translation of its clients' errors."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from tidemill.core.errors import LogUnavailable, TopicMissing

logger = logging.getLogger("tidemill.kafka")
logger.addHandler(logging.NullHandler())  # else the client's messages go to the terminal

STRICT_CONSUMER_CONFIG: Mapping[str, Any] = {
    "enable.auto.commit": False,  # group offsets are never used
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "enable.partition.eof": True,
    "allow.auto.create.topics": False,
    "check.crcs": True,
    "max.poll.interval.ms": 86_400_000,  # the caller may do anything between two reads
    "fetch.error.backoff.ms": 50,
}
"""librdkafka settings of a consumer that reads by offset and must not skip or repeat a record."""

_MISSING_TOPIC_CODES = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
}


@dataclass(frozen=True)
class Cluster:
    """The clients' settings and time budget; `config` may contain secrets, so it has no repr."""

    servers: str
    timeout: float
    """Seconds that Kafka may be unavailable before `LogUnavailable` is raised."""
    ledger_topic: str = "tidemill.ledger"
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def client_config(self, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The librdkafka settings of any client, with these overrides."""
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
    """Ignore it: errors that matter are returned by the client's calls."""


def translate_error(error: KafkaException | KafkaError, cluster: Cluster, action: str) -> Exception:
    """Translate a client's error. `action` is a gerund with its topic: "reading topic x"."""
    cause = error if isinstance(error, KafkaError) else error.args[0]
    if isinstance(cause, KafkaError) and cause.code() in _MISSING_TOPIC_CODES:
        return TopicMissing(
            f"Kafka at {cluster.servers} has no such topic or partition ({action}).",
            "Create the topic, or correct `topic` in defs.yaml.",
        )
    message = cause.str() if isinstance(cause, KafkaError) else str(cause)
    return LogUnavailable(
        f"Kafka at {cluster.servers} did not complete {action} within {cluster.timeout:g} s: "
        f"{message}.",
        "Check that the brokers are up and reachable, and that TIDEMILL_KAFKA__BOOTSTRAP_SERVERS "
        "and the credentials are correct; then run it again.",
    )
