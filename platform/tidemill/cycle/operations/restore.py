"""Restore: append a lost ledger's entries again, byte for byte, from their copies in the store."""

from dataclasses import dataclass

from tidemill.core.errors import LedgerBroken, LogUnavailable
from tidemill.core.event_log import LedgerRecord
from tidemill.core.ledger import Chain, build_chain
from tidemill.cycle.context import ModelContext
from tidemill.failpoints import failpoint

_BACKUP = "Restore the model's folder `ledger` in the store from a backup."


@dataclass(frozen=True)
class RestoreResult:
    """The state of a model's ledger after a restore.

    The topic holds `entries` valid entries, of which `appended` were restored. `moved`: the entries
    were in another topic or cluster before.
    """

    model: str
    entries: int
    appended: int
    moved: bool
    cluster_id: str
    topic_id: str


def restore(ctx: ModelContext) -> RestoreResult:
    """Append the copied entries that the ledger's topic lacks, in order; a no-op if repeated.

    From then on, the current topic is the model's ledger. Until all entries are restored, every
    writer continues to raise `LedgerLost`. Raises `LedgerBroken`, and appends nothing, if the topic
    holds other entries of this model or the copies do not form a chain; and `LedgerMisconfigured`,
    `LedgerLost`, `LogUnavailable`.
    """
    copies = _copies(ctx)
    appended = 0
    identity, previous = ctx.ledger.identity(), ctx.repository.ledger_topic()
    while (restored := _count_restored(ctx, copies)) < len(copies):
        _append(ctx, copies[restored], restored)
        appended += 1
    if previous is not None and previous != identity:
        failpoint("restore.proven")
        ctx.repository.set_ledger_topic(*identity)
        failpoint("restore.moved")
    entries = len(ctx.chain().entries)
    return RestoreResult(ctx.model, entries, appended, previous not in (None, identity), *identity)


def _copies(ctx: ModelContext) -> list[bytes]:
    """The copied entries, from 0. Raises `LedgerBroken` unless each follows the previous one."""
    copies: list[bytes] = []
    while (copy := ctx.repository.entry(len(copies))) is not None:
        copies.append(copy)
    records = [LedgerRecord(seq, copy) for seq, copy in enumerate(copies)]
    valid_count = len(build_chain(ctx.model, records).entries)
    last = ctx.repository.last_entry_seq()
    if valid_count < len(copies):
        raise LedgerBroken(
            f"The store's copies of ledger entries {valid_count - 1} and {valid_count} of model "
            f"{ctx.model} do not follow each other: one of them was edited.",
            _BACKUP,
        )
    if len(copies) <= last:
        raise LedgerBroken(
            f"The store has no copy of ledger entry {valid_count} of model {ctx.model}, but one of "
            f"entry {last}.",
            _BACKUP,
        )
    return copies


def _count_restored(ctx: ModelContext, copies: list[bytes]) -> int:
    """How many copied entries the topic holds. Raises `LedgerBroken` if one differs."""
    current: Chain = ctx.chain()
    for valid_entry, copy in zip(current.entries, copies, strict=False):
        if valid_entry.value != copy:
            entry = valid_entry.entry
            raise LedgerBroken(
                f"In the ledger topic, entry {entry.seq} of model {ctx.model} differs from the "
                f"copy in the store: at offset {valid_entry.offset}, {entry.kind} of "
                f"{entry.digest} by {entry.actor}, reason {entry.reason!r}.",
                "A deployment was made to this topic after the old one was lost. Entries are never "
                "removed: restore into a new topic (TIDEMILL_KAFKA__LEDGER_TOPIC), and repeat the "
                "deployment there.",
            )
    return len(current.entries)


def _append(ctx: ModelContext, value: bytes, valid_count: int) -> None:
    """Append the entry after `valid_count` others. Raises `LogUnavailable` if it was not
    appended."""
    failpoint("restore.before")
    try:
        ctx.ledger.append(ctx.model, value)
    except LogUnavailable:
        if len(ctx.chain().entries) == valid_count:  # it was not appended
            raise
    failpoint("restore.after")
