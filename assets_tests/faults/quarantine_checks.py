"""Checks of the raw records that a blocked window keeps in the store."""

import polars as pl

from tidemill.core.parquet import from_parquet
from tidemill.cycle.context import ModelContext


def quarantined_records(ctx: ModelContext, window: str) -> pl.DataFrame:
    """The records in `quarantine/` of this window: every record of its plan, as in the log."""
    (name,) = ctx.repository.names("quarantine/")
    assert name.startswith(f"quarantine/{window}-")
    data, plan = ctx.repository.store.get(f"{ctx.model}/{name}"), ctx.repository.plan(window)
    assert data is not None
    assert plan is not None
    records = from_parquet(data)
    log = [
        (chunk.partition, *record)
        for chunk in ctx.event_log.read(plan.topic, plan.offset_ranges)
        for record in zip(chunk.offsets, chunk.timestamps, chunk.values, strict=True)
    ]
    assert records.select("_partition", "_offset", "_timestamp", "value").rows() == sorted(log)
    return records
