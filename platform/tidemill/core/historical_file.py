"""A file of historical data as JSON rows, so that it passes the same checks as the stream."""

import io

import polars as pl

from tidemill.core import canonical
from tidemill.core.errors import SpecInvalid
from tidemill.core.event_log import RecordBatch
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import from_ms

EPOCH = -1
"""The epoch of rows that come from a file."""


def read(spec: ModelSpec, name: str, data: bytes) -> RecordBatch:
    """The file's rows as one chunk: the offset is the row number, the partition is the file's.

    `name` ends in .parquet, .csv or .jsonl. Raises `SpecInvalid` where it cannot be read, where
    the column of event time is missing or no time, or where a row is later than the first window.
    """
    try:
        frame = _frame(spec, name, data)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SpecInvalid(f"`initial.file` {name} cannot be read: {error}.", _REMEDY) from error
    times = _times(spec, name, frame)
    first = spec.calendar.first
    late = int((times >= first.start).sum())
    if late:
        raise SpecInvalid(
            f"{late} rows of `initial.file` {name} lie at or after {from_ms(first.start)}, where "
            f"the first window {first.key} begins.",
            "Leave them out, or let `windows.start` be later: no row may be learned twice.",
        )
    count = frame.height
    return RecordBatch(
        partition=int(canonical.digest(data)[:8], 16) & 0x7FFFFFFF,
        offsets=list(range(count)),
        timestamps=times.to_list(),
        values=list(frame.write_ndjson().encode().splitlines()),
    )


_REMEDY = "Give a .parquet, .csv or .jsonl file with the declared fields, the label and the time."


def _frame(spec: ModelSpec, name: str, data: bytes) -> pl.DataFrame:
    source = io.BytesIO(data)
    if name.endswith(".parquet"):
        return pl.read_parquet(source)
    if name.endswith(".csv"):
        texts = dict.fromkeys(spec.categories, pl.String)
        return pl.read_csv(source, schema_overrides=texts, infer_schema_length=None)
    if name.endswith(".jsonl"):
        return pl.read_ndjson(source, infer_schema_length=None)
    raise SpecInvalid(f"`initial.file` {name} is of no known kind.", _REMEDY)


def _times(spec: ModelSpec, name: str, frame: pl.DataFrame) -> pl.Series:
    """Event times in milliseconds since 1970: an integer column is taken as such."""
    column = spec.initial.time_column or ""
    if column not in frame.columns:
        raise SpecInvalid(f"`initial.file` {name} has no column {column!r}.", _REMEDY)
    times = frame[column]
    if times.dtype == pl.String:
        times = times.str.to_datetime(time_zone="UTC", strict=False)
    if times.dtype == pl.Date:
        times = times.cast(pl.Datetime)
    if isinstance(times.dtype, pl.Datetime):
        return times.dt.epoch("ms")
    if times.dtype.is_integer():
        return times.cast(pl.Int64)
    raise SpecInvalid(f"Column {column!r} of {name} is no time but {times.dtype}.", _REMEDY)
