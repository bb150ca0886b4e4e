"""The ledger's rules: which entries are valid, and which model is in service."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from tidemill.core import canonical
from tidemill.core.canonical import FORMAT
from tidemill.core.event_log import LedgerRecord

EntryKind = Literal["deploy", "rollback", "approve", "adopt"]


@dataclass(frozen=True)
class Entry:
    """One deployment, as stored in the ledger topic.

    `seq` numbers a model's valid entries from 0; `prev` is the sha256 of the bytes of the previous
    one (None for the first). `as_of` is the key of the last window that the entry takes into
    account (None: no window), `as_of_ms` the end of that window. `evidence` is the sha256 of the
    report that changed the champion, None for a manual entry or the initial model. An `adopt` names
    the digest that is already in service; its evidence is the sha256 of the adoption's record.
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
    format: int = FORMAT

    @property
    def is_manual(self) -> bool:
        """Whether a command made it: a rollback or approval of the gate cites a report."""
        return self.kind in ("rollback", "approve") and self.evidence is None


@dataclass(frozen=True)
class ValidEntry:
    """A valid entry with its offset, its bytes and their sha256."""

    offset: int
    entry: Entry
    hash: str
    value: bytes


@dataclass(frozen=True)
class InvalidRecord:
    """An entry of this model that is not valid, and the reason."""

    offset: int
    reason: str
    hash: str


@dataclass(frozen=True)
class Chain:
    """One model's entries in the ledger: the valid ones, and those that are not valid."""

    model: str
    entries: tuple[ValidEntry, ...] = ()
    invalid_records: tuple[InvalidRecord, ...] = ()

    @property
    def head(self) -> ValidEntry | None:
        """The newest valid entry: the deployment in force."""
        return self.entries[-1] if self.entries else None

    @property
    def next_position(self) -> tuple[int, str | None]:
        """`seq` and `prev` that the next entry must have to be valid."""
        return (len(self.entries), self.head.hash if self.head else None)


def build_chain(
    model: str, records: Iterable[LedgerRecord], previous: Chain | None = None
) -> Chain:
    """The model's chain: an entry is valid if its `seq` and `prev` match the head at its offset.

    `previous` is the chain of all records before these. Every reader of the same records gets the
    same chain.
    """
    entries = list(previous.entries) if previous else []
    invalid_records = list(previous.invalid_records) if previous else []
    for record in records:
        entry = _decode_entry(record.value, model)
        if entry is None:
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
    """The manual entries that the report of the window starting at `before_ms` applies.

    These are the ones after entry `after_seq` (-1: all) whose `as_of` is before that window, in
    ledger order, up to the first that is not: an entry is never applied before its predecessors.
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


def _decode_entry(value: bytes, model: str) -> Entry | None:
    """The model's entry in these bytes; None for another model's, or for a record that is no entry.

    Raises `FormatUnsupported` for an entry of a later format: a reader that skipped it would come
    to another chain.
    """
    try:
        header = canonical.decode(value, _EntryHeader)
        if header.model != model:
            return None
        if header.format > FORMAT:
            raise canonical.format_error(
                f"A ledger entry of model {model}",
                header.format,
                "Upgrade tidemill to the version that wrote the entry.",
            )
        return canonical.decode(value, Entry)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class _EntryHeader(msgspec.Struct):
    model: str
    format: int = FORMAT
