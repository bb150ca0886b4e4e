"""Evaluate: score the models on a window's rows, which none has learned from, and decide."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl

from tidemill.core import learner, report
from tidemill.core.decoding import align_to_schema
from tidemill.core.errors import PredecessorMissing
from tidemill.core.evaluation import EvaluationInputs, EvaluationRows, scored_roles
from tidemill.core.features import Array
from tidemill.core.gate import AppliedEntry
from tidemill.core.ledger import manual_entries_since
from tidemill.core.records import Candidate, Manifest
from tidemill.core.report_records import InputDigests, Report
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.cycle.ledger import read_chain
from tidemill.cycle.lineage import checked_lineage
from tidemill.cycle.model_store import none_if_damaged
from tidemill.cycle.names import candidate_name, manifest_name, report_name

_MAX_WORKERS = 4
"""Models that predict at the same time."""


def evaluate(
    ctx: ModelContext, window: Window, entries: Sequence[AppliedEntry] | None = None
) -> Report:
    """The report of a window, with the gate's verdict.

    `entries` are the manual entries to apply, by default those since the previous report; an
    existing report keeps its own. Raises `PredecessorMissing`, `DigestMismatch`, `LineageChanged`.
    """
    existing = none_if_damaged(lambda: ctx.repository.report(window.key))
    if existing is not None:
        return existing
    ctx = ctx.with_learning_spec(checked_lineage(ctx, window).learning_spec)
    manifest = ctx.records.require_batch(window)
    candidate = ctx.records.require_candidate(window)
    previous = _previous(ctx, window)
    if entries is None:
        entries = _manual_entries(ctx, window, previous)
    inputs = _inputs(ctx, window, manifest, candidate, previous, entries)
    return ctx.repository.commit_report(_build_report(ctx, inputs, manifest))


def _previous(ctx: ModelContext, window: Window) -> Report | None:
    """The report of the previous window; None for the first. Raises `PredecessorMissing`."""
    previous_window = ctx.spec.calendar.before(window)
    if previous_window is None:
        return None
    previous = ctx.repository.report(previous_window.key)
    if previous is None:
        raise PredecessorMissing(
            f"Window {previous_window.key} of model {ctx.model} has no evaluation report, whose "
            f"gate state window {window.key} continues from.",
            f"Run `tidemill backfill {ctx.model} --from {previous_window.key} --to {window.key}`.",
        )
    return previous


def _manual_entries(
    ctx: ModelContext, window: Window, previous: Report | None
) -> list[AppliedEntry]:
    after_seq = previous.ledger_seq if previous else -1
    entries = manual_entries_since(read_chain(ctx), after_seq, window.start)
    return [
        AppliedEntry(valid.entry.seq, valid.hash, valid.entry.kind, valid.entry.digest)
        for valid in entries
    ]


def _inputs(
    ctx: ModelContext,
    window: Window,
    manifest: Manifest,
    candidate: Candidate,
    previous: Report | None,
    entries: Sequence[AppliedEntry],
) -> EvaluationInputs:
    require_hash = ctx.repository.require_hash
    inputs = InputDigests(
        previous=require_hash(report_name(previous.window)) if previous else None,
        batch=require_hash(manifest_name(window.key)),
        candidate=require_hash(candidate_name(candidate.lineage, window.key)),
    )
    return EvaluationInputs(
        model=ctx.model,
        spec=ctx.spec,
        window=window,
        candidate=candidate,
        initial=ctx.records.require_initial_model().digest,
        previous=previous,
        input_digests=inputs,
        entries=tuple(entries),
        ages=_ages(previous, candidate),
        timestamps=manifest.timestamps,
    )


def _ages(previous: Report | None, candidate: Candidate) -> dict[str, int]:
    """The number of windows since each model was trained, for the previous report's models."""
    previous_models = previous.models.values() if previous else ()
    ages = {role.digest: role.age + 1 for role in previous_models if role.age is not None}
    return {candidate.parent: 1} | ages | {candidate.digest: 0, candidate.holdout or "": 0}


def _build_report(ctx: ModelContext, inputs: EvaluationInputs, manifest: Manifest) -> Report:
    rows = learner.sort_canonical(ctx.load_rows(manifest))
    digests = set(scored_roles(inputs).values())
    candidate = inputs.candidate
    tail_mask = None
    tail_predictions = None
    with ThreadPoolExecutor(_MAX_WORKERS) as pool:  # LightGBM releases the GIL while it predicts
        futures = {digest: pool.submit(_predict, ctx, digest, rows) for digest in digests}
        if candidate.holdout is not None:
            tail_mask = np.arange(rows.height) >= rows.height - candidate.tail_rows
            tail_predictions = _predict(ctx, candidate.holdout, rows.tail(candidate.tail_rows))
        predictions = {digest: future.result() for digest, future in futures.items()}
    return report.build_report(
        inputs,
        EvaluationRows(
            label=_floats(rows, ctx.spec.label),
            timestamp=rows["_timestamp"].to_numpy(),
            tail=tail_mask,
            slices={
                name: align_to_schema(rows, {name: "category"})[name]
                for name in ctx.spec.gate.slices
            },
        ),
        predictions,
        tail_predictions,
    )


def _predict(ctx: ModelContext, digest: str, rows: pl.DataFrame) -> Array:
    """A model's predictions on these rows, of which it sees only its own fields."""
    model = ctx.load(digest)
    return model.predict(align_to_schema(rows, dict(model.header.fields)))


def _floats(rows: pl.DataFrame, column: str) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return rows[column].cast(pl.Float64).to_numpy()
