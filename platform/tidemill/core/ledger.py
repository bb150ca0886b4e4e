"""The ledger's rules: which entries stand, who is in service, and what is void for ever."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from tidemill.core import canonical
from tidemill.core.log import LedgerRecord

Kind = Literal["deploy", "rollback", "approve", "adopt"]


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
    kind: Kind
    digest: str
    as_of: str | None
    as_of_ms: int | None
    verdict: str | None
    evidence: str | None
    by: str
    why: str
    prev: str | None

    @property
    def personal(self) -> bool:
        """Whether a person decided it: the gate's own entries cite a report."""
        return self.kind in ("rollback", "approve") and self.evidence is None


@dataclass(frozen=True)
class Standing:
    """An entry that counts, with its place, its bytes and their sha256."""

    offset: int
    entry: Entry
    hash: str
    value: bytes


@dataclass(frozen=True)
class Void:
    """A record of this model that does not count, and why."""

    offset: int
    reason: str
    hash: str


@dataclass(frozen=True)
class Chain:
    """One model's entries in the ledger: those that stand, and those void by rule."""

    model: str
    standing: tuple[Standing, ...] = ()
    void: tuple[Void, ...] = ()

    @property
    def head(self) -> Standing | None:
        """The deployment in force."""
        return self.standing[-1] if self.standing else None

    @property
    def next(self) -> tuple[int, str | None]:
        """`seq` and `prev` of the entry that would stand next."""
        return (len(self.standing), self.head.hash if self.head else None)


def chain(model: str, records: Iterable[LedgerRecord], before: Chain | None = None) -> Chain:
    """The model's chain: an entry stands if its `seq` and `prev` match the head at its offset.

    `before` is the chain of all records before these. Every reader of the same records comes to
    the same chain.
    """
    standing = list(before.standing) if before else []
    void = list(before.void) if before else []
    for record in records:
        entry = _entry(record.value)
        if entry is None or entry.model != model:
            continue
        hash_ = canonical.digest(record.value)
        expected = (len(standing), standing[-1].hash if standing else None)
        if (entry.seq, entry.prev) == expected:
            standing.append(Standing(record.offset, entry, hash_, record.value))
        else:
            reason = f"its seq {entry.seq} and prev do not follow entry {len(standing) - 1}"
            void.append(Void(record.offset, reason, hash_))
    return Chain(model, tuple(standing), tuple(void))


def personal_since(chain_: Chain, after_seq: int, before_ms: int) -> tuple[Standing, ...]:
    """The persons' entries that the report of the window starting at `before_ms` takes.

    Those behind entry `after_seq` (-1: all) whose `as_of` lies before that window, in ledger
    order, up to the first that does not: an entry is never taken before one that it follows.
    """
    taken: list[Standing] = []
    for standing in chain_.standing:
        entry = standing.entry
        if not entry.personal or entry.seq <= after_seq:
            continue
        if entry.as_of_ms is not None and entry.as_of_ms > before_ms:
            break
        taken.append(standing)
    return tuple(taken)


def _entry(value: bytes) -> Entry | None:
    """The entry in these bytes; None for a record that is no entry at all."""
    try:
        return canonical.decode(value, Entry)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
