"""Tools for ledgers: a plain Kafka reader, concurrent deployers, topics with given records."""

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

from support.models.harness import ModelHarness
from support.processes.commands import wait_until
from tidemill import bootstrap
from tidemill.core.errors import LogUnavailable, OperationNotAllowed
from tidemill.core.event_log import LedgerRecord
from tidemill.core.ledger import Chain, Entry
from tidemill.cycle.context import ModelContext
from tidemill.cycle.ledger import append_entry
from tidemill.ports import LedgerTopic
from tidemill.settings import Settings

ENTRIES_PER_WRITER = 5
"""The number of entries that `append_entries` appends."""


def ledger_records(harness: ModelHarness, topic: str | None = None) -> list[LedgerRecord]:
    """Every record of a ledger topic, read with a plain Kafka consumer."""
    group = {"group.id": uuid.uuid4().hex, "enable.auto.commit": False}
    reader = Consumer({"bootstrap.servers": harness.bootstrap_servers, **group})
    partition = TopicPartition(topic or harness.ledger, 0, 0)
    low, end = reader.get_watermark_offsets(partition, timeout=10)
    reader.assign([TopicPartition(partition.topic, 0, low)])
    result: list[LedgerRecord] = []
    while len(result) < end - low:
        for message in reader.consume(end - low - len(result), timeout=0.5):
            assert message.error() is None
            result.append(LedgerRecord(message.offset(), message.value()))
    reader.close()
    return result


def delete_ledger_topic(harness: ModelHarness) -> None:
    """Delete the ledger's topic; the next access creates an empty one with the same name."""
    admin = AdminClient({"bootstrap.servers": harness.bootstrap_servers})
    admin.delete_topics([harness.ledger])[harness.ledger].result()
    wait_until(lambda: harness.ledger not in admin.list_topics().topics)


def delete_records_before(harness: ModelHarness, offset: int) -> None:
    """Delete the records of the ledger's topic below an offset; -1 deletes all."""
    admin = AdminClient({"bootstrap.servers": harness.bootstrap_servers})
    for future in admin.delete_records([TopicPartition(harness.ledger, 0, offset)]).values():
        future.result()


def set_topic_config(
    harness: ModelHarness, setting: str, value: str, topic: str | None = None
) -> None:
    """Change a setting of the ledger's topic, or of another topic."""
    admin = AdminClient({"bootstrap.servers": harness.bootstrap_servers})
    entry = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
    changes = [entry]
    resource = ConfigResource(
        ResourceType.TOPIC, topic or harness.ledger, incremental_configs=changes
    )
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()


def settings_with_ledger(harness: ModelHarness, ledger: str) -> Settings:
    """The harness's settings with another ledger topic."""
    kafka = harness.settings.kafka.model_copy(update={"ledger_topic": ledger})
    return harness.settings.model_copy(update={"kafka": kafka})


@contextmanager
def open_new_ledger(harness: ModelHarness, values: Sequence[bytes]) -> Iterator[ModelContext]:
    """The harness's context on a new ledger topic with these records."""
    name = f"{harness.ledger}.{uuid.uuid4().hex[:8]}"
    with bootstrap.open_model(harness.load_spec(), settings_with_ledger(harness, name)) as ctx:
        ctx.ledger.identity()  # creates the topic
        producer = Producer({"bootstrap.servers": harness.bootstrap_servers, "linger.ms": 0})
        for value in values:
            producer.produce(name, value, harness.model.encode(), 0)
        assert producer.flush(30) == 0
        yield ctx


def append_entries(
    env: dict[str, str], model: str, ledger: str, actor: str, start_file: str
) -> None:
    """Append `ENTRIES_PER_WRITER` manual entries once `start_file` exists; for another process."""
    os.environ.update(env | {"TIDEMILL_KAFKA__LEDGER_TOPIC": ledger})
    settings = Settings()
    with bootstrap.open_model(bootstrap.load_spec(model, settings), settings, actor=actor) as ctx:
        digest = ctx.chain().entries[0].entry.digest
        while not Path(start_file).exists():
            time.sleep(0.001)
        for number in range(ENTRIES_PER_WRITER):
            _append_once(ctx, digest, actor, f"{actor} {number}")


def _append_once(ctx: ModelContext, digest: str, actor: str, reason: str) -> None:
    while True:
        try:
            append_entry(ctx, lambda chain: manual_entry(chain, digest, actor, reason))
            return
        except OperationNotAllowed:  # the other writers won too often; the remedy is to retry
            continue


def manual_entry(chain: Chain, digest: str, actor: str, reason: str) -> Entry:
    """The next entry of this chain, by which an operator deploys this model."""
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
        actor=actor,
        reason=reason,
        prev=prev,
    )


@dataclass
class BarrierLedger:
    """A ledger topic whose first append waits until the other deployers have decided, too."""

    real: LedgerTopic
    barrier: Barrier
    has_waited: bool = False

    def identity(self) -> tuple[str, str]:
        return self.real.identity()

    def read(self) -> list[LedgerRecord]:
        return self.real.read()

    def append(self, model: str, value: bytes) -> int:
        if not self.has_waited:
            self.has_waited = True
            self.barrier.wait(30)
        return self.real.append(model, value)


@dataclass
class AmbiguousLedger:
    """A ledger topic whose first append is not acknowledged, whether it `is_appended` or not.

    With `reads_fail`, all reads after it fail, too. `unacknowledged` is the appended value.
    """

    real: LedgerTopic
    is_appended: bool
    reads_fail: bool = False
    append_count: int = 0
    unacknowledged: bytes | None = None

    def identity(self) -> tuple[str, str]:
        return self.real.identity()

    def read(self) -> list[LedgerRecord]:
        if self.reads_fail and self.unacknowledged is not None:
            raise LogUnavailable("Kafka does not respond.", "Run it again.")
        return self.real.read()

    def append(self, model: str, value: bytes) -> int:
        self.append_count += 1
        if self.unacknowledged is not None:
            return self.real.append(model, value)
        self.unacknowledged = value
        if self.is_appended:
            self.real.append(model, value)
        raise LogUnavailable("The acknowledgement is lost.", "Run it again.")
