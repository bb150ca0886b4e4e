"""Tracking: keep the tracker consistent with the store and the ledger."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import polars as pl

from tidemill.core import canonical
from tidemill.core.errors import DigestMismatch, PredecessorMissing
from tidemill.core.run_record import WindowRun, registry_version, window_run
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.ports import Tracker


@dataclass(frozen=True)
class Drift:
    """The differences between the tracker and the store or the ledger.

    `windows` are the keys of windows that are not recorded, `versions` the deployed digests that
    are not registered; `champion` is the alias's digest, `head` the ledger's.
    """

    windows: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    champion: str | None = None
    head: str | None = None

    @property
    def descriptions(self) -> Iterator[str]:
        """One sentence per difference; none if the tracker is consistent."""
        for window in self.windows:
            yield f"MLflow has no complete record of window {window}."
        for digest in self.versions:
            yield f"MLflow has no version of the deployed model {digest}."
        if self.champion != self.head:
            alias_target = self.champion or "nothing"
            yield (
                f"MLflow's alias `champion` points to {alias_target}, but the ledger's head is "
                f"{self.head}."
            )


@dataclass
class Recorder:
    """Records the windows and deployments of one Dagster run, as runs nested under `parent_run_id`.

    `tags` identify the Dagster run. A window's data are written while the next window is processed;
    if that fails, the next call, or `flush`, raises.
    """

    ctx: ModelContext
    tracker: Tracker
    parent_run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    _caught_up: bool = False
    _champion: str | None = None
    _executor: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _pending_write: Future[None] | None = None

    def record_window(self, window: Window) -> str | None:
        """Record a reported window and the missing ones before it; return the address of its run.

        The data may still be being written when this returns. Returns None for a window whose batch
        is pruned; its record is kept. Raises `PredecessorMissing` without a report,
        `TrackerUnavailable`.
        """
        if self.ctx.repository.is_pruned(window.end):
            return None
        if not self._caught_up:
            for earlier in self._missing_before(window):
                self._record(earlier)
            self._caught_up = True
        return self.tracker.run_url(self._record(window))

    def record_deployments(self) -> None:
        """Register missing deployed models, and point the alias to the ledger's head.

        It never changes the ledger. Raises `TrackerUnavailable`.
        """
        chain = self.ctx.chain()
        if chain.head is None:
            return
        head = chain.head.entry.digest
        if head == self._champion:
            return
        self.flush()
        self.register_all()
        if self.tracker.champion(self.ctx.model) != head:
            self.tracker.set_champion(self.ctx.model, head)
        self._champion = head

    def flush(self) -> None:
        """Wait until all windows so far are recorded. Raises `TrackerUnavailable`."""
        pending, self._pending_write = self._pending_write, None
        if pending is not None:
            pending.result()

    def repair(self, drift: "Drift") -> None:
        """Record everything that is missing. Raises `TrackerUnavailable`."""
        for key in drift.windows:
            self._record(self.ctx.spec.calendar.window(key))
        self.flush()
        self.record_deployments()

    def register_all(self) -> None:
        """Register every deployed model, in the order of the ledger."""
        registered = set(self.tracker.versions(self.ctx.model))
        for valid_entry in self.ctx.chain().entries:
            if valid_entry.entry.digest not in registered:
                self.tracker.register(self.ctx.model, registry_version(valid_entry.entry))
                registered.add(valid_entry.entry.digest)

    def _missing_before(self, window: Window) -> list[Window]:
        """The windows directly before this one that the tracker lacks, in order."""
        missing: list[Window] = []
        previous = self.ctx.spec.calendar.before(window)
        while previous is not None and self.ctx.repository.report(previous.key) is not None:
            recorded = self.tracker.recorded_digest(self.ctx.model, previous.key) is not None
            if recorded or self.ctx.repository.is_pruned(previous.end):
                break
            missing.append(previous)
            previous = self.ctx.spec.calendar.before(previous)
        return missing[::-1]

    def _record(self, window: Window) -> str:
        run = self._build_run(window)
        self.flush()  # so that the tracker never handles two requests at once
        run_id = self.tracker.start_run(run.model, run.window, self.parent_run_id)
        self._pending_write = self._executor.submit(self.tracker.record, run_id, run)
        return run_id

    def _build_run(self, window: Window) -> WindowRun:
        repository = self.ctx.repository
        key = window.key
        report = repository.report(key)
        plan = repository.plan(key)
        manifest = repository.manifest(key)
        candidate = repository.candidate(report.lineage, key) if report else None
        if report is None or plan is None or manifest is None or candidate is None:
            raise PredecessorMissing(
                f"Window {key} of model {self.ctx.model} has no report yet.",
                f"Run `tidemill backfill {self.ctx.model} --from {key} --to {key}`.",
            )
        try:
            rows = self.ctx.load_rows(manifest)
        except DigestMismatch:  # pruned, or damaged, which `verify` reports
            rows = pl.DataFrame()
        spec = self.ctx.with_learning_spec(self.ctx.records.lineage(window).learning_spec).spec
        return window_run(spec, plan, manifest, candidate, report, rows, self.tags)


def find_drift(ctx: ModelContext, tracker: Tracker) -> Drift:
    """Compare the tracker with every report and the whole ledger. Raises `TrackerUnavailable`."""
    chain = ctx.chain()
    registered = set(tracker.versions(ctx.model))
    deployed = dict.fromkeys(valid_entry.entry.digest for valid_entry in chain.entries)
    return Drift(
        tuple(w.key for w in _reported_windows(ctx) if not _is_recorded(ctx, tracker, w)),
        tuple(digest for digest in deployed if digest not in registered),
        tracker.champion(ctx.model),
        chain.head.entry.digest if chain.head else None,
    )


def _reported_windows(ctx: ModelContext) -> Iterator[Window]:
    """Every reported window whose batch is not pruned."""
    window = ctx.spec.calendar.first
    marker = ctx.repository.prune_marker()
    if marker is not None:
        window = ctx.spec.calendar.after(ctx.spec.calendar.window(marker.window))
    while ctx.repository.report(window.key) is not None:
        yield window
        window = ctx.spec.calendar.after(window)


def _is_recorded(ctx: ModelContext, tracker: Tracker, window: Window) -> bool:
    report = ctx.repository.report(window.key)
    expected_digest = canonical.digest(canonical.encode(report))
    return tracker.recorded_digest(ctx.model, window.key) == expected_digest
