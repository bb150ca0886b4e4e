"""The ledger's topic on Kafka: one partition, unlimited retention, `acks=all`."""

import time
from typing import Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tidemill.adapters.kafka import topics
from tidemill.adapters.kafka.client import Cluster
from tidemill.adapters.kafka.reader import Reader
from tidemill.core.errors import LedgerLost, LedgerMisconfigured, LogUnavailable, TopicMissing
from tidemill.core.event_log import LedgerRecord, OffsetRange, Topic

_REQUIRED_CONFIG = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
_DELIVERY_REPORT_GRACE_SECONDS = 5.0  # for the client to report an append that timed out


class KafkaLedger:
    """A `LedgerTopic`. Records are cached, so a repeated `read` fetches only the new ones."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._topic_name = cluster.ledger_topic
        self._admin = topics.make_admin_client(cluster)
        self._reader = Reader(cluster, self._offset_ranges)
        self._producer: Producer | None = None
        self._topic: Topic | None = None
        self._records: list[LedgerRecord] = []
        self._position = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; the object cannot be used afterwards."""
        self._reader.close()
        self._producer = None

    def identity(self) -> tuple[str, str]:
        topic = self._verified_topic()
        return topic.cluster_id, topic.topic_id

    def read(self) -> list[LedgerRecord]:
        """Every record of the topic, in offset order.

        Raises `LedgerLost` if the topic is missing, was recreated, or no longer holds records that
        this object has read; `LedgerMisconfigured`, `LogUnavailable`.
        """
        self._verified_topic()
        available = self._offset_ranges(self._topic_name)[0]
        first_offset = self._records[0].offset if self._records else self._position
        if available.last_stable_offset < self._position or (
            self._records and available.low_watermark > first_offset
        ):
            raise self._ledger_lost(
                f"holds offsets {available.low_watermark} to {available.last_stable_offset - 1}, "
                f"but entries were read from it at offsets {first_offset} to {self._position - 1}"
            )
        start = max(self._position, available.low_watermark)
        unread = {0: (start, available.last_stable_offset)}
        for batch in self._reader.read(self._topic_name, unread, None):
            pairs = zip(batch.offsets, batch.values, strict=True)
            self._records += [LedgerRecord(offset, value or b"") for offset, value in pairs]
            self._position = batch.offsets[-1] + 1
        self._position = available.last_stable_offset
        return list(self._records)

    def append(self, model: str, value: bytes) -> int:
        self._verified_topic()
        reports: list[tuple[KafkaError | None, Message]] = []
        producer = self._producer or topics.make_producer(self._cluster, {"linger.ms": 0})
        self._producer = None  # reused only after a success
        try:
            producer.produce(
                self._topic_name, value, model.encode(), 0, lambda *report: reports.append(report)
            )
            deadline = time.monotonic() + self._cluster.timeout + _DELIVERY_REPORT_GRACE_SECONDS
            while not reports and time.monotonic() < deadline:
                producer.poll(0.1)
        except KafkaException as error:
            raise self._outcome_unknown(model, error.args[0].str()) from error
        finally:
            if not reports:
                producer.purge()  # or it would still be sent later
        delivery_error, message = reports[0] if reports else (None, None)
        if message is None or delivery_error is not None:
            detail = delivery_error.str() if delivery_error else "no answer"
            raise self._outcome_unknown(model, detail)
        self._producer = producer
        return int(message.offset())

    def _verified_topic(self) -> Topic:
        """The topic, which must still have the id that this object first saw."""
        if self._topic is None:
            self._topic = self._get_or_create_topic()
            return self._topic
        try:
            topic_id, _ = topics.identity(self._admin, self._cluster, self._topic_name)
        except TopicMissing:
            raise self._ledger_lost("is missing") from None
        if topic_id != self._topic.topic_id:
            raise self._ledger_lost(f"has the id {topic_id}, but had {self._topic.topic_id}")
        return self._topic

    def _get_or_create_topic(self) -> Topic:
        """Return the topic, created if missing; reject one that may lose entries."""
        try:
            topic = topics.describe(self._admin, self._cluster, self._topic_name)
        except TopicMissing:
            topics.create_topic(self._cluster, self._topic_name, 1)
            topic = topics.describe(self._admin, self._cluster, self._topic_name)
        self._check_config()
        return topic

    def _check_config(self) -> None:
        _, partitions = topics.identity(self._admin, self._cluster, self._topic_name)
        if partitions != [0]:
            raise LedgerMisconfigured(
                f"The ledger's topic {self._topic_name} has {len(partitions)} partitions, so its "
                "entries have no order.",
                "Set TIDEMILL_KAFKA__LEDGER_TOPIC to a topic with one partition, or to an unused "
                "name, which is then created.",
            )
        config = topics.topic_config(self._admin, self._cluster, self._topic_name)
        for setting, required in _REQUIRED_CONFIG.items():
            if config[setting] != required:
                raise LedgerMisconfigured(
                    f"The ledger's topic {self._topic_name} has {setting}={config[setting]}, so "
                    "it may lose entries.",
                    f"Set it to {required}, for example with `kafka-configs.sh --alter "
                    f"--entity-type topics --entity-name {self._topic_name} --add-config "
                    f"{setting}={required}`, then check for lost entries with `tidemill verify`.",
                )

    def _offset_ranges(self, topic: str) -> dict[int, OffsetRange]:
        return topics.offset_ranges(self._admin, self._cluster, topic)

    def _ledger_lost(self, detail: str) -> LedgerLost:
        return LedgerLost(
            f"The ledger's topic {self._topic_name} at {self._cluster.servers} {detail}.",
            "Servers keep serving their models. Restore the entries with "
            "`tidemill ledger restore`.",
        )

    def _outcome_unknown(self, model: str, detail: str) -> LogUnavailable:
        return LogUnavailable(
            f"Kafka at {self._cluster.servers} did not confirm an entry of model {model} in the "
            f"ledger's topic {self._topic_name} within {self._cluster.timeout:g} s: {detail}.",
            "The entry may or may not have been appended. Check that the brokers are up, and run "
            "it again: it looks for the entry before it appends.",
        )
