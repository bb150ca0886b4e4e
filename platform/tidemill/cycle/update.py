"""Update: let the candidate model learn from one window's batch."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import polars as pl

from tidemill.core import canonical, learner, replay
from tidemill.core.bundle import Model
from tidemill.core.decoding import align_to_schema
from tidemill.core.errors import (
    DigestMismatch,
    ModelPruned,
    ParentInvalid,
    PredecessorMissing,
)
from tidemill.core.records import Candidate, Lineage, Sample
from tidemill.core.tables import from_parquet, library_versions, to_parquet
from tidemill.core.windows import Window
from tidemill.cycle.archive import file_ref, unless_damaged
from tidemill.cycle.extract import batch_of, rows_of
from tidemill.cycle.lines import current_line, first_line, initial_of, line_id
from tidemill.cycle.mill import Mill
from tidemill.failpoints import reached


def update(mill: Mill, window: Window) -> Candidate:
    """The candidate of a window: a pure function of line, previous candidate and batch.

    One that stands is verified, and made again where its bytes are damaged, unless `keep_windows`
    has pruned them. Raises `PredecessorMissing` without batch, previous candidate or initial model,
    `LineChanged` where the learning spec is another, `ParentDigest` where the parent's bytes are
    not its own.
    """
    begun = current_line(mill, window)
    line = canonical.digest_of(begun)
    standing = unless_damaged(lambda: mill.archive.candidate(line, window.key))
    if standing is not None and (_intact(mill, standing) or mill.archive.is_pruned(window.end)):
        return standing
    made = _learn(mill.under(begun.learning_spec), window, begun)
    if standing is not None and made != standing:
        raise ParentInvalid(
            f"Candidate {window.key} of model {mill.model} is damaged, and learning it again gives "
            f"{made.digest}, not {standing.digest}.",
            "Restore the model's files from a backup; `tidemill verify` names them.",
        )
    return mill.archive.commit_candidate(made)


def candidate_of(mill: Mill, window: Window) -> Candidate:
    """The candidate record of a window, of its own line. Raises `PredecessorMissing`."""
    candidate = mill.archive.candidate(line_id(mill, window), window.key)
    if candidate is None:
        raise PredecessorMissing(
            f"Window {window.key} of model {mill.model} has no candidate.",
            f"Run `tidemill backfill {mill.model} --from {window.key} --to {window.key}`, or "
            f"`tidemill skip {mill.model} {window.key} --why REASON` if it cannot be mended.",
        )
    return candidate


def _intact(mill: Mill, candidate: Candidate) -> bool:
    """Whether the files of a standing candidate are there, byte for byte."""
    try:
        mill.archive.bundle(candidate.digest)
        if candidate.holdout is not None:
            mill.archive.bundle(candidate.holdout)
        mill.archive.file(candidate.sample.snapshot)
    except (DigestMismatch, ModelPruned):
        return False
    return True


@dataclass(frozen=True)
class _Before:
    """Where a window's learning starts: the previous candidate, or the initial model."""

    digest: str
    trees: int
    tree_digest: str
    since_retrain: int
    sample: Sample


def _before(mill: Mill, window: Window) -> _Before:
    earlier = mill.spec.calendar.before(window)
    if earlier is None:
        i = initial_of(mill)
        return _Before(i.digest, i.num_iterations, i.tree_digest, 0, i.sample)
    c = candidate_of(mill, earlier)
    return _Before(c.digest, c.num_iterations, c.tree_digest, c.since_retrain, c.sample)


def _of_line(mill: Mill, window: Window, line: Lineage, since_retrain: int) -> bool:
    """Whether the trees that the window goes on from were grown under this line."""
    retrained = mill.spec.calendar.nth_before(window, since_retrain + 1)
    if retrained is None:  # by the initial model
        return line.learning_spec == first_line(mill).learning_spec
    return retrained.key >= line.first_window


def _learn(mill: Mill, window: Window, begun: Lineage) -> Candidate:
    """Make the candidate of a window and commit its files, but not its record."""
    line = canonical.digest_of(begun)
    manifest, before = batch_of(mill, window), _before(mill, window)
    carried = Candidate(
        model=mill.model,
        lineage=line,
        window=window.key,
        kind="carry",
        batch=mill.archive.committed(f"batches/{window.key}/manifest.json"),
        parent=before.digest,
        digest=before.digest,
        num_iterations=before.trees,
        tree_digest=before.tree_digest,
        holdout=None,
        tail_rows=0,
        since_retrain=before.since_retrain + 1,
        sample=before.sample,
        seed=_seed(line, window),
        libraries=library_versions(),
    )
    if manifest.rows == 0:
        return carried
    rows = learner.sort_canonical(rows_of(mill, manifest))
    head = learner.without_holdout(rows)
    parts = [rows] if head is None else [rows, head]
    parent = _parent(mill, before.digest)
    sample = replace(before.sample, since=(*before.sample.windows_since, window.key))
    kind = learner.choose_update_kind(before.since_retrain, before.trees, mill.spec.learner)
    if not _of_line(mill, window, begun, before.since_retrain):
        kind = "retrain"
    if kind == "retrain":
        parts = _samples(mill, window, before.sample, manifest.epoch, parts)
        data = to_parquet(parts[0])
        sample = Sample(file_ref(f"samples/{line[:16]}/{window.key}", "parquet", data))
        mill.archive.put_file(sample.snapshot, data)
    models = _fit(mill, window, kind, parent, parts, rows, carried.seed)
    return replace(
        carried,
        kind=kind,
        digest=models[0].digest,
        trees=models[0].num_iterations,
        tree_digest=models[0].tree_digest,
        holdout=models[1].digest if head is not None else None,
        tail_rows=rows.height - head.height if head is not None else 0,
        since_retrain=0 if kind == "retrain" else carried.since_retrain,
        sample=sample,
    )


def _seed(line: str, window: Window) -> int:
    """The randomness of a step: 31 bits of its name."""
    return int(canonical.digest(f"{line}/{window.key}".encode())[:8], 16) & 0x7FFFFFFF


def _parent(mill: Mill, digest: str) -> Model:
    try:
        return mill.load(digest)
    except (DigestMismatch, ModelPruned) as error:
        raise ParentInvalid(
            f"The model {digest} that {mill.model} continues is missing or damaged: {error.message}",
            "Run the window that made it again; `tidemill verify` names the window.",
        ) from error


def _samples(
    mill: Mill, window: Window, sample: Sample, epoch: int, parts: Sequence[pl.DataFrame]
) -> list[pl.DataFrame]:
    """For each part of the window's rows, the replay sample of it and all that came before.

    What was archived under another spec has the fields of this one: null where it lacks them.
    """
    spec = mill.spec.learner.replay
    types = {name: field.type for name, field in mill.spec.fields.items()}
    history = [from_parquet(mill.archive.file(sample.snapshot))]
    for key in sample.windows_since:
        manifest = batch_of(mill, mill.spec.calendar.window(key))
        history.append(replay.with_epoch(rows_of(mill, manifest), manifest.epoch))
    history = [align_to_schema(frame, {**types, mill.spec.label: "number"}) for frame in history]
    return [
        replay.sample(
            [*history, replay.with_epoch(part, epoch)], spec.rows, spec.half_life, mill.model
        )
        for part in parts
    ]


def _fit(
    mill: Mill,
    window: Window,
    kind: str,
    parent: Model,
    parts: Sequence[pl.DataFrame],
    rows: pl.DataFrame,
    seed: int,
) -> list[Model]:
    """Learn from each part, at the same time: LightGBM trains outside the interpreter's lock."""

    def fit(part: pl.DataFrame) -> Model:
        bundle = learner.fit(
            mill.spec,
            part,
            parent=parent,
            continue_=kind == "continue",
            golden=rows,
            window=window.key,
            seed=seed,
            num_threads=mill.num_threads,
            function=mill.features,
        )
        return mill.load(mill.archive.put_bundle(bundle))

    reached("fit.before")
    with ThreadPoolExecutor(len(parts)) as pool:
        models = list(pool.map(fit, parts))
    reached("fit.after")
    return models
