"""Recompute: build everything again from its committed inputs, and compare."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from tidemill.core import canonical
from tidemill.core.errors import TopicError
from tidemill.core.plans import INITIAL_KEY
from tidemill.core.records import InitialModel, Manifest, PruneMarker
from tidemill.core.report_records import Report
from tidemill.core.spec_sections import GateSpec
from tidemill.core.windows import Window
from tidemill.cycle.audit.verification import VerificationReport
from tidemill.cycle.context import ModelContext
from tidemill.cycle.lineage import contexts_by_lineage
from tidemill.cycle.names import (
    FIRST_LINEAGE,
    INITIAL_MODEL,
    bundle_name,
    candidate_name,
    report_name,
)
from tidemill.cycle.repository import ModelRepository
from tidemill.cycle.steps.batch import extract_plan
from tidemill.cycle.steps.evaluate import evaluate
from tidemill.cycle.steps.initial import train
from tidemill.cycle.steps.update import update

Progress = Callable[[str], None]


def recompute(
    ctx: ModelContext,
    scratch: ModelRepository,
    report: VerificationReport,
    progress: Progress,
) -> None:
    """Build everything again into an empty repository and compare it record by record.

    Plans, adoptions and the manual entries in reports are taken as they are. Batches are read from
    the log; those that it no longer holds are taken as archived, and listed. Each window is built
    with the learning spec of its own lineage.

    If a record was made with other library versions, its rows and trees are compared instead of its
    bytes. In a pruned store, the comparison starts with the windows that are kept, from the
    retraining that they continue.
    """
    _Recomputation(ctx, scratch, report, progress).run()


@dataclass(frozen=True)
class _Recomputation:
    """One pass over a model's windows: `ctx` reads what is committed, `scratch` holds the copy."""

    ctx: ModelContext
    scratch: ModelRepository
    report: VerificationReport
    progress: Progress

    def run(self) -> None:
        repository = self.ctx.repository
        marker = self.ctx.repository.prune_marker()
        windows = list(self._planned_windows())
        self._copy_plans_and_adoptions(windows)
        self.progress(INITIAL_KEY)
        initial_model = repository.initial_model()
        if initial_model is None:
            return
        if marker is None:
            self._recompute_initial_model(initial_model)
        else:
            self._copy_start(marker)
            windows = [window for window in windows if window.end > marker.window_end_ms]
        context_for = contexts_by_lineage(self.ctx.with_repository(self.scratch))
        for window in windows:
            self.progress(window.key)
            recomputed = context_for(window)
            manifest = repository.manifest(window.key)
            if manifest is None:
                break
            self._recompute_window(recomputed, window, manifest)
            self.report.recomputed += 1

    def _planned_windows(self) -> Iterator[Window]:
        """The planned windows, in order."""
        window = self.ctx.spec.calendar.first
        while self.ctx.repository.plan(window.key) is not None:
            yield window
            window = self.ctx.spec.calendar.after(window)

    def _copy_plans_and_adoptions(self, windows: Iterable[Window]) -> None:
        for key in (INITIAL_KEY, *(window.key for window in windows)):
            plan = self.ctx.repository.plan(key)
            if plan is not None:
                self.scratch.commit_plan(plan)
        for number, adoption in self.ctx.repository.adoptions():
            self.scratch.commit_adoption(number, adoption)

    def _copy_start(self, marker: PruneMarker) -> None:
        """Copy what the windows after the marker continue from."""
        repository = self.ctx.repository
        initial_model = self.ctx.records.require_initial_model()
        start = self.ctx.records.candidate(self.ctx.spec.calendar.window(marker.window))
        report = repository.report(marker.window)
        digests = {
            initial_model.digest,
            *(valid_entry.entry.digest for valid_entry in self.ctx.chain().entries),
        }
        names = [INITIAL_MODEL, FIRST_LINEAGE, initial_model.sample.snapshot.name]
        if start is not None:
            names += [candidate_name(start.lineage, marker.window), start.sample.snapshot.name]
            digests.add(start.digest)
        if report is not None:
            names.append(report_name(marker.window))
            digests |= {report.state.champion, report.state.baseline}
        for name in (*names, *(bundle_name(digest) for digest in digests)):
            repository.copy_to(name, self.scratch)

    def _recompute_initial_model(self, committed: InitialModel) -> None:
        recomputed = self.ctx.with_repository(self.scratch).with_learning_spec(
            committed.learning_spec
        )
        manifest = self.ctx.repository.manifest(INITIAL_KEY)
        if manifest is not None and self.ctx.historical_data is None:
            batch = self._recompute_batch(recomputed, manifest)
            self._compare(INITIAL_KEY, "batch", manifest, batch)
        self._compare(INITIAL_KEY, "initial model", committed, train(recomputed))

    def _recompute_window(
        self, recomputed: ModelContext, window: Window, manifest: Manifest
    ) -> None:
        batch = self._recompute_batch(recomputed, manifest)
        self._compare(window.key, "batch", manifest, batch)
        candidate = self.ctx.records.candidate(window)
        if candidate is None:
            return
        self._compare(window.key, "candidate", candidate, update(recomputed, window))
        report = self.ctx.repository.report(window.key)
        if report is not None:
            gate_ctx = _with_gate_of(recomputed, report)
            self._compare(window.key, "report", report, evaluate(gate_ctx, window, report.entries))

    def _recompute_batch(self, recomputed: ModelContext, manifest: Manifest) -> Manifest:
        """Read a batch from the log again; one that it no longer holds is taken as archived.

        If the topic lost planned records and was adopted again, other records are at their offsets.
        """
        if manifest.skipped is not None:
            return self.scratch.commit_manifest(manifest)
        plan = self.scratch.plan(manifest.window)
        assert plan is not None  # copied above
        adoptions = self.ctx.repository.adoptions()
        epochs = [a.epoch for _, a in adoptions if a.topic_id == plan.topic_id]
        if plan.epoch == max(epochs, default=plan.epoch):
            with suppress(TopicError):
                return extract_plan(recomputed, plan)
        self.report.taken_as_archived.append(manifest.window)
        for ref in manifest.files:
            self.scratch.put_file(ref, self.ctx.repository.file(ref))
        return self.scratch.commit_manifest(manifest)

    def _compare(
        self, window: str, record_kind: str, committed: object, recomputed: object
    ) -> None:
        """Compare bytes; with other library versions, the digests of rows or trees suffice."""
        if canonical.encode(committed) == canonical.encode(recomputed):
            return
        old, new = canonical.to_builtins(committed), canonical.to_builtins(recomputed)
        if old.get("libraries", {}) != new.get("libraries", {}):
            digest_keys = [key for key in ("rows_digest", "tree_digest") if key in old]
            if digest_keys and all(old[key] == new[key] for key in digest_keys):
                return
        keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        self.report.findings.append(
            f"The {record_kind} of window {window} is not reproduced: {', '.join(keys)} differ."
        )


def _with_gate_of(recomputed: ModelContext, report: Report) -> ModelContext:
    """The context with the gate of the report, which may have been changed since."""
    gate = GateSpec.model_validate(report.gate)
    if not report.gate or gate == recomputed.spec.gate:
        return recomputed
    return replace(recomputed, spec=recomputed.spec.model_copy(update={"gate": gate}))
