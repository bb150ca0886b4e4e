"""Recompute: build everything again from its committed inputs, and compare."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

from tidemill.core import canonical
from tidemill.core.errors import TopicError
from tidemill.core.plans import INITIAL_KEY
from tidemill.core.records import Manifest, PruneMarker
from tidemill.core.report_records import Report
from tidemill.core.spec_sections import GateSpec
from tidemill.core.windows import Window
from tidemill.cycle.audit.verify import VerificationReport
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
    verification: VerificationReport,
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
    marker = ctx.repository.prune_marker()
    windows = list(_planned_windows(ctx, ctx.repository))
    for key in (INITIAL_KEY, *(window.key for window in windows)):
        plan = ctx.repository.plan(key)
        if plan is not None:
            scratch.commit_plan(plan)
    for number, adoption in ctx.repository.adoptions():
        scratch.commit_adoption(number, adoption)
    progress(INITIAL_KEY)
    initial_model = ctx.repository.initial_model()
    if initial_model is None:
        return
    if marker is None:
        _recompute_initial_model(
            ctx,
            ctx.with_repository(scratch).with_learning_spec(initial_model.learning_spec),
            verification,
        )
    else:
        _seed_scratch(ctx, scratch, marker)
    context_for = contexts_by_lineage(ctx.with_repository(scratch))
    for window in (
        planned_window
        for planned_window in windows
        if marker is None or planned_window.end > marker.window_end_ms
    ):
        progress(window.key)
        recomputed = context_for(window)
        manifest = ctx.repository.manifest(window.key)
        if manifest is None:
            break
        batch = _recompute_batch(ctx, recomputed, manifest, verification)
        _compare(verification, window.key, "batch", manifest, batch)
        candidate = ctx.records.candidate(window)
        if candidate is not None:
            _compare(verification, window.key, "candidate", candidate, update(recomputed, window))
        report = ctx.repository.report(window.key)
        if report is not None and candidate is not None:
            recomputed_report = evaluate(_with_gate_of(recomputed, report), window, report.entries)
            _compare(verification, window.key, "report", report, recomputed_report)
        verification.recomputed += 1


def _with_gate_of(recomputed: ModelContext, report: Report) -> ModelContext:
    """The context with the gate of the report, which may have been changed since."""
    gate = GateSpec.model_validate(report.gate)
    if not report.gate or gate == recomputed.spec.gate:
        return recomputed
    return replace(recomputed, spec=recomputed.spec.model_copy(update={"gate": gate}))


def _recompute_initial_model(
    ctx: ModelContext, recomputed: ModelContext, verification: VerificationReport
) -> None:
    manifest = ctx.repository.manifest(INITIAL_KEY)
    if manifest is not None and ctx.historical_data is None:
        _compare(
            verification,
            INITIAL_KEY,
            "batch",
            manifest,
            _recompute_batch(ctx, recomputed, manifest, verification),
        )
    _compare(
        verification,
        INITIAL_KEY,
        "initial model",
        ctx.repository.initial_model(),
        train(recomputed),
    )


def _seed_scratch(ctx: ModelContext, scratch: ModelRepository, marker: PruneMarker) -> None:
    """Copy to the scratch repository what the windows after the marker continue from."""
    repository, initial_model = ctx.repository, ctx.records.require_initial_model()
    lineage_id = ctx.records.lineage_id(ctx.spec.calendar.window(marker.window))
    start, report = (
        repository.candidate(lineage_id, marker.window),
        repository.report(marker.window),
    )
    digests = {
        initial_model.digest,
        *(valid_entry.entry.digest for valid_entry in ctx.chain().entries),
    }
    names = [INITIAL_MODEL, FIRST_LINEAGE, initial_model.sample.snapshot.name]
    if start is not None:
        names += [candidate_name(lineage_id, marker.window), start.sample.snapshot.name]
        digests.add(start.digest)
    if report is not None:
        names.append(report_name(marker.window))
        digests |= {report.state.champion, report.state.baseline}
    for name in (*names, *(bundle_name(digest) for digest in digests)):
        repository.copy_to(name, scratch)


def _recompute_batch(
    ctx: ModelContext,
    recomputed: ModelContext,
    manifest: Manifest,
    verification: VerificationReport,
) -> Manifest:
    """Read a batch from the log again; one that it no longer holds is taken as archived.

    If the topic lost planned records and was adopted again, other records are at their offsets.
    """
    if manifest.skipped is not None:
        return recomputed.repository.commit_manifest(manifest)
    plan = recomputed.repository.plan(manifest.window)
    assert plan is not None  # copied above
    epochs = [a.epoch for _, a in ctx.repository.adoptions() if a.topic_id == plan.topic_id]
    if plan.epoch == max(epochs, default=plan.epoch):
        with suppress(TopicError):
            return extract_plan(recomputed, plan)
    verification.taken_as_archived.append(manifest.window)
    for ref in manifest.files:
        recomputed.repository.put_file(ref, ctx.repository.file(ref))
    return recomputed.repository.commit_manifest(manifest)


def _compare(
    verification: VerificationReport,
    window: str,
    record_kind: str,
    committed: object,
    recomputed: object,
) -> None:
    """Compare bytes if the library versions are the same, else the digests of rows and trees."""
    if canonical.encode(committed) == canonical.encode(recomputed):
        return
    old, new = canonical.to_builtins(committed), canonical.to_builtins(recomputed)
    if old.get("libraries", {}) != new.get("libraries", {}):
        digest_keys = [key for key in ("rows_digest", "tree_digest") if key in old]
        if digest_keys and all(old[key] == new[key] for key in digest_keys):
            return
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    verification.findings.append(
        f"The {record_kind} of window {window} is not reproduced: {', '.join(keys)} differ."
    )


def _planned_windows(ctx: ModelContext, repository: ModelRepository) -> Iterator[Window]:
    """The planned windows, in order."""
    window = ctx.spec.calendar.first
    while repository.plan(window.key) is not None:
        yield window
        window = ctx.spec.calendar.after(window)
