"""The decisions of an operator: close a stream, skip a window, roll back, approve."""

from tidemill.core.errors import ModelPruned, OperationNotAllowed
from tidemill.core.ledger import Chain, Entry, EntryKind
from tidemill.core.plans import Plan
from tidemill.core.records import Manifest, SkipDecision
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.cycle.ledger import append_entry, read_chain
from tidemill.cycle.names import bundle_name
from tidemill.cycle.planning.plan import plan_window
from tidemill.cycle.steps.batch import empty_manifest


def close(ctx: ModelContext, through: Window, actor: str) -> Plan:
    """Declare that the stream has ended: plan every window up to `through` with what the log holds.

    Existing plans are kept.
    """
    return plan_window(ctx, through, closed_by=actor)


def skip(ctx: ModelContext, window: Window, actor: str, reason: str) -> Manifest:
    """Commit a batch without rows that marks all offsets of the window as skipped.

    Raises `OperationNotAllowed` if the window has a batch already.
    """
    existing = ctx.repository.manifest(window.key)
    if existing is not None and existing.skipped is None:
        raise OperationNotAllowed(
            f"Window {window.key} of model {ctx.model} has a batch of {existing.rows} rows.",
            "Only a window without a batch can be skipped.",
        )
    if existing is not None:
        return existing
    plan = plan_window(ctx, window)
    return ctx.repository.commit_manifest(empty_manifest(ctx, plan, SkipDecision(actor, reason)))


def rollback(ctx: ModelContext, to: str | None, actor: str, reason: str) -> Entry:
    """Put an earlier model back into service: `to`, or the gate's baseline.

    Raises `OperationNotAllowed` if the digest was never deployed or is in service, `ModelPruned`,
    `FeatureSkew`, `BundleInvalid`.
    """
    chain = read_chain(ctx)
    newest = ctx.records.newest_report()
    digest = to or (newest.state.baseline if newest else None)
    deployed = {valid.entry.digest for valid in chain.entries}
    if digest is None or (to is None and chain.head and chain.head.entry.digest == digest):
        raise OperationNotAllowed(
            f"The baseline of model {ctx.model} is in service already.",
            f"Name the model to roll back to: `tidemill rollback {ctx.model} --to DIGEST`; "
            f"`tidemill history {ctx.model}` lists them.",
        )
    if digest not in deployed:
        _raise_if_pruned(ctx, digest)
        raise OperationNotAllowed(
            f"{digest[:80]!r} was never deployed as model {ctx.model}.",
            f"`tidemill history {ctx.model}` lists the deployed digests.",
        )
    return _append_manual_entry(ctx, "rollback", digest, actor, reason)


def approve(ctx: ModelContext, digest: str | None, actor: str, reason: str) -> Entry:
    """Put a candidate into service: `digest`, or the newest one that awaits approval.

    Raises `OperationNotAllowed` if there is none, or if it is in service already.
    """
    newest = ctx.records.newest_report()
    pending = newest.state.pending if newest else None
    chosen = digest or pending
    if chosen is None:
        raise OperationNotAllowed(
            f"No candidate of model {ctx.model} awaits approval.",
            "Name a digest, or wait for a window whose entry test passes (`gate.policy: manual`).",
        )
    return _append_manual_entry(ctx, "approve", chosen, actor, reason)


def _raise_if_pruned(ctx: ModelContext, digest: str) -> None:
    """Raise `ModelPruned` if this is a candidate whose bundle was pruned."""
    marker = ctx.repository.prune_marker()
    calendar = ctx.spec.calendar
    if marker is None or ctx.repository.hash(bundle_name(digest)) is not None:
        return
    for window in calendar.between(calendar.first, calendar.window(marker.window)):
        candidate = ctx.records.candidate(window)
        if candidate is not None and candidate.digest == digest:
            raise ModelPruned(
                f"{digest} was the candidate of window {window.key} of model {ctx.model}; it was "
                "never deployed, and `retention_windows` has pruned it.",
                f"Name a deployed one: `tidemill history {ctx.model}` lists them.",
            )


def _append_manual_entry(
    ctx: ModelContext, kind: EntryKind, digest: str, actor: str, reason: str
) -> Entry:
    """Validate the model and append the manual entry."""
    bundle = ctx.repository.bundle(digest)
    ctx.validator.validate(bundle)
    as_of = _as_of(ctx, digest)

    def build_entry(chain: Chain) -> Entry | None:
        if chain.head is not None and chain.head.entry.digest == digest:
            return None
        seq, prev = chain.next_position
        return Entry(
            model=ctx.model,
            seq=seq,
            kind=kind,
            digest=digest,
            as_of=as_of.key if as_of else None,
            as_of_ms=as_of.end if as_of else None,
            verdict=None,
            evidence=None,
            actor=actor,
            reason=reason,
            prev=prev,
        )

    appended = append_entry(ctx, build_entry)
    if appended is None:
        raise OperationNotAllowed(f"{digest} is in service already.", "Nothing needs to be done.")
    return appended


def _as_of(ctx: ModelContext, digest: str) -> Window | None:
    """The later of the newest reported window and the newest one that the model learned from."""
    newest = ctx.records.newest_report()
    learned = ctx.load(digest).window
    keys = [key for key in (newest.window if newest else None, learned) if key is not None]
    windows = [ctx.spec.calendar.window(key) for key in keys]
    return max(windows, default=None)
