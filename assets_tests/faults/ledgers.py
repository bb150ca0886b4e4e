"""Tools for ledgers: a plain Kafka reader, concurrent deployers, topics with given records."""

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier

from support.kafka import clients
from support.kafka.ledgers import manual_entry
from support.models.harness import ModelHarness
from tidemill import bootstrap
from tidemill.core.errors import LogUnavailable, OperationNotAllowed
from tidemill.core.event_log import LedgerRecord
from tidemill.cycle.context import ModelContext
from tidemill.cycle.ledger import append_entry
from tidemill.ports import LedgerTopic
from tidemill.settings import Settings

ENTRIES_PER_WRITER = 5
"""The number of entries that `append_entries` appends."""


def ledger_records(harness: ModelHarness, topic: str | None = None) -> list[LedgerRecord]:
    """Every record of a ledger topic, read with a plain Kafka consumer."""
    (messages,) = clients.read_records(harness.bootstrap_servers, topic or harness.ledger).values()
    return [LedgerRecord(message.offset(), message.value()) for message in messages]


def delete_records_before(harness: ModelHarness, offset: int) -> None:
    """Delete the records of the ledger's topic below an offset; -1 deletes all."""
    clients.delete_records(harness.bootstrap_servers, harness.ledger, {0: offset})


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
        records = [(0, value) for value in values]
        clients.append_records(harness.bootstrap_servers, name, 0, records, harness.model.encode())
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
