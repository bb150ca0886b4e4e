"""Prune: what lies further back than `keep_windows` goes, and a mark says how far."""

from collections.abc import Iterator

from tidemill.core.errors import ModelPruned
from tidemill.core.gate import GateState
from tidemill.core.records import Candidate, PruneMarker
from tidemill.core.windows import Window
from tidemill.cycle.archive import Archive, bundle_name
from tidemill.cycle.deploy import read_chain
from tidemill.cycle.lines import initial_of, line_id
from tidemill.cycle.mill import Mill
from tidemill.failpoints import reached


def prune(mill: Mill, window: Window) -> PruneMarker | None:
    """Delete batches, models and snapshots that no window from `keep_windows` back needs.

    `window` is one that was deployed; the kept windows start from the retraining at or before the
    last one that falls out, whose model and snapshot stay. Records stay, and every model of the
    ledger, the gate's champion and baseline and what awaits approval. Gives the mark as it stands,
    None where nothing was ever pruned. The mark is written before anything is deleted, and what
    a crash has left of the last mark's is deleted first. Cost grows with the windows that fall out,
    and not with history. Raises `LedgerLost`, `LogUnavailable`.
    """
    mark = mill.archive.pruned()
    if mark is not None and mark.deleted and mill.archive.hash(mark.deleted[-1]) is not None:
        _delete(mill.archive, mark.deleted)
    start, report = _start(mill, window, mark), mill.archive.report(window.key)
    if start is None or report is None:
        return mark
    spared = _spared(mill, report.state, start)
    fallen = [*(mark.retained if mark else ()), *_files(mill, mark, start)]
    fallen = list(dict.fromkeys(fallen))
    new = PruneMarker(
        window=start.window,
        window_end_ms=mill.spec.calendar.window(start.window).end,
        deleted=tuple(name for name in fallen if name not in spared),
        retained=tuple(name for name in fallen if name in spared),
    )
    reached("prune.before")
    mill.archive.mark_pruned(new)
    reached("prune.marked")
    _delete(mill.archive, new.deleted)
    return new


def refuse_pruned(mill: Mill, digest: str) -> None:
    """Raise `ModelPruned` if this was a candidate whose bundle is pruned."""
    mark, calendar = mill.archive.pruned(), mill.spec.calendar
    if mark is None or mill.archive.hash(bundle_name(digest)) is not None:
        return
    for window in calendar.between(calendar.first, calendar.window(mark.window)):
        candidate = _candidate(mill, window)
        if candidate is not None and candidate.digest == digest:
            raise ModelPruned(
                f"{digest} was the candidate of window {window.key} of model {mill.model}; it was "
                "never deployed, and `keep_windows` has pruned it.",
                f"Name one that was deployed: `tidemill history {mill.model}` lists them.",
            )


def _start(mill: Mill, window: Window, mark: PruneMarker | None) -> Candidate | None:
    """The retraining that the kept windows start from; None where it is no newer than the mark's.

    The initial model is none: then everything since the beginning is still needed.
    """
    calendar = mill.spec.calendar
    at = calendar.nth_before(window, mill.spec.retention_windows)
    candidate = _candidate(mill, at) if at else None
    if at is None or candidate is None:
        return None
    if candidate.since_retrain:
        at = calendar.nth_before(at, candidate.since_retrain)
    if at is None or (mark is not None and at.end <= mark.window_end_ms):
        return None
    return _candidate(mill, at)


def _candidate(mill: Mill, window: Window) -> Candidate | None:
    return mill.archive.candidate(line_id(mill, window), window.key)


def _spared(mill: Mill, state: GateState, start: Candidate) -> set[str]:
    """What stays of all that falls out: what others than the windows before `start` need."""
    made, entries = initial_of(mill), read_chain(mill).entries
    digests = {start.digest, made.digest, state.champion, state.baseline, state.pending}
    digests |= {standing.entry.digest for standing in entries}
    names = {start.sample.snapshot.name, made.sample.snapshot.name}
    return names | {bundle_name(digest) for digest in digests if digest is not None}


def _files(mill: Mill, mark: PruneMarker | None, start: Candidate) -> Iterator[str]:
    """The names of all files that the windows after the mark, up to `start`, have made."""
    calendar = mill.spec.calendar
    last = calendar.window(start.window)
    first = calendar.after(calendar.window(mark.window)) if mark else calendar.first
    for window in calendar.between(first, last):
        manifest = mill.archive.manifest(window.key)
        for ref in (manifest.rows_file, manifest.rejected_file) if manifest else ():
            if ref is not None:
                yield ref.name
        candidate = _candidate(mill, window)
        if candidate is not None:
            yield bundle_name(candidate.digest)
            yield candidate.sample.snapshot.name
            if candidate.holdout is not None:
                yield bundle_name(candidate.holdout)


def _delete(archive: Archive, names: tuple[str, ...]) -> None:
    for name in names:
        archive.delete(name)
        reached("prune.deleted")
