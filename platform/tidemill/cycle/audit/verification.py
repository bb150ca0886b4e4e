"""Verification: one pass over a model's records, its findings and the files accounted for."""

from dataclasses import dataclass, field

from tidemill.core.errors import CommittedDataError, DigestMismatch
from tidemill.core.plans import INITIAL_KEY
from tidemill.core.records import FileRef, PruneMarker
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.cycle.names import (
    FIRST_LINEAGE,
    INITIAL_MODEL,
    OBSERVATIONS,
    PRUNE_MARKER,
    bundle_name,
)


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


class Verification:
    """One pass over a model's records; collects the names of the files that they account for.

    `marker` says up to which window `retention_windows` has pruned: their files may be missing.
    """

    def __init__(self, ctx: ModelContext) -> None:
        self.ctx = ctx
        self.repository = ctx.repository
        self.report = VerificationReport()
        self.accounted_names = {FIRST_LINEAGE, INITIAL_MODEL, OBSERVATIONS, PRUNE_MARKER}
        self.marker: PruneMarker | None = None

    def add_finding(self, finding: str) -> None:
        self.report.findings.append(finding)

    def may_be_pruned(self, key: str) -> bool:
        """Whether the files of the window with this key may have been pruned."""
        if self.marker is None or key == INITIAL_KEY:
            return False
        return self.ctx.spec.calendar.window(key).end <= self.marker.window_end_ms

    def check_bundle(self, digest: str, owner: str, may_be_pruned: bool = False) -> None:
        """Account for a bundle, which must be intact, or gone if it may be pruned."""
        self.accounted_names.add(bundle_name(digest))
        if may_be_pruned and self.repository.hash(bundle_name(digest)) is None:
            return
        try:
            self.repository.bundle(digest)
        except CommittedDataError as error:
            self.add_finding(f"The model of {owner}: {error.message}")

    def check_file(self, ref: FileRef, may_be_pruned: bool = False) -> None:
        """Account for a file, which must be intact, or gone if it may be pruned."""
        self.accounted_names.add(ref.name)
        if may_be_pruned and self.repository.hash(ref.name) is None:
            return
        try:
            self.repository.file(ref)
        except DigestMismatch as error:
            self.add_finding(error.message)

    def window_keys(self, folder: str) -> list[str]:
        """The initial key and those of all windows up to the last one with a record in `folder`."""
        if not any(self.repository.names(folder)):
            return []
        return [INITIAL_KEY, *(window.key for window in self.windows_in(folder))]

    def windows_in(self, folder: str, depth: int = 0) -> list[Window]:
        """All windows up to the last one with a record in `folder`, `depth` levels below it."""
        names = self.repository.names(folder)
        parts = (name.removeprefix(folder).split("/")[depth] for name in names)
        keys = sorted({part.removesuffix(".json") for part in parts} - {INITIAL_KEY})
        if not keys:
            return []
        calendar = self.ctx.spec.calendar
        return list(calendar.between(calendar.first, calendar.window(keys[-1])))
