"""Update: train the candidate model on one window's batch."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import polars as pl

from tidemill.core import canonical, learner, replay
from tidemill.core.bundle import Model
from tidemill.core.decoding import align_to_schema
from tidemill.core.errors import CommittedDataError, ParentInvalid
from tidemill.core.parquet import from_parquet, library_versions, to_parquet
from tidemill.core.records import Candidate, InitialModel, Lineage, Sample, UpdateKind
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.cycle.lineage import checked_lineage
from tidemill.cycle.model_store import file_ref, none_if_damaged
from tidemill.cycle.names import SAMPLES, manifest_name
from tidemill.failpoints import failpoint


def update(ctx: ModelContext, window: Window) -> Candidate:
    """The candidate of a window: a pure function of lineage, previous candidate and batch.

    An existing one is verified, and rebuilt if its bytes are damaged, unless `retention_windows`
    has pruned them. Raises `PredecessorMissing` without batch, previous candidate or initial model,
    `LineageChanged` if the learning spec has changed, `ParentInvalid` if the parent is missing or
    damaged.
    """
    lineage = checked_lineage(ctx, window)
    lineage_id = canonical.digest_of(lineage)
    existing = none_if_damaged(lambda: ctx.repository.candidate(lineage_id, window.key))
    if existing is not None and (
        ctx.repository.is_intact([existing.sample.snapshot], existing.bundles)
        or ctx.repository.is_pruned(window.end)
    ):
        return existing
    candidate = _learn(ctx.with_learning_spec(lineage.learning_spec), window, lineage)
    if existing is not None and candidate != existing:
        raise ParentInvalid(
            f"Candidate {window.key} of model {ctx.model} is damaged, and learning it again gives "
            f"{candidate.digest}, not {existing.digest}.",
            "Restore the model's files from a backup; `tidemill verify` names them.",
        )
    return ctx.repository.commit_candidate(candidate)


def _learn(ctx: ModelContext, window: Window, lineage: Lineage) -> Candidate:
    """Train the candidate of a window and commit its files, but not its record."""
    manifest = ctx.records.require_batch(window)
    predecessor = ctx.records.predecessor(window)
    carried = _carry(ctx, window, canonical.digest_of(lineage), predecessor)
    if manifest.rows == 0:
        return carried
    rows = learner.sort_canonical(ctx.load_rows(manifest))
    training_rows = learner.without_holdout(rows)
    parts = [rows] if training_rows is None else [rows, training_rows]
    parent = _load_parent(ctx, predecessor.digest)
    kind = _update_kind(ctx, window, lineage, predecessor)
    if kind == "retrain":
        parts = _retrain_samples(ctx, window, predecessor.sample, manifest.epoch, parts)
        sample = _commit_snapshot(ctx, carried, parts[0])
    else:
        windows_since = (*predecessor.sample.windows_since, window.key)
        sample = replace(predecessor.sample, windows_since=windows_since)
    model, *holdout_fits = _fit(ctx, kind, parent, parts, rows, carried)
    learned = replace(
        carried,
        kind=kind,
        digest=model.digest,
        num_iterations=model.num_iterations,
        tree_digest=model.tree_digest,
        since_retrain=0 if kind == "retrain" else carried.since_retrain,
        sample=sample,
    )
    if training_rows is None:
        return learned
    tail_rows = rows.height - training_rows.height
    return replace(learned, holdout=holdout_fits[0].digest, tail_rows=tail_rows)


def _carry(
    ctx: ModelContext, window: Window, lineage_id: str, predecessor: InitialModel | Candidate
) -> Candidate:
    """The candidate of a window without rows: its predecessor's model."""
    return Candidate(
        model=ctx.model,
        lineage=lineage_id,
        window=window.key,
        kind="carry",
        batch=ctx.repository.require_hash(manifest_name(window.key)),
        parent=predecessor.digest,
        digest=predecessor.digest,
        num_iterations=predecessor.num_iterations,
        tree_digest=predecessor.tree_digest,
        holdout=None,
        tail_rows=0,
        since_retrain=predecessor.since_retrain + 1,
        sample=predecessor.sample,
        seed=_seed(lineage_id, window),
        libraries=library_versions(),
    )


def _seed(lineage_id: str, window: Window) -> int:
    """The random seed of a window's training: 31 bits of a hash of lineage and window."""
    return int(canonical.digest(f"{lineage_id}/{window.key}".encode())[:8], 16) & 0x7FFFFFFF


def _update_kind(
    ctx: ModelContext, window: Window, lineage: Lineage, predecessor: InitialModel | Candidate
) -> UpdateKind:
    """Retrain when it is due, and in any case on trees that were trained under another lineage."""
    since_retrain = predecessor.since_retrain
    retrained = ctx.spec.calendar.nth_before(window, since_retrain + 1)
    if retrained is None:  # by the initial model
        is_same = lineage.learning_spec == ctx.records.first_lineage().learning_spec
    else:
        is_same = retrained.key >= lineage.first_window
    if not is_same:
        return "retrain"
    return learner.choose_update_kind(since_retrain, predecessor.num_iterations, ctx.spec.learner)


def _load_parent(ctx: ModelContext, digest: str) -> Model:
    try:
        return ctx.load(digest)
    except CommittedDataError as error:
        raise ParentInvalid(
            f"The model {digest} that {ctx.model} continues is missing or damaged: {error.message}",
            "Run the window that made it again; `tidemill verify` names the window.",
        ) from error


def _retrain_samples(
    ctx: ModelContext, window: Window, sample: Sample, epoch: int, parts: Sequence[pl.DataFrame]
) -> list[pl.DataFrame]:
    """For each part of the window's rows, the replay sample of it and all earlier rows.

    Rows that were archived under another spec are aligned to this one: missing fields are null.
    """
    spec = ctx.spec.learner.replay
    types = {name: field.type for name, field in ctx.spec.fields.items()}
    frames = [from_parquet(ctx.repository.file(sample.snapshot))]
    for key in sample.windows_since:
        manifest = ctx.records.require_batch(ctx.spec.calendar.window(key))
        frames.append(replay.with_epoch(ctx.load_rows(manifest), manifest.epoch))
    frames = [align_to_schema(frame, {**types, ctx.spec.label: "number"}) for frame in frames]
    return [
        replay.sample(
            [*frames, replay.with_epoch(part, epoch)], spec.rows, spec.half_life, ctx.model
        )
        for part in parts
    ]


def _commit_snapshot(ctx: ModelContext, candidate: Candidate, rows: pl.DataFrame) -> Sample:
    """Commit the replay sample that later windows continue from."""
    data = to_parquet(rows)
    stem = f"{SAMPLES}{candidate.lineage[:16]}/{candidate.window}"
    sample = Sample(file_ref(stem, "parquet", data))
    ctx.repository.put_file(sample.snapshot, data)
    return sample


def _fit(
    ctx: ModelContext,
    kind: UpdateKind,
    parent: Model,
    parts: Sequence[pl.DataFrame],
    rows: pl.DataFrame,
    candidate: Candidate,
) -> list[Model]:
    """Train a model on each part, in parallel threads: LightGBM releases the GIL."""

    def fit(part: pl.DataFrame) -> Model:
        bundle = learner.fit(
            ctx.spec,
            part,
            parent=parent,
            continue_=kind == "continue",
            golden=rows,
            window=candidate.window,
            seed=candidate.seed,
            num_threads=ctx.num_threads,
            function=ctx.feature_function,
        )
        return ctx.load(ctx.repository.put_bundle(bundle))

    failpoint("fit.before")
    with ThreadPoolExecutor(len(parts)) as pool:
        models = list(pool.map(fit, parts))
    failpoint("fit.after")
    return models
