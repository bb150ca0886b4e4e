"""Verify: check the consistency of everything that is stored."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tidemill.core import canonical
from tidemill.core.errors import CommittedDataError, DigestMismatch, StoreUnavailable, TidemillError
from tidemill.core.plans import INITIAL_KEY, Plan
from tidemill.core.records import Candidate, FileRef, PruneMarker
from tidemill.core.report_records import Report
from tidemill.core.windows import Window
from tidemill.cycle.audit.verify_ledger import ledger_differences
from tidemill.cycle.context import ModelContext
from tidemill.cycle.names import (
    BATCHES,
    CANDIDATES,
    FIRST_LINEAGE,
    INITIAL_MODEL,
    LEDGER,
    LEDGER_TOPIC,
    OBSERVATIONS,
    PLANS,
    PRUNE_MARKER,
    QUARANTINE,
    REPORTS,
    adoption_name,
    bundle_name,
    candidate_name,
    manifest_name,
    plan_name,
    report_name,
)

Progress = Callable[[str], None]


@dataclass
class VerificationReport:
    """What was checked, and each finding as a sentence; no findings: everything is consistent.

    `taken_as_archived` are the windows whose batches the log no longer holds: the archived batch
    was used to recompute what was learned from it. `pruned` is the window up to which
    `retention_windows` has pruned; recomputation starts after it.
    """

    plans: int = 0
    batches: int = 0
    candidates: int = 0
    reports: int = 0
    entries: int = 0
    recomputed: int = 0
    pruned: str | None = None
    taken_as_archived: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


def verify(ctx: ModelContext) -> VerificationReport:
    """Check every record and file of the model against those it was made from.

    Raises `StoreUnavailable`, because it is not a finding about what is stored.
    """
    verifier = _Verifier(ctx)
    for step in (
        verifier.read_prune_marker,
        verifier.check_plans,
        verifier.check_batches,
        verifier.check_candidates,
        verifier.check_reports,
        verifier.check_ledger,
    ):
        try:
            step()
        except StoreUnavailable:
            raise
        except TidemillError as error:
            verifier.add_finding(f"{type(error).__name__}: {error.message}")
    if not verifier.verification.findings:  # the files of damaged records would seem orphaned
        verifier.check_orphans()
    return verifier.verification


class _Verifier:
    """One pass over a model's records; collects the names of the files that they account for."""

    def __init__(self, ctx: ModelContext) -> None:
        self.ctx = ctx
        self.repository = ctx.repository
        self.verification = VerificationReport()
        self.accounted_names: set[str] = {
            OBSERVATIONS,
            INITIAL_MODEL,
            FIRST_LINEAGE,
            PRUNE_MARKER,
        }
        self.marker: PruneMarker | None = None

    def add_finding(self, finding: str) -> None:
        self.verification.findings.append(finding)

    def read_prune_marker(self) -> None:
        """Read up to which window `retention_windows` has pruned: its files may be missing."""
        self.marker = self.repository.prune_marker()
        self.verification.pruned = self.marker.window if self.marker else None

    def _may_be_pruned(self, key: str) -> bool:
        if self.marker is None or key == INITIAL_KEY:
            return False
        return self.ctx.spec.calendar.window(key).end <= self.marker.window_end_ms

    def check_plans(self) -> None:
        """Each plan starts where the previous one ends, and contains its hash."""
        previous: Plan | None = None
        for key in self._window_keys(PLANS):
            plan = self.repository.plan(key)
            if plan is None:
                self.add_finding(f"The plan of window {key} is missing, but later plans exist.")
                return
            self.accounted_names.add(plan_name(key))
            self.verification.plans += 1
            if previous is not None:
                self._check_successor(previous, plan)
            previous = plan

    def _check_successor(self, previous: Plan, plan: Plan) -> None:
        if plan.previous != self.repository.hash(plan_name(previous.window)):
            self.add_finding(
                f"The plan of window {previous.window} was edited after {plan.window}'s."
            )
        starts = {r.partition: r.start for r in plan.ranges}
        if plan.adoption != previous.adoption:
            self._check_adoption(plan)
        elif plan.epoch != previous.epoch:
            self.add_finding(
                f"The plan of window {plan.window} is on another topic without an adoption."
            )
        for partition, end in previous.end_offsets.items():
            if plan.epoch == previous.epoch and starts.get(partition) != end:
                self.add_finding(
                    f"Window {plan.window} starts at offset {starts.get(partition)} of "
                    f"partition {partition}, but {previous.window} ends at {end}."
                )

    def _check_adoption(self, plan: Plan) -> None:
        adoption = self.repository.adoption(plan.adoption)
        expected = (plan.window, plan.epoch, plan.topic_id)
        if adoption is None or (adoption.window, adoption.epoch, adoption.topic_id) != expected:
            self.add_finding(
                f"The plan of window {plan.window} was made under adoption {plan.adoption}, which "
                "is missing or does not match it."
            )

    def check_batches(self) -> None:
        for key in self._window_keys(BATCHES):
            manifest = self.repository.manifest(key)
            if manifest is None:  # windows may be extracted in any order
                continue
            self.accounted_names.add(manifest_name(key))
            self.verification.batches += 1
            may_be_pruned = self._may_be_pruned(key)
            self._check_file(manifest.rows_file, may_be_pruned)
            self._check_file(manifest.rejected_file, may_be_pruned)
            plan = self.repository.plan(key)
            if manifest.epoch < 0 or plan is None:
                continue
            if manifest.plan != self.repository.hash(plan_name(key)):
                self.add_finding(f"The batch of window {key} was made from another plan.")
            if manifest.rows + manifest.rejected + manifest.gaps != plan.offset_count:
                self.add_finding(f"The batch of window {key} does not account for its offsets.")

    def check_candidates(self) -> None:
        initial_model = self.repository.initial_model()
        if initial_model is None:
            return
        self._check_bundle(initial_model.digest, "the initial model")
        self._check_file(initial_model.sample.snapshot)
        if self.repository.lineage() is None:
            return
        parent = initial_model.digest
        for window in self._windows_in(CANDIDATES, 1):
            lineage = self.ctx.records.lineage(window)
            lineage_id = canonical.digest_of(lineage)
            if lineage.first_window == window.key and lineage.parent != parent:
                self.add_finding(
                    f"The lineage of window {window} continues {lineage.parent}, not {parent}."
                )
            candidate = self.repository.candidate(lineage_id, window.key)
            if candidate is None:
                self.add_finding(
                    f"The candidate of window {window.key} is missing, but later ones exist."
                )
                return
            self.accounted_names.add(candidate_name(lineage_id, window.key))
            self.verification.candidates += 1
            self._check_candidate(candidate, parent)
            parent = candidate.digest

    def _check_candidate(self, candidate: Candidate, parent: str) -> None:
        key, may_be_pruned = candidate.window, self._may_be_pruned(candidate.window)
        is_start = self.marker is not None and key == self.marker.window
        self._check_bundle(candidate.digest, f"candidate {key}", may_be_pruned and not is_start)
        if candidate.holdout is not None:
            self._check_bundle(candidate.holdout, f"the holdout fit of {key}", may_be_pruned)
        self._check_file(candidate.sample.snapshot, may_be_pruned and not is_start)
        if candidate.parent != parent:
            self.add_finding(f"Candidate {key} continues {candidate.parent}, not {parent}.")
        if candidate.batch != self.repository.hash(manifest_name(key)):
            self.add_finding(f"Candidate {key} was made from another batch manifest.")

    def check_reports(self) -> None:
        previous: Report | None = None
        for window in self._windows_in(REPORTS):
            report = self.repository.report(window.key)
            if report is None:
                self.add_finding(
                    f"The report of window {window.key} is missing, but later ones exist."
                )
                return
            self.accounted_names.add(report_name(window.key))
            self.verification.reports += 1
            names = {
                "previous report": (
                    report.inputs.previous,
                    report_name(previous.window) if previous else None,
                ),
                "batch": (report.inputs.batch, manifest_name(window.key)),
                "candidate": (
                    report.inputs.candidate,
                    candidate_name(report.lineage, window.key),
                ),
            }
            for record_kind, (expected, name) in names.items():
                if expected != (self.repository.hash(name) if name else None):
                    self.add_finding(
                        f"The {record_kind} that report {window.key} was made from was edited."
                    )
            previous = report
        if previous is not None:
            self._check_bundle(previous.state.champion, "the gate's champion")
            self._check_bundle(previous.state.baseline, "the gate's baseline")

    def check_ledger(self) -> None:
        """The topic holds the copied entries in the same order, and their models exist."""
        copies = [name for name in self.repository.names(LEDGER) if name != LEDGER_TOPIC]
        self.accounted_names.update([*copies, LEDGER_TOPIC])
        chain, topic_identity = self.ctx.chain(), self.repository.ledger_topic()
        if topic_identity is not None and topic_identity != self.ctx.ledger.identity():
            self.add_finding(
                f"The ledger's entries were in topic {topic_identity[1]} of cluster "
                f"{topic_identity[0]}, which is not the current one."
            )
        self.verification.entries = len(chain.entries)
        self.verification.findings.extend(ledger_differences(self.repository, chain))
        self.accounted_names.update(
            adoption_name(number) for number, _ in self.repository.adoptions()
        )
        for valid_entry in chain.entries:
            self._check_bundle(valid_entry.entry.digest, f"ledger entry {valid_entry.entry.seq}")

    def check_orphans(self) -> None:
        """Every file in the store belongs to a record, or is in the quarantine."""
        for name in self.repository.names(""):
            if name not in self.accounted_names and not name.startswith(QUARANTINE):
                self.add_finding(f"{self.repository.model}/{name} belongs to no record.")

    def _check_bundle(self, digest: str, owner: str, may_be_pruned: bool = False) -> None:
        self.accounted_names.add(bundle_name(digest))
        if may_be_pruned and self.repository.hash(bundle_name(digest)) is None:
            return
        try:
            self.repository.bundle(digest)
        except CommittedDataError as error:
            self.add_finding(f"The model of {owner}: {error.message}")

    def _check_file(self, ref: FileRef | None, may_be_pruned: bool = False) -> None:
        if ref is None:
            return
        self.accounted_names.add(ref.name)
        if may_be_pruned and self.repository.hash(ref.name) is None:
            return
        try:
            self.repository.file(ref)
        except DigestMismatch as error:
            self.add_finding(error.message)

    def _window_keys(self, folder: str) -> list[str]:
        """The initial key and those of all windows up to the last one with a record in `folder`."""
        if not any(self.repository.names(folder)):
            return []
        return [INITIAL_KEY, *(window.key for window in self._windows_in(folder))]

    def _windows_in(self, folder: str, depth: int = 0) -> list[Window]:
        """All windows up to the last one with a record in `folder`, `depth` levels below it."""
        names = self.repository.names(folder)
        parts = (name.removeprefix(folder).split("/")[depth] for name in names)
        keys = sorted({part.removesuffix(".json") for part in parts} - {INITIAL_KEY})
        if not keys:
            return []
        calendar = self.ctx.spec.calendar
        return list(calendar.between(calendar.first, calendar.window(keys[-1])))
