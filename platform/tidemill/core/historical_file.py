"""A file of historical data as JSON rows, which pass the same checks as those of the topic."""

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
    """The file's rows as one batch: an offset is a row number; the partition is a hash of the file.

    `name` ends in .parquet, .csv or .jsonl. Raises `SpecInvalid` if the file cannot be read, if the
    column of event time is missing or not a time, or if a row is not before the first window.
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
            f"{late} rows of `initial.file` {name} are not before {from_ms(first.start)}, the "
            f"start of the first window {first.key}.",
            "Remove them, or choose a later `windows.start`: no row may be learned twice.",
        )
    count = frame.height
    return RecordBatch(
        partition=int(canonical.digest(data)[:8], 16) & 0x7FFFFFFF,
        offsets=list(range(count)),
        timestamps=times.to_list(),
        values=list(frame.write_ndjson().encode().splitlines()),
    )


_REMEDY = "Use a .parquet, .csv or .jsonl file with the declared fields, the label and the time."


def _frame(spec: ModelSpec, name: str, data: bytes) -> pl.DataFrame:
    source = io.BytesIO(data)
    if name.endswith(".parquet"):
        return pl.read_parquet(source)
    if name.endswith(".csv"):
        texts = dict.fromkeys(spec.categories, pl.String)
        return pl.read_csv(source, schema_overrides=texts, infer_schema_length=None)
    if name.endswith(".jsonl"):
        return pl.read_ndjson(source, infer_schema_length=None)
    raise SpecInvalid(f"`initial.file` {name} does not have a supported format.", _REMEDY)


def _times(spec: ModelSpec, name: str, frame: pl.DataFrame) -> pl.Series:
    """Event times in milliseconds since 1970; an integer column already holds these."""
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
    raise SpecInvalid(f"Column {column!r} of {name} is not a time but {times.dtype}.", _REMEDY)
