"""Prune: delete what `retention_windows` no longer keeps, and record how far."""

from collections.abc import Iterator

from tidemill.core.gate import GateState
from tidemill.core.records import Candidate, PruneMarker
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.cycle.ledger import read_chain
from tidemill.cycle.names import bundle_name
from tidemill.cycle.repository import ModelRepository
from tidemill.failpoints import failpoint


def prune(ctx: ModelContext, window: Window) -> PruneMarker | None:
    """Delete batches, models and snapshots that the last `retention_windows` windows do not need.

    `window` must be deployed. The kept windows start from the retraining at or before the last
    expired window; its model and snapshot are kept. All records are kept, as well as every model
    in the ledger, the gate's champion and baseline, and the candidate that awaits approval.

    Returns the current prune marker, None if nothing was ever pruned. The marker is written before
    anything is deleted, and files of the previous marker that a crash has left over are deleted
    first. The cost grows with the number of expired windows, not with the history. Raises
    `LedgerLost`, `LogUnavailable`.
    """
    marker = ctx.repository.prune_marker()
    if (
        marker is not None
        and marker.deleted
        and ctx.repository.hash(marker.deleted[-1]) is not None
    ):
        _delete(ctx.repository, marker.deleted)
    start = _retention_start(ctx, window, marker)
    report = ctx.repository.report(window.key)
    if start is None or report is None:
        return marker
    retained = _retained_names(ctx, report.state, start)
    expired = [*(marker.retained if marker else ()), *_expired_files(ctx, marker, start)]
    expired = list(dict.fromkeys(expired))
    new_marker = PruneMarker(
        window=start.window,
        window_end_ms=ctx.spec.calendar.window(start.window).end,
        deleted=tuple(name for name in expired if name not in retained),
        retained=tuple(name for name in expired if name in retained),
    )
    failpoint("prune.before")
    ctx.repository.set_prune_marker(new_marker)
    failpoint("prune.marked")
    _delete(ctx.repository, new_marker.deleted)
    return new_marker


def _retention_start(
    ctx: ModelContext, window: Window, marker: PruneMarker | None
) -> Candidate | None:
    """The retraining that the kept windows start from; None if it is no newer than the marker's.

    Also None if they start from the initial model: then everything is still needed.
    """
    calendar = ctx.spec.calendar
    start_window = calendar.nth_before(window, ctx.spec.retention_windows)
    candidate = ctx.records.candidate(start_window) if start_window else None
    if start_window is None or candidate is None:
        return None
    if candidate.since_retrain:
        start_window = calendar.nth_before(start_window, candidate.since_retrain)
    if start_window is None or (marker is not None and start_window.end <= marker.window_end_ms):
        return None
    return ctx.records.candidate(start_window)


def _retained_names(ctx: ModelContext, state: GateState, start: Candidate) -> set[str]:
    """The names of expired files that are still needed, for example by the ledger or the gate."""
    initial_model = ctx.records.require_initial_model()
    entries = read_chain(ctx).entries
    digests = {start.digest, initial_model.digest, state.champion, state.baseline, state.pending}
    digests |= {valid_entry.entry.digest for valid_entry in entries}
    names = {start.sample.snapshot.name, initial_model.sample.snapshot.name}
    return names | {bundle_name(digest) for digest in digests if digest is not None}


def _expired_files(
    ctx: ModelContext, marker: PruneMarker | None, start: Candidate
) -> Iterator[str]:
    """The names of all files of the windows after the marker, up to and including `start`."""
    calendar = ctx.spec.calendar
    last = calendar.window(start.window)
    first = calendar.after(calendar.window(marker.window)) if marker else calendar.first
    for window in calendar.between(first, last):
        manifest = ctx.repository.manifest(window.key)
        if manifest is not None:
            yield from (ref.name for ref in manifest.files)
        candidate = ctx.records.candidate(window)
        if candidate is not None:
            yield bundle_name(candidate.digest)
            yield candidate.sample.snapshot.name
            if candidate.holdout is not None:
                yield bundle_name(candidate.holdout)


def _delete(repository: ModelRepository, names: tuple[str, ...]) -> None:
    for name in names:
        repository.delete(name)
        failpoint("prune.deleted")
