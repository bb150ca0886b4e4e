"""Extract: read exactly the offsets of a window's plan and archive them as its batch."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import polars as pl

from tidemill.core.decoding import Decoded, Decoder, Rejected, gc_paused
from tidemill.core.errors import (
    DataLost,
    DigestMismatch,
    LogTruncated,
    OffsetsExpired,
    PredecessorMissing,
    TopicCompacted,
    TopicMissing,
    TopicRecreated,
)
from tidemill.core.log import RecordBatch, TimestampCounts
from tidemill.core.plans import INITIAL_KEY, Plan
from tidemill.core.records import FileRef, Manifest, SkipDecision
from tidemill.core.tables import from_parquet, library_versions, rows_digest, to_parquet
from tidemill.core.windows import Window
from tidemill.cycle.archive import file_ref, unless_damaged
from tidemill.cycle.attach import topic_of
from tidemill.cycle.blocked import refuse_unfit, rejected_table
from tidemill.cycle.lines import line_if_begun
from tidemill.cycle.mill import Mill
from tidemill.cycle.plan import plan

GONE = (OffsetsExpired, LogTruncated, TopicMissing, TopicRecreated, TopicCompacted)
"""The faults that mean: the log no longer holds what was once read from it."""


@dataclass(frozen=True)
class Batch:
    """Decoded records: the rows by partition and offset, the rejected ones likewise.

    `absent` counts, for each field, the rows whose message has no such key; `timestamps` all
    records by the kind of their time.
    """

    rows: pl.DataFrame
    rejected: Sequence[Rejected]
    absent: dict[str, int]
    timestamps: TimestampCounts


def extract(mill: Mill, window: Window) -> Manifest:
    """The batch of a window: planned, read, decoded, checked and committed.

    A batch that stands is verified, and rebuilt from the log where its bytes are damaged, unless
    `keep_windows` has pruned them. Raises what `plan` raises, `OffsetsExpired`, `LogUnavailable`,
    `TooManyRejects`, `SchemaBroken`, `DataLost`; then nothing is committed; a batch that is refused
    is kept raw. Raises `LineChanged` before anything is planned.
    """
    planned = plan(mill, window)
    line = line_if_begun(mill, window)
    return extract_plan(mill.under(line.learning_spec) if line else mill, planned)


def extract_plan(mill: Mill, planned: Plan) -> Manifest:
    """The batch of a plan that stands: verified, made now, or mended."""
    return settle(mill, planned, plan_hash(mill, planned), lambda: read(mill, planned))


def settle(mill: Mill, planned: Plan, source: str, make: Callable[[], Batch]) -> Manifest:
    """The batch as it stands, verified; else what `make` gives is checked and committed.

    `source` is the sha256 of its plan, or of its file.
    """
    standing = None
    try:
        standing = mill.archive.manifest(planned.window)
        if standing is not None:
            _check_files(mill, standing)
    except DigestMismatch as damage:
        pruned = planned.window != INITIAL_KEY and mill.archive.is_pruned(planned.end)
        if standing is not None and pruned:
            return standing
        return _mend(mill, planned, source, make, damage)
    return standing or _commit(mill, planned, source, make())


def intact(mill: Mill, standing: Manifest) -> bool:
    """Whether the files of a batch are there, byte for byte."""
    try:
        _check_files(mill, standing)
    except DigestMismatch:
        return False
    return True


def _commit(mill: Mill, planned: Plan, source: str, batch: Batch) -> Manifest:
    refuse_unfit(mill, planned, batch.rows.height, batch.rejected, batch.absent)
    manifest, files = _describe(mill, planned, source, batch)
    for ref, data in files:
        mill.archive.put_file(ref, data)
    return mill.archive.commit_manifest(manifest)


def read(mill: Mill, planned: Plan) -> Batch:
    """Read exactly the planned offsets, of the very topic they were planned on, and decode them.

    Raises what `topic_of` and `EventLog.read` raise.
    """
    if not planned.offset_ranges:
        return decode(mill, ())
    topic_of(mill, planned)
    batch = decode(mill, mill.log.read(planned.topic, planned.offset_ranges))
    topic_of(mill, planned)  # it may have been recreated while it was read
    return batch


def batch_of(mill: Mill, window: Window) -> Manifest:
    """The manifest of a window's batch. Raises `PredecessorMissing`."""
    manifest = mill.archive.manifest(window.key)
    if manifest is None:
        raise PredecessorMissing(
            f"Window {window.key} of model {mill.model} has no batch.",
            f"Run `tidemill backfill {mill.model} --from {window.key} --to {window.key}`, or "
            f"`tidemill skip {mill.model} {window.key} --why REASON` if it cannot be read.",
        )
    return manifest


def rows_of(mill: Mill, manifest: Manifest) -> pl.DataFrame:
    """The rows of a batch, in the order of partition and offset, verified."""
    if manifest.rows_file is None:
        return Decoder(mill.spec).empty()
    return from_parquet(mill.archive.file(manifest.rows_file))


def empty_manifest(mill: Mill, planned: Plan, skipped: SkipDecision) -> Manifest:
    """A batch without rows, whose whole range is explained as skipped."""
    nothing = Decoder(mill.spec).empty()
    return Manifest(
        model=mill.model,
        window=planned.window,
        epoch=planned.epoch,
        plan=plan_hash(mill, planned),
        rows=0,
        rejected=0,
        gaps=planned.offset_count,
        late=0,
        early=0,
        timestamps=TimestampCounts(),
        missing={},
        reasons={},
        rows_file=None,
        rejected_file=None,
        rows_digest=rows_digest(nothing),
        skipped=skipped,
        libraries=library_versions(),
    )


def decode(mill: Mill, chunks: Iterable[RecordBatch]) -> Batch:
    """Decode chunk by chunk, while the client fetches the next ones."""
    decoder = Decoder(mill.spec)
    decoded: list[Decoded] = []
    counted: Counter[str] = Counter()
    with gc_paused():
        for chunk in chunks:
            none = chunk.timestamps.count(None)
            created = len(chunk.timestamps) - chunk.log_append_time_count - none
            counted.update(created=created, appended=chunk.log_append_time_count, none=none)
            decoded.append(
                decoder.decode(chunk.partition, chunk.offsets, chunk.timestamps, chunk.values)
            )
    absent: Counter[str] = Counter()
    for each in decoded:
        absent.update(each.absent)
    rejected = [one for each in decoded for one in each.rejected]
    return Batch(
        rows=pl.concat([decoder.empty(), *(d.rows for d in decoded)]).sort("_partition", "_offset"),
        rejected=sorted(rejected, key=lambda one: (one.partition, one.offset)),
        absent=dict(absent),
        timestamps=TimestampCounts(**counted),
    )


def _describe(
    mill: Mill, planned: Plan, source: str, batch: Batch
) -> tuple[Manifest, list[tuple[FileRef, bytes]]]:
    """The manifest of a batch and the files it names."""
    files: dict[str, tuple[FileRef, bytes]] = {}
    tables = (("rows", batch.rows), ("rejected", rejected_table(batch.rejected)))
    with ThreadPoolExecutor(1) as pool:  # hashing and compressing both let go of the interpreter
        digest = pool.submit(rows_digest, batch.rows)
        for stem, table in tables:
            if table.height:
                data = to_parquet(table)
                files[stem] = file_ref(f"batches/{planned.window}/{stem}", "parquet", data), data
    rows, rejected = batch.rows.height, len(batch.rejected)
    manifest = Manifest(
        model=mill.model,
        window=planned.window,
        epoch=planned.epoch,
        plan=source,
        rows=rows,
        rejected=rejected,
        gaps=planned.offset_count - rows - rejected,
        late=batch.rows.filter(pl.col("_timestamp") < planned.start).height,
        early=batch.rows.filter(pl.col("_timestamp") >= planned.end).height,
        timestamps=batch.timestamps,
        missing={name: batch.rows[name].null_count() for name in mill.spec.fields},
        reasons=dict(sorted(Counter(r.reason for r in batch.rejected).items())),
        rows_file=files["rows"][0] if "rows" in files else None,
        rejected_file=files["rejected"][0] if "rejected" in files else None,
        rows_digest=digest.result(),
        libraries=library_versions(),
    )
    return manifest, list(files.values())


def plan_hash(mill: Mill, planned: Plan) -> str:
    """The sha256 of a committed plan."""
    return mill.archive.committed(f"plans/{planned.window}.json")


def _check_files(mill: Mill, standing: Manifest) -> None:
    for ref in (standing.rows_file, standing.rejected_file):
        if ref is not None:
            mill.archive.file(ref)


def _mend(
    mill: Mill, planned: Plan, source: str, make: Callable[[], Batch], damage: DigestMismatch
) -> Manifest:
    """Make a damaged batch again; only the very bytes that were committed are taken.

    Raises `DataLost` where they cannot be had.
    """
    remedy = "Restore the file from a backup."
    try:
        manifest, files = _describe(mill, planned, source, make())
    except GONE as gone:
        raise DataLost(f"{damage.message} The log cannot give it again: {gone.message}", remedy) from gone
    standing = unless_damaged(lambda: mill.archive.manifest(planned.window))
    if standing is None:
        same = mill.archive.agrees(manifest)
    else:
        wanted = (standing.rows_file, standing.rejected_file)
        same = wanted == (manifest.rows_file, manifest.rejected_file)
    if not same:
        raise DataLost(
            f"{damage.message} Making it again gives other bytes than were committed.", remedy
        ) from damage
    for ref, data in files:
        mill.archive.put_file(ref, data)
    return standing or mill.archive.commit_manifest(manifest)
