"""Deploy: validate a report's champion and append it to the ledger."""

from tidemill.core.deployment import Deployment, outcome_without_append
from tidemill.core.ledger import Chain, Entry
from tidemill.core.report_records import Report
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.cycle.ledger import append_entry, read_chain
from tidemill.cycle.names import report_name


def deploy(ctx: ModelContext, window: Window, final: bool) -> Deployment:
    """Apply the window's verdict; only a `final` window may append to the ledger.

    Raises `PredecessorMissing` without a report or an initial deployment, `FeatureSkew` and
    `BundleInvalid` if the model fails its validation, `LedgerLost`, `LogUnavailable`.
    """
    report = ctx.records.require_report(window)

    def outcome(chain: Chain) -> Deployment | None:
        return outcome_without_append(chain, window, report, final)

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
        evidence=ctx.repository.require_hash(report_name(deciding_report.window)),
        actor=ctx.actor,
        reason="; ".join(deciding_report.reasons),
        prev=prev,
    )


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
