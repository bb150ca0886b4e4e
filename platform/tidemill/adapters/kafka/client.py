"""A Kafka cluster: how to reach it, and what its clients' errors mean."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from tidemill.core.errors import LogUnavailable, TopicMissing

logger = logging.getLogger("tidemill.kafka")
logger.addHandler(logging.NullHandler())  # else the client's chatter goes to the terminal

EXACT: Mapping[str, Any] = {
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

_MISSING = {
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

    def connection(self, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """librdkafka's settings of any client, with these over them."""
        return {
            "bootstrap.servers": self.servers,
            "logger": logger,
            "error_cb": _quiet,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1000,
            **self.config,
            **(more or {}),
        }


def _quiet(_: KafkaError) -> None:
    """What matters of the client's errors comes back from its calls."""


def named(error: KafkaException | KafkaError, at: Cluster, doing: str) -> Exception:
    """The named fault of a client's error. `doing` is a gerund: what was tried, on which topic."""
    cause = error if isinstance(error, KafkaError) else error.args[0]
    if isinstance(cause, KafkaError) and cause.code() in _MISSING:
        return TopicMissing(
            f"Kafka at {at.servers} has no such topic or partition ({doing}).",
            "Create the topic, or correct `topic` in defs.yaml.",
        )
    said = cause.str() if isinstance(cause, KafkaError) else str(cause)
    return LogUnavailable(
        f"Kafka at {at.servers} did not do it within {at.timeout:g} s ({doing}): {said}.",
        "See that the brokers are up and reachable, and that TIDEMILL_KAFKA__BOOTSTRAP_SERVERS "
        "and the credentials are right; then run it again.",
    )
