"""Restore: bring a lost ledger's entries back, byte for byte, from their copies in the store."""

from dataclasses import dataclass

from tidemill.core.errors import LedgerBroken, LogUnavailable
from tidemill.core.ledger import Chain, build_chain
from tidemill.core.log import LedgerRecord
from tidemill.cycle.mill import Mill
from tidemill.failpoints import reached

_BACKUP = "Restore the model's folder `ledger` in the store from a backup."


@dataclass(frozen=True)
class Restored:
    """How a model's ledger stands after a restore.

    `entries` stand in the topic now, `appended` of them were brought back; `moved` says whether
    the entries stood in another topic, or cluster, before.
    """

    model: str
    entries: int
    appended: int
    moved: bool
    cluster_id: str
    topic_id: str


def restore(mill: Mill) -> Restored:
    """Append the copied entries that the ledger's topic has not, in order; repeated, a no-op.

    The topic as it is now is the model's ledger from then on. Until all entries stand, every
    writer goes on to see `LedgerLost`. Raises `LedgerBroken` where the topic holds other entries of
    this model, or the copies are no chain, and then appends nothing; `LedgerMisconfigured`,
    `LedgerLost`, `LogUnavailable`.
    """
    copies, appended = _copies(mill), 0
    identity, known = mill.ledger.identity(), mill.archive.ledger_topic()
    while (standing := _standing(mill, copies)) < len(copies):
        _append(mill, copies[standing], standing)
        appended += 1
    if known is not None and known != identity:
        reached("restore.proven")
        mill.archive.move_ledger(*identity)
        reached("restore.moved")
    entries = len(mill.chain().entries)
    return Restored(mill.model, entries, appended, known not in (None, identity), *identity)


def _copies(mill: Mill) -> list[bytes]:
    """The copied entries, from 0. Raises `LedgerBroken` unless each follows the one before."""
    copies: list[bytes] = []
    while (copy := mill.archive.entry(len(copies))) is not None:
        copies.append(copy)
    records = [LedgerRecord(seq, copy) for seq, copy in enumerate(copies)]
    whole = len(build_chain(mill.model, records).entries)
    last = mill.archive.last_entry()
    if whole < len(copies):
        raise LedgerBroken(
            f"The store's copies of ledger entries {whole - 1} and {whole} of model {mill.model} "
            "do not follow each other: one of them was edited.",
            _BACKUP,
        )
    if len(copies) <= last:
        raise LedgerBroken(
            f"The store has no copy of ledger entry {whole} of model {mill.model}, but one of "
            f"entry {last}.",
            _BACKUP,
        )
    return copies


def _standing(mill: Mill, copies: list[bytes]) -> int:
    """How many of the copied entries stand in the topic, where no other entry may."""
    found: Chain = mill.chain()
    for standing, copy in zip(found.entries, copies, strict=False):
        if standing.value != copy:
            entry = standing.entry
            raise LedgerBroken(
                f"The ledger topic holds another entry {entry.seq} of model {mill.model} than was "
                f"copied to the store: at offset {standing.offset}, {entry.kind} of "
                f"{entry.digest} by {entry.actor}, because {entry.reason!r}.",
                "Somebody deployed to this topic after the old one was lost. Entries are never "
                "removed: restore into a new topic, by TIDEMILL_KAFKA__LEDGER_TOPIC, and decide "
                "again there.",
            )
    return len(found.entries)


def _append(mill: Mill, value: bytes, standing: int) -> None:
    """Append the entry that follows so many; it stands afterwards, or an error says why not."""
    reached("restore.before")
    try:
        mill.ledger.append(mill.model, value)
    except LogUnavailable:
        if len(mill.chain().entries) == standing:  # it was not taken
            raise
    reached("restore.after")
