"""The ledger's rules: which entries stand, who is in service, and what is void for ever."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from tidemill.core import canonical
from tidemill.core.event_log import LedgerRecord

EntryKind = Literal["deploy", "rollback", "approve", "adopt"]


@dataclass(frozen=True)
class Entry:
    """One deployment, as the ledger topic holds it.

    `seq` counts a model's standing entries from 0 and `prev` is the sha256 of the bytes of the one
    before (None for the first). `as_of` is the window key up to which the entry knows (None: before
    every window); `as_of_ms` the end of that window. `evidence` is the sha256 of the report that
    moved the champion, None where a person or the initial model did. An `adopt` names the digest
    that is in service already, and its evidence is the sha256 of the adoption's record.
    """

    model: str
    seq: int
    kind: EntryKind
    digest: str
    as_of: str | None
    as_of_ms: int | None
    verdict: str | None
    evidence: str | None
    actor: str
    reason: str
    prev: str | None

    @property
    def is_manual(self) -> bool:
        """Whether a person decided it: the gate's own entries cite a report."""
        return self.kind in ("rollback", "approve") and self.evidence is None


@dataclass(frozen=True)
class ValidEntry:
    """An entry that counts, with its place, its bytes and their sha256."""

    offset: int
    entry: Entry
    hash: str
    value: bytes


@dataclass(frozen=True)
class InvalidRecord:
    """A record of this model that does not count, and why."""

    offset: int
    reason: str
    hash: str


@dataclass(frozen=True)
class Chain:
    """One model's entries in the ledger: those that stand, and those void by rule."""

    model: str
    entries: tuple[ValidEntry, ...] = ()
    invalid_records: tuple[InvalidRecord, ...] = ()

    @property
    def head(self) -> ValidEntry | None:
        """The deployment in force."""
        return self.entries[-1] if self.entries else None

    @property
    def next_position(self) -> tuple[int, str | None]:
        """`seq` and `prev` of the entry that would stand next."""
        return (len(self.entries), self.head.hash if self.head else None)


def build_chain(
    model: str, records: Iterable[LedgerRecord], previous: Chain | None = None
) -> Chain:
    """The model's chain: an entry stands if its `seq` and `prev` match the head at its offset.

    `before` is the chain of all records before these. Every reader of the same records comes to
    the same chain.
    """
    entries = list(previous.entries) if previous else []
    invalid_records = list(previous.invalid_records) if previous else []
    for record in records:
        entry = _decode_entry(record.value)
        if entry is None or entry.model != model:
            continue
        hash_ = canonical.digest(record.value)
        expected = (len(entries), entries[-1].hash if entries else None)
        if (entry.seq, entry.prev) == expected:
            entries.append(ValidEntry(record.offset, entry, hash_, record.value))
        else:
            reason = f"its seq {entry.seq} and prev do not follow entry {len(entries) - 1}"
            invalid_records.append(InvalidRecord(record.offset, reason, hash_))
    return Chain(model, tuple(entries), tuple(invalid_records))


def manual_entries_since(chain: Chain, after_seq: int, before_ms: int) -> tuple[ValidEntry, ...]:
    """The persons' entries that the report of the window starting at `before_ms` takes.

    Those behind entry `after_seq` (-1: all) whose `as_of` lies before that window, in ledger
    order, up to the first that does not: an entry is never taken before one that it follows.
    """
    applied: list[ValidEntry] = []
    for valid_entry in chain.entries:
        entry = valid_entry.entry
        if not entry.is_manual or entry.seq <= after_seq:
            continue
        if entry.as_of_ms is not None and entry.as_of_ms > before_ms:
            break
        applied.append(valid_entry)
    return tuple(applied)


def _decode_entry(value: bytes) -> Entry | None:
    """The entry in these bytes; None for a record that is no entry at all."""
    try:
        return canonical.decode(value, Entry)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
