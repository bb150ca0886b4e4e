"""Hands on a ledger: a reader of Kafka's own, deployers at once, topics with other records."""

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from bench import Bench
from commands import until
from tidemill import bootstrap
from tidemill.core.errors import LogUnavailable, OperationNotAllowed
from tidemill.core.ledger import Chain, Entry
from tidemill.core.log import LedgerRecord
from tidemill.cycle.deploy import append_entry
from tidemill.cycle.mill import ModelContext
from tidemill.ports import LedgerTopic
from tidemill.settings import Settings

EACH = 5
"""How many entries `append_each` appends."""


def records(bench: Bench, topic: str | None = None) -> list[LedgerRecord]:
    """Every record of a ledger topic, read by a consumer of Kafka's own client."""
    group = {"group.id": uuid.uuid4().hex, "enable.auto.commit": False}
    reader = Consumer({"bootstrap.servers": bench.servers, **group})
    at = TopicPartition(topic or bench.ledger, 0, 0)
    low, end = reader.get_watermark_offsets(at, timeout=10)
    reader.assign([TopicPartition(at.topic, 0, low)])
    found: list[LedgerRecord] = []
    while len(found) < end - low:
        for message in reader.consume(end - low - len(found), timeout=0.5):
            assert message.error() is None
            found.append(LedgerRecord(message.offset(), message.value()))
    reader.close()
    return found


def lose(bench: Bench) -> None:
    """Delete the ledger's topic; whoever looks next makes an empty one of the same name."""
    admin = AdminClient({"bootstrap.servers": bench.servers})
    admin.delete_topics([bench.ledger])[bench.ledger].result()
    until(lambda: bench.ledger not in admin.list_topics().topics)


def cut(bench: Bench, before: int) -> None:
    """Delete the records of the ledger's topic below an offset."""
    admin = AdminClient({"bootstrap.servers": bench.servers})
    for done in admin.delete_records([TopicPartition(bench.ledger, 0, before)]).values():
        done.result()


def configure(bench: Bench, setting: str, value: str, topic: str | None = None) -> None:
    """Set a setting of the ledger's topic, or of another."""
    admin = AdminClient({"bootstrap.servers": bench.servers})
    told = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
    asked = [told]
    found = ConfigResource(ResourceType.TOPIC, topic or bench.ledger, incremental_configs=asked)
    for done in admin.incremental_alter_configs([found]).values():
        done.result()


def over(bench: Bench, ledger: str) -> Settings:
    """The bench's settings with another ledger topic."""
    kafka = bench.settings.kafka.model_copy(update={"ledger_topic": ledger})
    return bench.settings.model_copy(update={"kafka": kafka})


@contextmanager
def another_ledger(bench: Bench, values: Sequence[bytes]) -> Iterator[ModelContext]:
    """The bench's mill over a new ledger topic that holds these records."""
    name = f"{bench.ledger}.{uuid.uuid4().hex[:8]}"
    with bootstrap.open_model(bench.model, over(bench, name)) as mill:
        mill.ledger.identity()  # makes the topic
        producer = Producer({"bootstrap.servers": bench.servers, "linger.ms": 0})
        for value in values:
            producer.produce(name, value, bench.model.encode(), 0)
        assert producer.flush(30) == 0
        yield mill


def append_each(environment: dict[str, str], model: str, ledger: str, by: str, go: str) -> None:
    """In a process of its own: append `EACH` entries of a person's, from when the file `go` is."""
    os.environ.update(environment | {"TIDEMILL_KAFKA__LEDGER_TOPIC": ledger})
    with bootstrap.open_model(model, Settings(), by=by) as mill:
        digest = mill.chain().entries[0].entry.digest
        while not Path(go).exists():
            time.sleep(0.001)
        for number in range(EACH):
            _append_once(mill, digest, by, f"{by} {number}")


def _append_once(mill: ModelContext, digest: str, by: str, why: str) -> None:
    while True:
        try:
            append_entry(mill, lambda chain: persons_entry(chain, digest, by, why))
            return
        except OperationNotAllowed:  # the others were faster many times: its remedy is to ask again
            continue


def persons_entry(chain: Chain, digest: str, by: str, why: str) -> Entry:
    """The entry by which a person puts this model into service, behind this chain."""
    seq, prev = chain.next_position
    return Entry(
        model=chain.model,
        seq=seq,
        kind="approve",
        digest=digest,
        as_of=None,
        as_of_ms=None,
        verdict=None,
        evidence=None,
        actor=by,
        reason=why,
        prev=prev,
    )


@dataclass
class Together:
    """A ledger topic whose first append waits until the other deployers have decided, too."""

    real: LedgerTopic
    all_decided: Barrier
    waited: bool = False

    def identity(self) -> tuple[str, str]:
        return self.real.identity()

    def read(self) -> list[LedgerRecord]:
        return self.real.read()

    def append(self, model: str, value: bytes) -> int:
        if not self.waited:
            self.waited = True
            self.all_decided.wait(30)
        return self.real.append(model, value)


@dataclass
class Unsure:
    """A ledger topic whose first append ends without an answer: it was made (`stands`) or not.

    With `silent`, nothing that comes after it is answered either. `lost` are its bytes.
    """

    real: LedgerTopic
    stands: bool
    silent: bool = False
    appended: int = 0
    lost: bytes | None = None

    def identity(self) -> tuple[str, str]:
        return self.real.identity()

    def read(self) -> list[LedgerRecord]:
        if self.silent and self.lost is not None:
            raise LogUnavailable("Kafka does not answer.", "Run it again.")
        return self.real.read()

    def append(self, model: str, value: bytes) -> int:
        self.appended += 1
        if self.lost is not None:
            return self.real.append(model, value)
        self.lost = value
        if self.stands:
            self.real.append(model, value)
        raise LogUnavailable("The acknowledgement is lost.", "Run it again.")
