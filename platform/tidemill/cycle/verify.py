"""Verify: hold what is stored against the rules."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tidemill.core import canonical
from tidemill.core.errors import DigestMismatch, ModelPruned, StoreUnavailable, TidemillError
from tidemill.core.plans import INITIAL_KEY, Plan
from tidemill.core.records import Candidate, FileRef, PruneMarker
from tidemill.core.report import Report
from tidemill.core.windows import Window
from tidemill.cycle.archive import adoption_name, bundle_name
from tidemill.cycle.lines import adoptions, line_of
from tidemill.cycle.mill import Mill
from tidemill.cycle.verify_ledger import compared

Progress = Callable[[str], None]


@dataclass
class Verified:
    """What was looked at, and each finding as a sentence; no finding means that all is right.

    `given` names the batches that the log no longer holds: they were taken as archived, and what
    was learned from them was made again. `pruned` is the window up to which `keep_windows` has
    pruned; what was made again, if anything, begins after it.
    """

    plans: int = 0
    batches: int = 0
    candidates: int = 0
    reports: int = 0
    entries: int = 0
    recomputed: int = 0
    pruned: str | None = None
    given: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


def verify(mill: Mill) -> Verified:
    """Check every record and file of the model against those it was made from.

    Raises `StoreUnavailable`, which says nothing of what is stored.
    """
    check = _Check(mill)
    for step in (
        check.pruned,
        check.plans,
        check.batches,
        check.candidates,
        check.reports,
        check.ledger,
    ):
        try:
            step()
        except StoreUnavailable:
            raise
        except TidemillError as error:
            check.found(f"{type(error).__name__}: {error.message}")
    if not check.verified.findings:  # what damaged records name would seem to be nobody's
        check.orphans()
    return check.verified


class _Check:
    """One walk over a model's records, remembering which names they account for."""

    def __init__(self, mill: Mill) -> None:
        self.mill = mill
        self.archive = mill.archive
        self.verified = Verified()
        self.known: set[str] = {"observations.json", "initial.json", "lines/0.json", "pruned.json"}
        self.mark: PruneMarker | None = None

    def found(self, finding: str) -> None:
        self.verified.findings.append(finding)

    def pruned(self) -> None:
        """What `keep_windows` has pruned may be gone."""
        self.mark = self.archive.pruned()
        self.verified.pruned = self.mark.window if self.mark else None

    def _may_be_gone(self, key: str) -> bool:
        if self.mark is None or key == INITIAL_KEY:
            return False
        return self.mill.spec.calendar.window(key).end <= self.mark.window_end_ms

    def plans(self) -> None:
        """Ranges tile: each starts where the one before ends, and names its bytes."""
        before: Plan | None = None
        for key in self._keys("plans/"):
            planned = self.archive.plan(key)
            if planned is None:
                self.found(f"The plan of window {key} is missing; later plans are there.")
                return
            self.known.add(f"plans/{key}.json")
            self.verified.plans += 1
            if before is not None:
                self._follows(before, planned)
            before = planned

    def _follows(self, before: Plan, planned: Plan) -> None:
        if planned.previous != self.archive.hash(f"plans/{before.window}.json"):
            self.found(f"The plan of window {before.window} was edited after {planned.window}'s.")
        starts = {r.partition: r.start for r in planned.ranges}
        if planned.adoption != before.adoption:
            self._adopts(planned)
        elif planned.epoch != before.epoch:
            self.found(f"The plan of window {planned.window} is on another topic, not adopted.")
        for partition, end in before.end_offsets.items():
            if planned.epoch == before.epoch and starts.get(partition) != end:
                self.found(
                    f"Window {planned.window} starts at offset {starts.get(partition)} of "
                    f"partition {partition}, but {before.window} ends at {end}."
                )

    def _adopts(self, planned: Plan) -> None:
        adoption = self.archive.adoption(planned.adoption)
        wanted = (planned.window, planned.epoch, planned.topic_id)
        if adoption is None or (adoption.window, adoption.epoch, adoption.topic_id) != wanted:
            self.found(
                f"The plan of window {planned.window} goes by adoption {planned.adoption}, which "
                "is missing or another."
            )

    def batches(self) -> None:
        for key in self._keys("batches/"):
            manifest = self.archive.manifest(key)
            if manifest is None:  # a later window may be extracted first; candidates name theirs
                continue
            self.known.add(f"batches/{key}/manifest.json")
            self.verified.batches += 1
            gone = self._may_be_gone(key)
            self._file(manifest.rows_file, gone)
            self._file(manifest.rejected_file, gone)
            planned = self.archive.plan(key)
            if manifest.epoch < 0 or planned is None:
                continue
            if manifest.plan != self.archive.hash(f"plans/{key}.json"):
                self.found(f"The batch of window {key} was made from another plan.")
            if manifest.rows + manifest.rejected + manifest.gaps != planned.offset_count:
                self.found(f"The batch of window {key} does not account for its offsets.")

    def candidates(self) -> None:
        made = self.archive.initial()
        if made is None:
            return
        self._bundle(made.digest, "the initial model")
        self._file(made.sample.snapshot)
        if self.archive.line() is None:
            return
        parent = made.digest
        for window in self._steps("candidates/", 1):
            begun = line_of(self.mill, window)
            line = canonical.digest_of(begun)
            if begun.first_window == window.key and begun.parent != parent:
                self.found(
                    f"The line of window {window} goes on from {begun.parent}, not {parent}."
                )
            candidate = self.archive.candidate(line, window.key)
            if candidate is None:
                self.found(
                    f"The candidate of window {window.key} is missing; later ones are there."
                )
                return
            self.known.add(self.archive.candidate_name(line, window.key))
            self.verified.candidates += 1
            self._candidate(candidate, parent)
            parent = candidate.digest

    def _candidate(self, candidate: Candidate, parent: str) -> None:
        key, gone = candidate.window, self._may_be_gone(candidate.window)
        begins = self.mark is not None and key == self.mark.window
        self._bundle(candidate.digest, f"candidate {key}", gone and not begins)
        if candidate.holdout is not None:
            self._bundle(candidate.holdout, f"the holdout fit of {key}", gone)
        self._file(candidate.sample.snapshot, gone and not begins)
        if candidate.parent != parent:
            self.found(f"Candidate {key} continues {candidate.parent}, not {parent}.")
        if candidate.batch != self.archive.hash(f"batches/{key}/manifest.json"):
            self.found(f"Candidate {key} was made from another batch manifest.")

    def reports(self) -> None:
        before: Report | None = None
        for window in self._steps("reports/"):
            report = self.archive.report(window.key)
            if report is None:
                self.found(f"The report of window {window.key} is missing; later ones are there.")
                return
            self.known.add(f"reports/{window.key}.json")
            self.verified.reports += 1
            names = {
                "report before": (
                    report.inputs.previous,
                    f"reports/{before.window}.json" if before else None,
                ),
                "batch": (report.inputs.batch, f"batches/{window.key}/manifest.json"),
                "candidate": (
                    report.inputs.candidate,
                    self.archive.candidate_name(report.lineage, window.key),
                ),
            }
            for what, (wanted, name) in names.items():
                if wanted != (self.archive.hash(name) if name else None):
                    self.found(f"The {what} that report {window.key} was made from was edited.")
            before = report
        if before is not None:
            self._bundle(before.state.champion, "the gate's champion")
            self._bundle(before.state.baseline, "the gate's baseline")

    def ledger(self) -> None:
        """The topic holds the entries that were copied, in their order, and their models exist."""
        copies = [name for name in self.archive.names("ledger/") if name != "ledger/topic.json"]
        self.known.update([*copies, "ledger/topic.json"])
        chain, place = self.mill.chain(), self.archive.ledger_topic()
        if place is not None and place != self.mill.ledger.identity():
            self.found(f"The ledger's entries stood in topic {place[1]} of cluster {place[0]}.")
        self.verified.entries = len(chain.entries)
        self.verified.findings.extend(compared(self.archive, chain))
        self.known.update(adoption_name(number) for number, _ in adoptions(self.archive))
        for standing in chain.entries:
            self._bundle(standing.entry.digest, f"ledger entry {standing.entry.seq}")

    def orphans(self) -> None:
        """No file lies in the store that no record accounts for."""
        for name in self.archive.names(""):
            if name not in self.known and not name.startswith("blocked/"):
                self.found(f"{self.archive.model}/{name} belongs to no record.")

    def _bundle(self, digest: str, what: str, may_be_gone: bool = False) -> None:
        self.known.add(bundle_name(digest))
        if may_be_gone and self.archive.hash(bundle_name(digest)) is None:
            return
        try:
            self.archive.bundle(digest)
        except (DigestMismatch, ModelPruned) as error:
            self.found(f"The model of {what}: {error.message}")

    def _file(self, ref: FileRef | None, may_be_gone: bool = False) -> None:
        if ref is None:
            return
        self.known.add(ref.name)
        if may_be_gone and self.archive.hash(ref.name) is None:
            return
        try:
            self.archive.file(ref)
        except DigestMismatch as error:
            self.found(error.message)

    def _keys(self, folder: str) -> list[str]:
        """The first plan's key and every window's, up to the last that has anything in `folder`."""
        if not any(self.archive.names(folder)):
            return []
        return [INITIAL_KEY, *(window.key for window in self._steps(folder))]

    def _steps(self, folder: str, depth: int = 0) -> list[Window]:
        """The windows up to the last that has a record in `folder`, so many folders deep."""
        names = self.archive.names(folder)
        parts = (name.removeprefix(folder).split("/")[depth] for name in names)
        keys = sorted({part.removesuffix(".json") for part in parts} - {INITIAL_KEY})
        if not keys:
            return []
        calendar = self.mill.spec.calendar
        return list(calendar.between(calendar.first, calendar.window(keys[-1])))
