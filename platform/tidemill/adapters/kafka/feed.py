"""The ledger's topic as a server follows it: pushed by the brokers, looked after now and then."""

import time
from dataclasses import replace

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from tidemill.adapters.kafka import topics
from tidemill.adapters.kafka.client import EXACT, Cluster, named
from tidemill.core.errors import LogUnavailable
from tidemill.core.log import LedgerPoll, LedgerRecord

LOOK_SECONDS = 2.0
"""How often the brokers are asked whether the topic is still the one that is followed."""
LOOK_TIMEOUT = 2.0
"""How long they may take to say so, while records that came wait."""

_FOLLOWER = {
    **EXACT,
    "group.id": "tidemill-serving",  # librdkafka wants one; nothing is committed to it
    "fetch.wait.max.ms": 500,  # the brokers answer at once when a record comes
}
_PASSING = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT}
_AT_ONCE = 1_000


class KafkaFeed:
    """A `LedgerFeed`."""

    def __init__(self, at: Cluster) -> None:
        self._at = at
        self._patient = replace(at, timeout=LOOK_TIMEOUT)
        self._name = at.ledger_topic
        self._admin = topics.admin(at)
        self._consumer: Consumer | None = None
        self._topic_id: str | None = None
        self._anew = False
        self._looked = float("-inf")
        self._position, self._end = 0, 0

    def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def wait(self, seconds: float) -> LedgerPoll:
        until = time.monotonic() + seconds
        while True:
            if self._consumer is None or time.monotonic() - self._looked >= LOOK_SECONDS:
                self._look()
            records = self._poll(max(0.0, until - time.monotonic()))
            if records or self._anew or time.monotonic() >= until:
                break
        anew, self._anew = self._anew, False
        return LedgerPoll(tuple(records), self._behind(), anew)

    def _look(self) -> None:
        """See that the brokers answer and the topic is the same; else begin anew."""
        try:
            topic_id, _ = topics.identity(self._admin, self._patient, self._name)
        except LogUnavailable:
            self._looked = time.monotonic()
            raise
        if topic_id != self._topic_id:
            self._begin(topic_id)
        self._looked = time.monotonic()

    def _begin(self, topic_id: str) -> None:
        """Follow the topic from its first record on."""
        self.close()
        self._end = topics.extents(self._admin, self._patient, self._name)[0].last_stable_offset
        self._consumer = Consumer(self._at.connection(_FOLLOWER))
        self._consumer.assign([TopicPartition(self._name, 0, OFFSET_BEGINNING)])
        self._anew = self._topic_id is not None
        self._topic_id, self._position = topic_id, 0

    def _poll(self, seconds: float) -> list[LedgerRecord]:
        """The records there are, waiting only for the first."""
        assert self._consumer is not None
        first = self._consumer.poll(min(seconds, LOOK_SECONDS))
        if first is None:
            return []
        records = []
        for message in (first, *self._consumer.consume(_AT_ONCE, 0)):
            error = message.error()
            if error is None:
                records.append(LedgerRecord(message.offset(), message.value() or b""))
                self._position = message.offset() + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                self._position = message.offset()
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                self._topic_id = ""  # records were lost: look, and begin anew
                self._looked = float("-inf")
            elif error.code() not in _PASSING:
                raise named(KafkaException(error), self._at, f"following topic {self._name}")
        return records

    def _behind(self) -> int:
        """How many offsets of the topic lie before us, as far as the brokers have said."""
        assert self._consumer is not None
        place = TopicPartition(self._name, 0)
        _, high = self._consumer.get_watermark_offsets(place, cached=True)
        return max(0, max(int(high), self._end) - self._position)
