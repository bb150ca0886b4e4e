"""Batches: commit the records of a plan as its batch, or rebuild a damaged one."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import polars as pl

from tidemill.core.decoding import Decoder
from tidemill.core.errors import DataLost, DigestMismatch, TopicError
from tidemill.core.event_log import TimestampCounts
from tidemill.core.parquet import library_versions, rows_digest, to_parquet
from tidemill.core.plans import INITIAL_KEY, Plan
from tidemill.core.records import FileRef, Manifest, SkipDecision
from tidemill.cycle.context import ModelContext
from tidemill.cycle.model_store import file_ref, none_if_damaged
from tidemill.cycle.names import BATCHES, plan_name
from tidemill.cycle.steps.quarantine import reject_invalid_batch, rejected_table
from tidemill.cycle.steps.read import DecodedRecords, read_records


def extract_plan(ctx: ModelContext, plan: Plan) -> Manifest:
    """The batch of a committed plan: verified, created or repaired."""
    return get_or_create_batch(ctx, plan, _plan_hash(ctx, plan), lambda: read_records(ctx, plan))


def get_or_create_batch(
    ctx: ModelContext, plan: Plan, source_hash: str, read: Callable[[], DecodedRecords]
) -> Manifest:
    """The existing batch, verified; without one, `read`'s result, checked and committed.

    `source_hash` is the sha256 of the batch's plan, or of its file.
    """
    existing = None
    try:
        existing = ctx.repository.manifest(plan.window)
        if existing is not None:
            for ref in existing.files:
                ctx.repository.file(ref)
    except DigestMismatch as damage:
        pruned = plan.window != INITIAL_KEY and ctx.repository.is_pruned(plan.end)
        if existing is not None and pruned:
            return existing
        return _rebuild(ctx, plan, source_hash, read, damage)
    return existing or _commit(ctx, plan, source_hash, read())


def empty_manifest(ctx: ModelContext, plan: Plan, skipped: SkipDecision) -> Manifest:
    """The manifest of a skipped window: no rows, and all offsets counted as gaps."""
    no_rows = Decoder(ctx.spec).empty()
    return Manifest(
        model=ctx.model,
        window=plan.window,
        epoch=plan.epoch,
        plan=_plan_hash(ctx, plan),
        rows=0,
        rejected=0,
        gaps=plan.offset_count,
        late=0,
        early=0,
        timestamps=TimestampCounts(),
        missing={},
        reasons={},
        rows_file=None,
        rejected_file=None,
        rows_digest=rows_digest(no_rows),
        skipped=skipped,
        libraries=library_versions(),
    )


def _commit(ctx: ModelContext, plan: Plan, source_hash: str, decoded: DecodedRecords) -> Manifest:
    reject_invalid_batch(ctx, plan, decoded.rows.height, decoded.rejected, decoded.absent)
    manifest, files = _build_manifest(ctx, plan, source_hash, decoded)
    for ref, data in files:
        ctx.repository.put_file(ref, data)
    return ctx.repository.commit_manifest(manifest)


def _build_manifest(
    ctx: ModelContext, plan: Plan, source_hash: str, decoded: DecodedRecords
) -> tuple[Manifest, list[tuple[FileRef, bytes]]]:
    """The manifest of a batch and the files it names."""
    files: dict[str, tuple[FileRef, bytes]] = {}
    tables = (("rows", decoded.rows), ("rejected", rejected_table(decoded.rejected)))
    with ThreadPoolExecutor(1) as pool:  # hashing and compressing both release the GIL
        digest = pool.submit(rows_digest, decoded.rows)
        for stem, table in tables:
            if table.height:
                data = to_parquet(table)
                files[stem] = file_ref(f"{BATCHES}{plan.window}/{stem}", "parquet", data), data
    rows = decoded.rows.height
    rejected = len(decoded.rejected)
    manifest = Manifest(
        model=ctx.model,
        window=plan.window,
        epoch=plan.epoch,
        plan=source_hash,
        rows=rows,
        rejected=rejected,
        gaps=plan.offset_count - rows - rejected,
        late=decoded.rows.filter(pl.col("_timestamp") < plan.start).height,
        early=decoded.rows.filter(pl.col("_timestamp") >= plan.end).height,
        timestamps=decoded.timestamps,
        missing={name: decoded.rows[name].null_count() for name in ctx.spec.fields},
        reasons=dict(sorted(Counter(r.reason for r in decoded.rejected).items())),
        rows_file=files["rows"][0] if "rows" in files else None,
        rejected_file=files["rejected"][0] if "rejected" in files else None,
        rows_digest=digest.result(),
        libraries=library_versions(),
    )
    return manifest, list(files.values())


def _rebuild(
    ctx: ModelContext,
    plan: Plan,
    source_hash: str,
    read: Callable[[], DecodedRecords],
    damage: DigestMismatch,
) -> Manifest:
    """Rebuild a damaged batch; only the same bytes as were committed are accepted.

    Raises `DataLost` if they cannot be restored.
    """
    remedy = "Restore the file from a backup."
    try:
        manifest, files = _build_manifest(ctx, plan, source_hash, read())
    except TopicError as error:
        raise DataLost(
            f"{damage.message} It cannot be read again from Kafka: {error.message}", remedy
        ) from error
    existing = none_if_damaged(lambda: ctx.repository.manifest(plan.window))
    if existing is None:
        is_same = ctx.repository.is_damaged_copy_of(manifest)
    else:
        is_same = existing.files == manifest.files
    if not is_same:
        raise DataLost(
            f"{damage.message} Rebuilding it gives bytes that differ from those committed.", remedy
        ) from damage
    for ref, data in files:
        ctx.repository.put_file(ref, data)
    return existing or ctx.repository.commit_manifest(manifest)


def _plan_hash(ctx: ModelContext, plan: Plan) -> str:
    """The sha256 of a committed plan."""
    return ctx.repository.require_hash(plan_name(plan.window))
