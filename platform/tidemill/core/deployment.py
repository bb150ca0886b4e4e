"""Deployment: whether a report's champion must still be appended to the ledger."""

from dataclasses import dataclass
from typing import Literal

from tidemill.core.errors import PredecessorMissing
from tidemill.core.ledger import Chain
from tidemill.core.report_records import Report
from tidemill.core.windows import Window


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


def outcome_without_append(
    chain: Chain, window: Window, report: Report, final: bool
) -> Deployment | None:
    """The outcome of the window's deploy step on this chain; None if an append is required.

    Only a `final` window may append. Raises `PredecessorMissing` for a chain without entries.
    """
    if chain.head is None:
        raise PredecessorMissing(
            f"Model {chain.model} has no initial model in service yet.",
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
