"""The feed of the ledger's topic: records pushed by the brokers, and periodic topic checks."""

import time
from dataclasses import replace

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from tidemill.adapters.kafka import topics
from tidemill.adapters.kafka.client import STRICT_CONSUMER_CONFIG, Cluster, translate_error
from tidemill.core.errors import LogUnavailable
from tidemill.core.event_log import LedgerPoll, LedgerRecord

TOPIC_CHECK_INTERVAL_SECONDS = 2.0
"""How often the brokers are queried for the topic's id."""
TOPIC_CHECK_TIMEOUT_SECONDS = 2.0
"""How long that query may delay the delivery of records."""

_CONSUMER_CONFIG = {
    **STRICT_CONSUMER_CONFIG,
    "group.id": "tidemill-serving",  # required by librdkafka; nothing is committed to it
    "fetch.wait.max.ms": 500,  # the brokers respond immediately to a new record
}
_TRANSIENT = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT}
_MAX_POLL_RECORDS = 1_000


class KafkaFeed:
    """A `LedgerFeed`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._probe_cluster = replace(cluster, timeout=TOPIC_CHECK_TIMEOUT_SECONDS)
        self._topic_name = cluster.ledger_topic
        self._admin = topics.make_admin_client(cluster)
        self._consumer: Consumer | None = None
        self._topic_id: str | None = None
        self._reset = False
        self._checked_at = float("-inf")
        self._position, self._end_offset = 0, 0

    def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def poll(self, timeout_seconds: float) -> LedgerPoll:
        deadline = time.monotonic() + timeout_seconds
        while True:
            if (
                self._consumer is None
                or time.monotonic() - self._checked_at >= TOPIC_CHECK_INTERVAL_SECONDS
            ):
                self._check_topic()
            records = self._fetch(max(0.0, deadline - time.monotonic()))
            if records or self._reset or time.monotonic() >= deadline:
                break
        reset, self._reset = self._reset, False
        return LedgerPoll(tuple(records), self._lag(), reset)

    def _check_topic(self) -> None:
        """Check that the brokers respond; if the topic has a new id, follow it from its start."""
        try:
            topic_id, _ = topics.identity(self._admin, self._probe_cluster, self._topic_name)
        except LogUnavailable:
            self._checked_at = time.monotonic()
            raise
        if topic_id != self._topic_id:
            self._follow_from_start(topic_id)
        self._checked_at = time.monotonic()

    def _follow_from_start(self, topic_id: str) -> None:
        """Follow the topic from its first record."""
        self.close()
        ranges = topics.offset_ranges(self._admin, self._probe_cluster, self._topic_name)
        self._end_offset = ranges[0].last_stable_offset
        self._consumer = Consumer(self._cluster.client_config(_CONSUMER_CONFIG))
        self._consumer.assign([TopicPartition(self._topic_name, 0, OFFSET_BEGINNING)])
        self._reset = self._topic_id is not None
        self._topic_id, self._position = topic_id, 0

    def _fetch(self, seconds: float) -> list[LedgerRecord]:
        """The available records; waits only for the first one."""
        assert self._consumer is not None
        first = self._consumer.poll(min(seconds, TOPIC_CHECK_INTERVAL_SECONDS))
        if first is None:
            return []
        records = []
        for message in (first, *self._consumer.consume(_MAX_POLL_RECORDS, 0)):
            error = message.error()
            if error is None:
                records.append(LedgerRecord(message.offset(), message.value() or b""))
                self._position = message.offset() + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                self._position = message.offset()
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                self._topic_id = ""  # records were lost: check, and start over
                self._checked_at = float("-inf")
            elif error.code() not in _TRANSIENT:
                raise translate_error(
                    KafkaException(error), self._cluster, f"following topic {self._topic_name}"
                )
        return records

    def _lag(self) -> int:
        """The number of offsets not yet read, as far as the brokers have reported."""
        assert self._consumer is not None
        partition = TopicPartition(self._topic_name, 0)
        _, high_watermark = self._consumer.get_watermark_offsets(partition, cached=True)
        return max(0, max(int(high_watermark), self._end_offset) - self._position)
