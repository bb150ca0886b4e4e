"""Extract: read exactly the offsets of a window's plan and archive them as its batch."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import polars as pl

from tidemill.core.decoding import Decoded, Decoder, Rejected, gc_paused
from tidemill.core.errors import DataLost, DigestMismatch, TopicError
from tidemill.core.event_log import RecordBatch, TimestampCounts
from tidemill.core.parquet import library_versions, rows_digest, to_parquet
from tidemill.core.plans import INITIAL_KEY, Plan
from tidemill.core.records import FileRef, Manifest, SkipDecision
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.cycle.lineage import lineage_or_none
from tidemill.cycle.planning.plan import plan_window
from tidemill.cycle.planning.topic_binding import verified_topic
from tidemill.cycle.repository import file_ref, none_if_damaged
from tidemill.cycle.steps.quarantine import reject_invalid_batch, rejected_table


@dataclass(frozen=True)
class Batch:
    """Decoded records: rows and rejected records, both in the order of partition and offset.

    `absent` counts, for each field, the rows whose message lacks that key; `timestamps` counts all
    records by the kind of their timestamp.
    """

    rows: pl.DataFrame
    rejected: Sequence[Rejected]
    absent: dict[str, int]
    timestamps: TimestampCounts


def extract(ctx: ModelContext, window: Window) -> Manifest:
    """The batch of a window: planned, read, decoded, checked and committed.

    An existing batch is verified, and rebuilt from the log if its bytes are damaged, unless
    `retention_windows` has pruned them. Raises what `plan_window` raises (`LineageChanged` before
    anything is planned), `OffsetsExpired`, `LogUnavailable`, `TooManyRejects`, `SchemaBroken` and
    `DataLost`; then nothing is committed. The raw records of a refused batch are quarantined.
    """
    plan = plan_window(ctx, window)
    lineage = lineage_or_none(ctx, window)
    return extract_plan(ctx.with_learning_spec(lineage.learning_spec) if lineage else ctx, plan)


def extract_plan(ctx: ModelContext, plan: Plan) -> Manifest:
    """The batch of a committed plan: verified, created or repaired."""
    return get_or_create_batch(ctx, plan, plan_hash(ctx, plan), lambda: read_batch(ctx, plan))


def get_or_create_batch(
    ctx: ModelContext, plan: Plan, source_hash: str, build_batch: Callable[[], Batch]
) -> Manifest:
    """The existing batch, verified; without one, `build_batch`'s result, checked and committed.

    `source_hash` is the sha256 of the batch's plan, or of its file.
    """
    existing = None
    try:
        existing = ctx.repository.manifest(plan.window)
        if existing is not None:
            _check_files(ctx, existing)
    except DigestMismatch as damage:
        pruned = plan.window != INITIAL_KEY and ctx.repository.is_pruned(plan.end)
        if existing is not None and pruned:
            return existing
        return _rebuild(ctx, plan, source_hash, build_batch, damage)
    return existing or _commit(ctx, plan, source_hash, build_batch())


def files_intact(ctx: ModelContext, manifest: Manifest) -> bool:
    """Whether the files of a batch exist unchanged."""
    try:
        _check_files(ctx, manifest)
    except DigestMismatch:
        return False
    return True


def _commit(ctx: ModelContext, plan: Plan, source_hash: str, batch: Batch) -> Manifest:
    reject_invalid_batch(ctx, plan, batch.rows.height, batch.rejected, batch.absent)
    manifest, files = _build_manifest(ctx, plan, source_hash, batch)
    for ref, data in files:
        ctx.repository.put_file(ref, data)
    return ctx.repository.commit_manifest(manifest)


def read_batch(ctx: ModelContext, plan: Plan) -> Batch:
    """Read exactly the planned offsets, from the same topic that they were planned on, and decode.

    Raises what `verified_topic` and `EventLog.read` raise.
    """
    if not plan.offset_ranges:
        return decode(ctx, ())
    verified_topic(ctx, plan)
    batch = decode(ctx, ctx.event_log.read(plan.topic, plan.offset_ranges))
    verified_topic(ctx, plan)  # it may have been recreated in the meantime
    return batch


def empty_manifest(ctx: ModelContext, plan: Plan, skipped: SkipDecision) -> Manifest:
    """The manifest of a skipped window: no rows, and all offsets counted as gaps."""
    no_rows = Decoder(ctx.spec).empty()
    return Manifest(
        model=ctx.model,
        window=plan.window,
        epoch=plan.epoch,
        plan=plan_hash(ctx, plan),
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


def decode(ctx: ModelContext, record_batches: Iterable[RecordBatch]) -> Batch:
    """Decode one record batch after another, while the client fetches the next ones."""
    decoder = Decoder(ctx.spec)
    decoded: list[Decoded] = []
    counted: Counter[str] = Counter()
    with gc_paused():
        for record_batch in record_batches:
            untimed = record_batch.timestamps.count(None)
            created = len(record_batch.timestamps) - record_batch.log_append_time_count - untimed
            counted.update(
                create_time=created,
                log_append_time=record_batch.log_append_time_count,
                not_available=untimed,
            )
            decoded.append(
                decoder.decode(
                    record_batch.partition,
                    record_batch.offsets,
                    record_batch.timestamps,
                    record_batch.values,
                )
            )
    absent: Counter[str] = Counter()
    for part in decoded:
        absent.update(part.absent)
    rejected = [record for part in decoded for record in part.rejected]
    return Batch(
        rows=pl.concat([decoder.empty(), *(d.rows for d in decoded)]).sort("_partition", "_offset"),
        rejected=sorted(rejected, key=lambda record: (record.partition, record.offset)),
        absent=dict(absent),
        timestamps=TimestampCounts(**counted),
    )


def _build_manifest(
    ctx: ModelContext, plan: Plan, source_hash: str, batch: Batch
) -> tuple[Manifest, list[tuple[FileRef, bytes]]]:
    """The manifest of a batch and the files it names."""
    files: dict[str, tuple[FileRef, bytes]] = {}
    tables = (("rows", batch.rows), ("rejected", rejected_table(batch.rejected)))
    with ThreadPoolExecutor(1) as pool:  # hashing and compressing both release the GIL
        digest = pool.submit(rows_digest, batch.rows)
        for stem, table in tables:
            if table.height:
                data = to_parquet(table)
                files[stem] = file_ref(f"batches/{plan.window}/{stem}", "parquet", data), data
    rows, rejected = batch.rows.height, len(batch.rejected)
    manifest = Manifest(
        model=ctx.model,
        window=plan.window,
        epoch=plan.epoch,
        plan=source_hash,
        rows=rows,
        rejected=rejected,
        gaps=plan.offset_count - rows - rejected,
        late=batch.rows.filter(pl.col("_timestamp") < plan.start).height,
        early=batch.rows.filter(pl.col("_timestamp") >= plan.end).height,
        timestamps=batch.timestamps,
        missing={name: batch.rows[name].null_count() for name in ctx.spec.fields},
        reasons=dict(sorted(Counter(r.reason for r in batch.rejected).items())),
        rows_file=files["rows"][0] if "rows" in files else None,
        rejected_file=files["rejected"][0] if "rejected" in files else None,
        rows_digest=digest.result(),
        libraries=library_versions(),
    )
    return manifest, list(files.values())


def plan_hash(ctx: ModelContext, plan: Plan) -> str:
    """The sha256 of a committed plan."""
    return ctx.repository.require_hash(f"plans/{plan.window}.json")


def _check_files(ctx: ModelContext, manifest: Manifest) -> None:
    for ref in (manifest.rows_file, manifest.rejected_file):
        if ref is not None:
            ctx.repository.file(ref)


def _rebuild(
    ctx: ModelContext,
    plan: Plan,
    source_hash: str,
    build_batch: Callable[[], Batch],
    damage: DigestMismatch,
) -> Manifest:
    """Rebuild a damaged batch; only the same bytes as were committed are accepted.

    Raises `DataLost` if they cannot be restored.
    """
    remedy = "Restore the file from a backup."
    try:
        manifest, files = _build_manifest(ctx, plan, source_hash, build_batch())
    except TopicError as error:
        raise DataLost(
            f"{damage.message} It cannot be read again from Kafka: {error.message}", remedy
        ) from error
    existing = none_if_damaged(lambda: ctx.repository.manifest(plan.window))
    if existing is None:
        is_same = ctx.repository.is_same_as_damaged(manifest)
    else:
        expected_files = (existing.rows_file, existing.rejected_file)
        is_same = expected_files == (manifest.rows_file, manifest.rejected_file)
    if not is_same:
        raise DataLost(
            f"{damage.message} Rebuilding it gives bytes that differ from those committed.", remedy
        ) from damage
    for ref, data in files:
        ctx.repository.put_file(ref, data)
    return existing or ctx.repository.commit_manifest(manifest)
