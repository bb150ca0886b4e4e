"""Recompute: make everything again from its frozen inputs, and compare."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

from tidemill.core import canonical
from tidemill.core.plans import INITIAL_KEY
from tidemill.core.records import Manifest, PruneMarker
from tidemill.core.report import Report
from tidemill.core.sections import GateSpec
from tidemill.core.windows import Window
from tidemill.cycle.archive import Archive, bundle_name
from tidemill.cycle.evaluate import evaluate
from tidemill.cycle.extract import GONE, extract_plan
from tidemill.cycle.initial import train
from tidemill.cycle.lines import adoptions, by_line, initial_of, line_id
from tidemill.cycle.mill import Mill
from tidemill.cycle.update import update
from tidemill.cycle.verify import Verified

Progress = Callable[[str], None]


def recompute(mill: Mill, scratch: Archive, verified: Verified, progress: Progress) -> None:
    """Make everything again into an empty archive and compare, record by record.

    Plans, adoptions and the persons' entries that reports took are given; batches are read from the
    log, or given as well, and named, where it no longer holds them. Each window is made again by
    the spec of its own line.
    Where libraries differ from those that made a record, its rows and trees are compared instead
    of its bytes. Where the store was pruned, it begins with the windows that are kept, and takes
    the retraining that they start from as given.
    """
    mark = mill.archive.pruned()
    windows = list(_windows(mill, mill.archive))
    for key in (INITIAL_KEY, *(window.key for window in windows)):
        planned = mill.archive.plan(key)
        if planned is not None:
            scratch.commit_plan(planned)
    for number, adoption in adoptions(mill.archive):
        scratch.commit_adoption(number, adoption)
    progress(INITIAL_KEY)
    made = mill.archive.initial()
    if made is None:
        return
    if mark is None:
        _initial_again(mill, mill.over(scratch).under(made.learning_spec), verified)
    else:
        _begin_after(mill, scratch, mark)
    as_learned = by_line(mill.over(scratch))
    for window in (each for each in windows if mark is None or each.end > mark.window_end_ms):
        progress(window.key)
        again = as_learned(window)
        manifest = mill.archive.manifest(window.key)
        if manifest is None:
            break
        batch = _batch_again(mill, again, manifest, verified)
        _compare(verified, window.key, "batch", manifest, batch)
        candidate = mill.archive.candidate(line_id(mill, window), window.key)
        if candidate is not None:
            _compare(verified, window.key, "candidate", candidate, update(again, window))
        report = mill.archive.report(window.key)
        if report is not None and candidate is not None:
            new = evaluate(_as_judged(again, report), window, report.entries)
            _compare(verified, window.key, "report", report, new)
        verified.recomputed += 1


def _as_judged(again: Mill, report: Report) -> Mill:
    """The mill with the gate that the report was made by; it may have been changed since."""
    gate = GateSpec.model_validate(report.gate)
    if not report.gate or gate == again.spec.gate:
        return again
    return replace(again, spec=again.spec.model_copy(update={"gate": gate}))


def _initial_again(mill: Mill, again: Mill, verified: Verified) -> None:
    history = mill.archive.manifest(INITIAL_KEY)
    if history is not None and mill.history is None:
        _compare(verified, INITIAL_KEY, "batch", history, _batch_again(mill, again, history, verified))
    _compare(verified, INITIAL_KEY, "initial model", mill.archive.initial(), train(again))


def _begin_after(mill: Mill, scratch: Archive, mark: PruneMarker) -> None:
    """Give the scratch archive what the windows after the mark go on from."""
    archive, made = mill.archive, initial_of(mill)
    line = line_id(mill, mill.spec.calendar.window(mark.window))
    start, report = archive.candidate(line, mark.window), archive.report(mark.window)
    digests = {made.digest, *(standing.entry.digest for standing in mill.chain().entries)}
    names = ["initial.json", "lines/0.json", made.sample.snapshot.name]
    if start is not None:
        names += [archive.candidate_name(line, mark.window), start.sample.snapshot.name]
        digests.add(start.digest)
    if report is not None:
        names.append(f"reports/{mark.window}.json")
        digests |= {report.state.champion, report.state.baseline}
    for name in (*names, *(bundle_name(digest) for digest in digests)):
        archive.give(name, scratch)


def _batch_again(mill: Mill, again: Mill, manifest: Manifest, verified: Verified) -> Manifest:
    """Read a batch from the log again; one that it no longer holds is taken as archived.

    A topic that lost planned records, and was gone on with, has others at their offsets.
    """
    if manifest.skipped is not None:
        return again.archive.commit_manifest(manifest)
    planned = again.archive.plan(manifest.window)
    assert planned is not None  # copied above
    known = [a.epoch for _, a in adoptions(mill.archive) if a.topic_id == planned.topic_id]
    if planned.epoch == max(known, default=planned.epoch):
        with suppress(*GONE):
            return extract_plan(again, planned)
    verified.given.append(manifest.window)
    for ref in filter(None, (manifest.rows_file, manifest.rejected_file)):
        again.archive.put_file(ref, mill.archive.file(ref))
    return again.archive.commit_manifest(manifest)


def _compare(verified: Verified, window: str, what: str, stands: object, made: object) -> None:
    """Bytes where the libraries are the same, else the digests of rows and trees."""
    if canonical.encode(stands) == canonical.encode(made):
        return
    old, new = canonical.to_builtins(stands), canonical.to_builtins(made)
    if old.get("libraries", {}) != new.get("libraries", {}):
        meant = [key for key in ("rows_digest", "tree_digest") if key in old]
        if meant and all(old[key] == new[key] for key in meant):
            return
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    verified.findings.append(
        f"The {what} of window {window} comes out otherwise when made again: "
        f"{', '.join(keys)} differ."
    )


def _windows(mill: Mill, archive: Archive) -> Iterator[Window]:
    """The planned windows, in order."""
    window = mill.spec.calendar.first
    while archive.plan(window.key) is not None:
        yield window
        window = mill.spec.calendar.after(window)
