"""Read: the records of a plan from the log, decoded."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from tidemill.core.decoding import Decoded, Decoder, Rejected, gc_paused
from tidemill.core.event_log import RecordBatch, TimestampCounts
from tidemill.core.plans import Plan
from tidemill.cycle.context import ModelContext
from tidemill.cycle.planning.topic_binding import verified_topic


@dataclass(frozen=True)
class DecodedRecords:
    """Decoded records: rows and rejected records, both in the order of partition and offset.

    `absent` counts, for each field, the rows whose message lacks that key; `timestamps` counts all
    records by the kind of their timestamp.
    """

    rows: pl.DataFrame
    rejected: Sequence[Rejected]
    absent: dict[str, int]
    timestamps: TimestampCounts


def read_records(ctx: ModelContext, plan: Plan) -> DecodedRecords:
    """Read exactly the planned offsets, from the same topic that they were planned on, and decode.

    Raises what `verified_topic` and `EventLog.read` raise.
    """
    if not plan.offset_ranges:
        return decode(ctx, ())
    verified_topic(ctx, plan)
    decoded = decode(ctx, ctx.event_log.read(plan.topic, plan.offset_ranges))
    verified_topic(ctx, plan)  # it may have been recreated in the meantime
    return decoded


def decode(ctx: ModelContext, record_batches: Iterable[RecordBatch]) -> DecodedRecords:
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
    return DecodedRecords(
        rows=pl.concat([decoder.empty(), *(d.rows for d in decoded)]).sort("_partition", "_offset"),
        rejected=sorted(rejected, key=lambda record: (record.partition, record.offset)),
        absent=dict(absent),
        timestamps=TimestampCounts(**counted),
    )
