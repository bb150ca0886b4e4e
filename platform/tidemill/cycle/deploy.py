"""Deploy: put a report's champion into the ledger, after proving that it answers as it should."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from tidemill.core import canonical
from tidemill.core.errors import (
    LedgerBroken,
    LedgerLost,
    LogUnavailable,
    PredecessorMissing,
    OperationNotAllowed,
)
from tidemill.core.ledger import Chain, Entry, ValidEntry
from tidemill.core.report import Report
from tidemill.core.windows import Window
from tidemill.cycle.mill import Mill
from tidemill.failpoints import reached

_ATTEMPTS = 8

Decision = Callable[[Chain], Entry | None]


@dataclass(frozen=True)
class Deployment:
    """How the deploy step of a window ended, and the entry that is in force after it.

    `deferred`: a later window of the same run will deploy. `superseded`: a person's entry, or one
    that knows a later window, stands before this report.
    """

    status: Literal["deployed", "unchanged", "deferred", "superseded"]
    digest: str
    seq: int
    reason: str


def deploy(mill: Mill, window: Window, final: bool) -> Deployment:
    """Apply the window's verdict; only a `final` window may append to the ledger.

    Raises `PredecessorMissing` without a report or an initial deployment, `FeatureSkew` and
    `BundleUnfit` where the model does not prove itself, `LedgerLost`, `LogUnavailable`.
    """
    report = mill.archive.report(window.key)
    if report is None:
        raise PredecessorMissing(
            f"Window {window.key} of model {mill.model} has no evaluation report.",
            f"Run `tidemill backfill {mill.model} --from {window.key} --to {window.key}`.",
        )
    ended = partial(_ended, mill, window, report, final)

    def decide(chain: Chain) -> Entry | None:
        return _entry(mill, window, report, chain) if ended(chain) is None else None

    if ended(read_chain(mill)) is None:
        mill.prover.prove(mill.archive.bundle(report.state.champion))
        entry = append(mill, decide)
        if entry is not None:
            return Deployment("deployed", entry.digest, entry.seq, entry.reason)
    standing = ended(read_chain(mill))
    assert standing is not None  # only an entry of our own or a later one ends the attempts
    return standing


def outstanding(mill: Mill, window: Window) -> bool:
    """Whether the window's report asks for a deployment that the ledger does not show.

    A deployment that was deferred to a later window is outstanding until that one is deployed.
    """
    report = mill.archive.report(window.key)
    return report is not None and _ended(mill, window, report, True, mill.chain()) is None


def _ended(
    mill: Mill, window: Window, report: Report, final: bool, chain: Chain
) -> Deployment | None:
    """How the step ends on this chain without an append; None where one is due."""
    if chain.head is None:
        raise PredecessorMissing(
            f"Model {mill.model} has no initial model in service yet.",
            "Materialize its asset initial_model, or run `tidemill backfill`, which does.",
        )
    entry = chain.head.entry
    if entry.digest == report.state.champion:
        return Deployment("unchanged", entry.digest, entry.seq, "it is in service already")
    if entry.is_manual and entry.seq > report.ledger_seq:
        told = f"entry {entry.seq} is {entry.actor}'s {entry.kind}, which this report did not take"
        return Deployment("superseded", entry.digest, entry.seq, told)
    if entry.as_of_ms is not None and entry.as_of_ms >= window.end:
        told = f"entry {entry.seq} knows window {entry.as_of}"
        return Deployment("superseded", entry.digest, entry.seq, told)
    if not final:
        return Deployment("deferred", entry.digest, entry.seq, "a later window of this run decides")
    return None


def _entry(mill: Mill, window: Window, report: Report, chain: Chain) -> Entry:
    """The entry that puts the report's champion into service."""
    seq, prev = chain.next_position
    moved = _moved_by(mill, report)
    return Entry(
        model=mill.model,
        seq=seq,
        kind="rollback" if moved.verdict == "roll_back" else "deploy",
        digest=report.state.champion,
        as_of=window.key,
        as_of_ms=window.end,
        verdict=moved.verdict,
        evidence=mill.archive.committed(f"reports/{moved.window}.json"),
        actor=mill.by,
        reason="; ".join(moved.reasons),
        prev=prev,
    )


def append(mill: Mill, decide: Decision) -> Entry | None:
    """Append the entry that `decide` makes of the chain, until one stands or none is due.

    An append whose outcome is unknown is looked for before it is tried again.
    """
    for _ in range(_ATTEMPTS):
        entry = decide(read_chain(mill))
        if entry is None:
            return None
        value = canonical.encode(entry)
        reached("append.before")
        try:
            mill.ledger.append(mill.model, value)
        except LogUnavailable:
            if _find(mill.chain(), value) is None:
                raise
        reached("append.after")
        standing = _find(mill.chain(), value)
        if standing is not None:
            _copy(mill, mill.chain())
            return standing.entry
    raise OperationNotAllowed(
        f"Other writers to the ledger of model {mill.model} were faster {_ATTEMPTS} times.",
        "Run the command again.",
    )


def read_chain(mill: Mill) -> Chain:
    """The model's chain, checked against the copies in the store.

    Raises `LedgerLost` where entries are gone, `LedgerBroken` where the newest is another one: it
    is chained to all before it.
    """
    identity, known = mill.ledger.identity(), mill.archive.ledger_topic()
    if known is not None and identity != known:
        raise LedgerLost(
            f"The ledger topic has id {identity[1]} in cluster {identity[0]}; the entries of model "
            f"{mill.model} stood in topic {known[1]} of cluster {known[0]}.",
            f"Bring the old topic back, or run `tidemill ledger restore {mill.model}`.",
        )
    chain = mill.chain()
    if mill.archive.entry(len(chain.entries)) is not None:
        raise LedgerLost(
            f"The ledger topic holds {len(chain.entries)} entries of model {mill.model}; "
            "the store has copies of more.",
            f"Bring the topic's records back, or run `tidemill ledger restore {mill.model}`.",
        )
    copy = mill.archive.entry(len(chain.entries) - 1)
    if chain.head is not None and copy not in (None, chain.head.value):
        raise LedgerBroken(
            f"Entry {chain.head.entry.seq} of model {mill.model} in the ledger topic, at offset "
            f"{chain.head.offset}, is not the one that was copied to the store.",
            f"Run `tidemill verify {mill.model}`, which names every entry that was changed.",
        )
    _copy(mill, chain)
    return chain


def _copy(mill: Mill, chain: Chain) -> None:
    """Copy the standing entries that the store has not, in their order: none is ever left out."""
    first = len(chain.entries)
    while first and mill.archive.entry(first - 1) is None:
        first -= 1
    for standing in chain.entries[first:]:
        mill.archive.commit_entry(standing, *mill.ledger.identity())


def _find(chain: Chain, value: bytes) -> ValidEntry | None:
    wanted = canonical.digest(value)
    return next((s for s in reversed(chain.entries) if s.hash == wanted), None)


def _moved_by(mill: Mill, report: Report) -> Report:
    """The newest report, this one or an earlier, that moved the champion."""
    calendar = mill.spec.calendar
    while report.previous_state.champion == report.state.champion:
        before = calendar.before(calendar.window(report.window))
        earlier = mill.archive.report(before.key) if before else None
        if earlier is None:
            break
        report = earlier
    return report
