"""Deploy: validate a report's champion and append it to the ledger."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from tidemill.core import canonical
from tidemill.core.errors import (
    LedgerBroken,
    LedgerLost,
    LogUnavailable,
    OperationNotAllowed,
    PredecessorMissing,
)
from tidemill.core.ledger import Chain, Entry, ValidEntry
from tidemill.core.report_records import Report
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.failpoints import failpoint

_MAX_ATTEMPTS = 8

EntryBuilder = Callable[[Chain], Entry | None]


@dataclass(frozen=True)
class Deployment:
    """The outcome of a window's deploy step, and the entry in force after it.

    `deferred`: a later window of the same run will deploy. `superseded`: a manual entry, or one
    that takes a later window into account, takes precedence over this report.
    """

    status: Literal["deployed", "unchanged", "deferred", "superseded"]
    digest: str
    seq: int
    reason: str


def deploy(ctx: ModelContext, window: Window, final: bool) -> Deployment:
    """Apply the window's verdict; only a `final` window may append to the ledger.

    Raises `PredecessorMissing` without a report or an initial deployment, `FeatureSkew` and
    `BundleInvalid` if the model fails its validation, `LedgerLost`, `LogUnavailable`.
    """
    report = ctx.repository.report(window.key)
    if report is None:
        raise PredecessorMissing(
            f"Window {window.key} of model {ctx.model} has no evaluation report.",
            f"Run `tidemill backfill {ctx.model} --from {window.key} --to {window.key}`.",
        )
    outcome = partial(_outcome_without_append, ctx, window, report, final)

    def build_entry(chain: Chain) -> Entry | None:
        return _build_entry(ctx, window, report, chain) if outcome(chain) is None else None

    if outcome(read_chain(ctx)) is None:
        ctx.validator.validate(ctx.repository.bundle(report.state.champion))
        entry = append_entry(ctx, build_entry)
        if entry is not None:
            return Deployment("deployed", entry.digest, entry.seq, entry.reason)
    deployment = outcome(read_chain(ctx))
    assert deployment is not None  # `append_entry` returns None only if there is an outcome
    return deployment


def has_pending_deployment(ctx: ModelContext, window: Window) -> bool:
    """Whether the window's report requires a deployment that is not in the ledger.

    A deployment that was deferred to a later window is pending until that window is deployed.
    """
    report = ctx.repository.report(window.key)
    return (
        report is not None
        and _outcome_without_append(ctx, window, report, True, ctx.chain()) is None
    )


def _outcome_without_append(
    ctx: ModelContext, window: Window, report: Report, final: bool, chain: Chain
) -> Deployment | None:
    """The step's outcome on this chain without an append; None if an append is required."""
    if chain.head is None:
        raise PredecessorMissing(
            f"Model {ctx.model} has no initial model in service yet.",
            "Materialize its asset initial_model, or run `tidemill backfill`, which does so.",
        )
    entry = chain.head.entry
    if entry.digest == report.state.champion:
        return Deployment("unchanged", entry.digest, entry.seq, "it is in service already")
    if entry.is_manual and entry.seq > report.ledger_seq:
        reason = (
            f"entry {entry.seq} is {entry.actor}'s {entry.kind}, which this report did not apply"
        )
        return Deployment("superseded", entry.digest, entry.seq, reason)
    if entry.as_of_ms is not None and entry.as_of_ms >= window.end:
        reason = f"entry {entry.seq} takes window {entry.as_of} into account"
        return Deployment("superseded", entry.digest, entry.seq, reason)
    if not final:
        return Deployment("deferred", entry.digest, entry.seq, "a later window of this run decides")
    return None


def _build_entry(ctx: ModelContext, window: Window, report: Report, chain: Chain) -> Entry:
    """The entry that puts the report's champion into service."""
    seq, prev = chain.next_position
    deciding_report = _deciding_report(ctx, report)
    return Entry(
        model=ctx.model,
        seq=seq,
        kind="rollback" if deciding_report.verdict == "rollback" else "deploy",
        digest=report.state.champion,
        as_of=window.key,
        as_of_ms=window.end,
        verdict=deciding_report.verdict,
        evidence=ctx.repository.require_hash(f"reports/{deciding_report.window}.json"),
        actor=ctx.actor,
        reason="; ".join(deciding_report.reasons),
        prev=prev,
    )


def append_entry(ctx: ModelContext, build_entry: EntryBuilder) -> Entry | None:
    """Append the entry that `build_entry` returns for the chain, until one is valid or it returns
    None.

    If the outcome of an append is unknown, the ledger is searched for the entry before a retry.
    Raises `OperationNotAllowed` if other writers were faster too often, `LogUnavailable`, and what
    `read_chain` raises.
    """
    for _ in range(_MAX_ATTEMPTS):
        entry = build_entry(read_chain(ctx))
        if entry is None:
            return None
        value = canonical.encode(entry)
        failpoint("append.before")
        try:
            ctx.ledger.append(ctx.model, value)
        except LogUnavailable:
            if _find_entry(ctx.chain(), value) is None:
                raise
        failpoint("append.after")
        valid_entry = _find_entry(ctx.chain(), value)
        if valid_entry is not None:
            _copy_entries(ctx, ctx.chain())
            return valid_entry.entry
    raise OperationNotAllowed(
        f"Other writers appended to the ledger of model {ctx.model} first, {_MAX_ATTEMPTS} times "
        "in a row.",
        "Run the command again.",
    )


def read_chain(ctx: ModelContext) -> Chain:
    """The model's chain, checked against the copies in the store.

    Raises `LedgerLost` if entries are missing, and `LedgerBroken` if the newest differs from its
    copy. Comparing the newest is enough, because each entry contains the hash of the previous one.
    """
    identity, expected = ctx.ledger.identity(), ctx.repository.ledger_topic()
    if expected is not None and identity != expected:
        raise LedgerLost(
            f"The ledger topic has id {identity[1]} in cluster {identity[0]}; the entries of model "
            f"{ctx.model} were in topic {expected[1]} of cluster {expected[0]}.",
            f"Restore the old topic, or run `tidemill ledger restore {ctx.model}`.",
        )
    chain = ctx.chain()
    if ctx.repository.entry(len(chain.entries)) is not None:
        raise LedgerLost(
            f"The ledger topic holds {len(chain.entries)} entries of model {ctx.model}; "
            "the store has copies of more.",
            f"Restore the topic's records, or run `tidemill ledger restore {ctx.model}`.",
        )
    copy = ctx.repository.entry(len(chain.entries) - 1)
    if chain.head is not None and copy not in (None, chain.head.value):
        raise LedgerBroken(
            f"Entry {chain.head.entry.seq} of model {ctx.model} in the ledger topic, at offset "
            f"{chain.head.offset}, is not the one that was copied to the store.",
            f"Run `tidemill verify {ctx.model}`, which names every entry that was changed.",
        )
    _copy_entries(ctx, chain)
    return chain


def _copy_entries(ctx: ModelContext, chain: Chain) -> None:
    """Copy the valid entries that the store lacks, in order, so that the copies have no gaps."""
    first = len(chain.entries)
    while first and ctx.repository.entry(first - 1) is None:
        first -= 1
    for valid_entry in chain.entries[first:]:
        ctx.repository.commit_entry(valid_entry, *ctx.ledger.identity())


def _find_entry(chain: Chain, value: bytes) -> ValidEntry | None:
    expected_hash = canonical.digest(value)
    return next((valid for valid in reversed(chain.entries) if valid.hash == expected_hash), None)


def _deciding_report(ctx: ModelContext, report: Report) -> Report:
    """The newest report, this one or an earlier one, that changed the champion."""
    calendar = ctx.spec.calendar
    while report.previous_state.champion == report.state.champion:
        previous_window = calendar.before(calendar.window(report.window))
        earlier = ctx.repository.report(previous_window.key) if previous_window else None
        if earlier is None:
            break
        report = earlier
    return report
