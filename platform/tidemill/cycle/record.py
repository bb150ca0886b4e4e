"""Record: keep the tracker in step with what stands in the store and in the ledger."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import polars as pl

from tidemill.core import canonical
from tidemill.core.errors import DigestMismatch, PredecessorMissing
from tidemill.core.tracking import WindowRun, registry_version, window_run
from tidemill.core.windows import Window
from tidemill.cycle.extract import rows_of
from tidemill.cycle.lines import line_of
from tidemill.cycle.mill import Mill
from tidemill.ports import Tracker


@dataclass(frozen=True)
class Drift:
    """Where the tracker is not what it mirrors; empty where it is."""

    windows: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    champion: str | None = None
    head: str | None = None

    @property
    def sentences(self) -> Iterator[str]:
        for window in self.windows:
            yield f"MLflow has no full record of window {window}."
        for digest in self.versions:
            yield f"MLflow has no version of the deployed model {digest}."
        if self.champion != self.head:
            at = self.champion or "nothing"
            yield f"MLflow's alias `champion` stands at {at}, the ledger's head is {self.head}."


@dataclass
class Recorder:
    """One run's work on the tracker. `parent` is the tracker's run of it, `tags` say who it is.

    What a window's record holds is written while the next window is at work; a tracker that fails
    meanwhile is told of at the next call, or by `written`.
    """

    mill: Mill
    tracker: Tracker
    parent: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    _caught_up: bool = False
    _champion: str | None = None
    _writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _writing: Future[None] | None = None

    def window(self, window: Window) -> str | None:
        """Record a reported window, and those before it that are missing; where people see it.

        The record itself is being written when this returns.

        None for one whose batch is pruned: its record stays as it is. Raises `PredecessorMissing`
        without a report, `TrackerUnavailable`.
        """
        if self.mill.archive.is_pruned(window.end):
            return None
        if not self._caught_up:
            for earlier in self._missing_before(window):
                self._record(earlier)
            self._caught_up = True
        return self.tracker.address(self._record(window))

    def deployments(self) -> None:
        """Register every deployed model that is not, and let the alias stand at the ledger's head.

        The ledger is never changed by it. Raises `TrackerUnavailable`.
        """
        chain = self.mill.chain()
        if chain.head is None:
            return
        head = chain.head.entry.digest
        if head == self._champion:
            return
        self.written()
        self.register_all()
        if self.tracker.champion(self.mill.model) != head:
            self.tracker.set_champion(self.mill.model, head)
        self._champion = head

    def written(self) -> None:
        """Wait until all windows told of are recorded. Raises `TrackerUnavailable`."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def repair(self, found: "Drift") -> None:
        """Make up for what is missing. Raises `TrackerUnavailable`."""
        for key in found.windows:
            self._record(self.mill.spec.calendar.window(key))
        self.written()
        self.deployments()

    def register_all(self) -> None:
        """Register every model that was ever deployed, in the ledger's order."""
        known = set(self.tracker.versions(self.mill.model))
        for standing in self.mill.chain().entries:
            if standing.entry.digest not in known:
                self.tracker.register(self.mill.model, registry_version(standing.entry))
                known.add(standing.entry.digest)

    def _missing_before(self, window: Window) -> list[Window]:
        """The windows right before this one that the tracker does not have, in order."""
        missing: list[Window] = []
        at = self.mill.spec.calendar.before(window)
        while at is not None and self.mill.archive.report(at.key) is not None:
            recorded = self.tracker.recorded(self.mill.model, at.key) is not None
            if recorded or self.mill.archive.is_pruned(at.end):
                break
            missing.append(at)
            at = self.mill.spec.calendar.before(at)
        return missing[::-1]

    def _record(self, window: Window) -> str:
        run = self._run(window)
        self.written()  # so that the tracker is never asked for two things at once
        run_id = self.tracker.begin(run.model, run.window, self.parent)
        self._writing = self._writer.submit(self.tracker.record, run_id, run)
        return run_id

    def _run(self, window: Window) -> WindowRun:
        archive, key = self.mill.archive, window.key
        report, plan, manifest = archive.report(key), archive.plan(key), archive.manifest(key)
        candidate = archive.candidate(report.lineage, key) if report else None
        if report is None or plan is None or manifest is None or candidate is None:
            raise PredecessorMissing(
                f"Window {key} of model {self.mill.model} is not reported yet.",
                f"Run `tidemill backfill {self.mill.model} --from {key} --to {key}`.",
            )
        try:
            rows = rows_of(self.mill, manifest)
        except DigestMismatch:  # pruned; damage is for `verify` to name, not for the record
            rows = pl.DataFrame()
        spec = self.mill.under(line_of(self.mill, window).learning_spec).spec
        return window_run(spec, plan, manifest, candidate, report, rows, self.tags)


def drift(mill: Mill, tracker: Tracker) -> Drift:
    """Compare the tracker with every report and the whole ledger. Raises `TrackerUnavailable`."""
    chain = mill.chain()
    known = set(tracker.versions(mill.model))
    deployed = dict.fromkeys(standing.entry.digest for standing in chain.entries)
    return Drift(
        tuple(w.key for w in _reported(mill) if not _is_recorded(mill, tracker, w)),
        tuple(digest for digest in deployed if digest not in known),
        tracker.champion(mill.model),
        chain.head.entry.digest if chain.head else None,
    )


def _reported(mill: Mill) -> Iterator[Window]:
    """Every reported window whose batch is not pruned."""
    window, mark = mill.spec.calendar.first, mill.archive.pruned()
    if mark is not None:
        window = mill.spec.calendar.after(mill.spec.calendar.window(mark.window))
    while mill.archive.report(window.key) is not None:
        yield window
        window = mill.spec.calendar.after(window)


def _is_recorded(mill: Mill, tracker: Tracker, window: Window) -> bool:
    report = mill.archive.report(window.key)
    wanted = canonical.digest(canonical.encode(report))
    return tracker.recorded(mill.model, window.key) == wanted
