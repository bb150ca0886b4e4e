"""The ledger's topic on Kafka: one partition, kept for ever, acknowledged by all."""

import time
from typing import Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tidemill.adapters.kafka import topics
from tidemill.adapters.kafka.client import Cluster
from tidemill.adapters.kafka.reader import Reader
from tidemill.core.errors import LedgerLost, LedgerMisconfigured, LogUnavailable, TopicMissing
from tidemill.core.log import OffsetRange, LedgerRecord, Topic

_KEPT = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
_GRACE = 5.0  # seconds for the client to report an append whose time is over


class KafkaLedger:
    """A `LedgerTopic`. What was read stays in memory, and a repeated `read` fetches the rest."""

    def __init__(self, at: Cluster) -> None:
        self._at = at
        self._name = at.ledger_topic
        self._admin = topics.admin(at)
        self._reader = Reader(at, self._extents)
        self._producer: Producer | None = None
        self._topic: Topic | None = None
        self._records: list[LedgerRecord] = []
        self._position = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all connections; the object is of no use afterwards."""
        self._reader.close()
        self._producer = None

    def identity(self) -> tuple[str, str]:
        topic = self._attached()
        return topic.cluster_id, topic.topic_id

    def read(self) -> list[LedgerRecord]:
        """Every record that stands in the topic now, in offset order.

        Raises `LedgerLost` where the topic is gone, is another one, or no longer holds what this
        object has read from it; `LedgerMisconfigured`, `LogUnavailable`.
        """
        self._attached()
        extent = self._extents(self._name)[0]
        held = self._records[0].offset if self._records else self._position
        if extent.last_stable_offset < self._position or (self._records and extent.low_watermark > held):
            raise self._lost(
                f"holds offsets {extent.low_watermark} to {extent.last_stable_offset - 1}, and entries were read from "
                f"it at offsets {held} to {self._position - 1}"
            )
        start = max(self._position, extent.low_watermark)
        for chunk in self._reader.read(self._name, {0: (start, extent.last_stable_offset)}, None):
            pairs = zip(chunk.offsets, chunk.values, strict=True)
            self._records += [LedgerRecord(offset, value or b"") for offset, value in pairs]
            self._position = chunk.offsets[-1] + 1
        self._position = extent.last_stable_offset
        return list(self._records)

    def append(self, model: str, value: bytes) -> int:
        self._attached()
        reports: list[tuple[KafkaError | None, Message]] = []
        producer = self._producer or topics.producer(self._at, {"linger.ms": 0})
        self._producer = None  # taken up again only after a success
        try:
            producer.produce(
                self._name, value, model.encode(), 0, lambda *report: reports.append(report)
            )
            until = time.monotonic() + self._at.timeout + _GRACE
            while not reports and time.monotonic() < until:
                producer.poll(0.1)
        except KafkaException as error:
            raise self._unknown(model, error.args[0].str()) from error
        finally:
            if not reports:
                producer.purge()  # or it would be sent later, behind our back
        failed, message = reports[0] if reports else (None, None)
        if message is None or failed is not None:
            raise self._unknown(model, failed.str() if failed else "no answer")
        self._producer = producer
        return int(message.offset())

    def _attached(self) -> Topic:
        """The topic, which must still be the one it was when this object first saw it."""
        if self._topic is None:
            self._topic = self._attach()
            return self._topic
        try:
            topic_id, _ = topics.identity(self._admin, self._at, self._name)
        except TopicMissing:
            raise self._lost("is gone") from None
        if topic_id != self._topic.topic_id:
            raise self._lost(f"has the id {topic_id} and had {self._topic.topic_id}")
        return self._topic

    def _attach(self) -> Topic:
        """Look at the topic, make it if there is none, and refuse one that may lose entries."""
        try:
            topic = topics.describe(self._admin, self._at, self._name)
        except TopicMissing:
            topics.create_topic(self._at, self._name, 1)
            topic = topics.describe(self._admin, self._at, self._name)
        self._check_settings()
        return topic

    def _check_settings(self) -> None:
        _, partitions = topics.identity(self._admin, self._at, self._name)
        if partitions != [0]:
            raise LedgerMisconfigured(
                f"The ledger's topic {self._name} has {len(partitions)} partitions, so its "
                "entries have no order.",
                "Set TIDEMILL_KAFKA__LEDGER_TOPIC to a topic with one partition; a name that is "
                "free is made so.",
            )
        config = topics.config_of(self._admin, self._at, self._name)
        for setting, wanted in _KEPT.items():
            if config[setting] != wanted:
                raise LedgerMisconfigured(
                    f"The ledger's topic {self._name} has {setting}={config[setting]}, so it may "
                    "lose entries.",
                    f"Set it to {wanted}, such as by `kafka-configs.sh --alter --entity-type "
                    f"topics --entity-name {self._name} --add-config {setting}={wanted}`, then "
                    "look for lost entries by `tidemill verify`.",
                )

    def _extents(self, topic: str) -> dict[int, OffsetRange]:
        return topics.extents(self._admin, self._at, topic)

    def _lost(self, how: str) -> LedgerLost:
        return LedgerLost(
            f"The ledger's topic {self._name} at {self._at.servers} {how}.",
            "Servers go on with the models they have. Bring the entries back by "
            "`tidemill ledger restore`.",
        )

    def _unknown(self, model: str, said: str) -> LogUnavailable:
        return LogUnavailable(
            f"Kafka at {self._at.servers} did not confirm an entry of model {model} in the "
            f"ledger's topic {self._name} within {self._at.timeout:g} s: {said}.",
            "The entry may stand or not. See that the brokers are up, and run it again: it looks "
            "for the entry before it appends.",
        )
