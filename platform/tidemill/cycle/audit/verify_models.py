"""Verify the candidates and their reports: each against the records that it was made from."""

from tidemill.core import canonical
from tidemill.core.records import Candidate
from tidemill.core.report_records import Report
from tidemill.cycle.audit.verification import Verification
from tidemill.cycle.names import CANDIDATES, REPORTS, candidate_name, manifest_name, report_name


def check_candidates(verification: Verification) -> None:
    """Each candidate continues the previous one, and was made from the committed batch."""
    initial_model = verification.repository.initial_model()
    if initial_model is None:
        return
    verification.check_bundle(initial_model.digest, "the initial model")
    verification.check_file(initial_model.sample.snapshot)
    if verification.repository.lineage() is None:
        return
    parent = initial_model.digest
    for window in verification.windows_in(CANDIDATES, 1):
        lineage = verification.ctx.records.lineage(window)
        lineage_id = canonical.digest_of(lineage)
        if lineage.first_window == window.key and lineage.parent != parent:
            verification.add_finding(
                f"The lineage of window {window} continues {lineage.parent}, not {parent}."
            )
        candidate = verification.repository.candidate(lineage_id, window.key)
        if candidate is None:
            verification.add_finding(
                f"The candidate of window {window.key} is missing, but later ones exist."
            )
            return
        verification.accounted_names.add(candidate_name(lineage_id, window.key))
        verification.report.candidates += 1
        _check_candidate(verification, candidate, parent)
        parent = candidate.digest


def _check_candidate(verification: Verification, candidate: Candidate, parent: str) -> None:
    key = candidate.window
    may_be_pruned = verification.may_be_pruned(candidate.window)
    is_start = verification.marker is not None and key == verification.marker.window
    verification.check_bundle(candidate.digest, f"candidate {key}", may_be_pruned and not is_start)
    if candidate.holdout is not None:
        verification.check_bundle(candidate.holdout, f"the holdout fit of {key}", may_be_pruned)
    verification.check_file(candidate.sample.snapshot, may_be_pruned and not is_start)
    if candidate.parent != parent:
        verification.add_finding(f"Candidate {key} continues {candidate.parent}, not {parent}.")
    if candidate.batch != verification.repository.hash(manifest_name(key)):
        verification.add_finding(f"Candidate {key} was made from another batch manifest.")


def check_reports(verification: Verification) -> None:
    """Each report was made from the committed records, and the models in service exist."""
    previous: Report | None = None
    for window in verification.windows_in(REPORTS):
        report = verification.repository.report(window.key)
        if report is None:
            verification.add_finding(
                f"The report of window {window.key} is missing, but later ones exist."
            )
            return
        verification.accounted_names.add(report_name(window.key))
        verification.report.reports += 1
        names = {
            "previous report": (
                report.inputs.previous,
                report_name(previous.window) if previous else None,
            ),
            "batch": (report.inputs.batch, manifest_name(window.key)),
            "candidate": (report.inputs.candidate, candidate_name(report.lineage, window.key)),
        }
        for record_kind, (expected, name) in names.items():
            if expected != (verification.repository.hash(name) if name else None):
                verification.add_finding(
                    f"The {record_kind} that report {window.key} was made from was edited."
                )
        previous = report
    if previous is not None:
        verification.check_bundle(previous.state.champion, "the gate's champion")
        verification.check_bundle(previous.state.baseline, "the gate's baseline")
