"""The raw records that a blocked window leaves in the store."""

import polars as pl

from tidemill.core.tables import from_parquet
from tidemill.cycle.mill import ModelContext


def kept_raw(mill: ModelContext, window: str) -> pl.DataFrame:
    """What lies in `blocked/` for this window: every record of its plan, as it lies in the log."""
    (name,) = mill.repository.names("blocked/")
    assert name.startswith(f"blocked/{window}-")
    data, plan = mill.repository.store.get(f"{mill.model}/{name}"), mill.repository.plan(window)
    assert data is not None
    assert plan is not None
    kept = from_parquet(data)
    log = [
        (chunk.partition, *record)
        for chunk in mill.event_log.read(plan.topic, plan.offset_ranges)
        for record in zip(chunk.offsets, chunk.timestamps, chunk.values, strict=True)
    ]
    assert kept.select("_partition", "_offset", "_timestamp", "value").rows() == sorted(log)
    return kept
