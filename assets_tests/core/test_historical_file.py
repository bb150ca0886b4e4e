"""A file of historical data passes the same checks as the topic."""

import io
from datetime import UTC, datetime

import polars as pl
import pytest

from tidemill.core import historical_file
from tidemill.core.decoding import Decoder
from tidemill.core.errors import SpecInvalid
from tidemill.core.spec import ModelSpec

SPEC = ModelSpec.create(
    "m",
    {
        "topic": "t",
        "label": "y",
        "fields": {"code": "category", "x": "number"},
        "windows": {"start": "2026-01-01"},
        "initial": {"file": "past.csv", "time_column": "at"},
    },
)
ROWS = pl.DataFrame(
    {
        "at": [datetime(2025, 12, day, tzinfo=UTC) for day in (1, 2, 3)],
        "code": ["007", "8", None],
        "x": [1.5, None, 3.0],
        "y": [1, 0, 1],
        "other": ["a", "b", "c"],
    }
)


def encode_rows(name: str, rows: pl.DataFrame = ROWS) -> bytes:
    file = io.BytesIO()
    if name.endswith(".parquet"):
        rows.write_parquet(file)
    elif name.endswith(".csv"):
        rows.write_csv(file)
    else:
        rows.write_ndjson(file)
    return file.getvalue()


@pytest.mark.parametrize("name", ["past.parquet", "past.csv", "past.jsonl"])
def test_the_same_rows_come_out_of_every_kind_of_file(name: str) -> None:
    batch = historical_file.read(SPEC, name, encode_rows(name))
    decoded = Decoder(SPEC).decode(batch.partition, batch.offsets, batch.timestamps, batch.values)
    assert decoded.rejected == ()
    assert decoded.rows["code"].to_list() == ["007", "8", None]
    assert decoded.rows["x"].to_list() == [1.5, None, 3.0]
    assert decoded.rows["y"].to_list() == [1.0, 0.0, 1.0]
    assert decoded.rows["_offset"].to_list() == [0, 1, 2]
    assert decoded.rows["_timestamp"][0] == 1_764_547_200_000


def test_a_row_that_the_first_window_would_learn_again_is_refused() -> None:
    late = ROWS.with_columns(at=pl.lit(datetime(2026, 1, 1, tzinfo=UTC)))
    with pytest.raises(
        SpecInvalid, match=r"3 rows of `initial\.file` past\.csv are not before 2026"
    ):
        historical_file.read(SPEC, "past.csv", encode_rows("past.csv", late))


def test_a_row_without_a_time_is_rejected_like_a_record_without_one() -> None:
    some = ROWS.with_columns(at=pl.when(pl.col("code") == "8").then(None).otherwise(pl.col("at")))
    batch = historical_file.read(SPEC, "past.parquet", encode_rows("past.parquet", some))
    decoded = Decoder(SPEC).decode(batch.partition, batch.offsets, batch.timestamps, batch.values)
    assert [rejected.offset for rejected in decoded.rejected] == [1]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("past.xlsx", b"", "does not have a supported format"),
        ("past.parquet", b"no parquet", "cannot be read"),
        ("past.csv", b"x,y\n1,2\n", "has no column 'at'"),
        ("past.csv", b"at,y\ntrue,2\n", "is not a time but Boolean"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(name: str, data: bytes, message: str) -> None:
    with pytest.raises(SpecInvalid, match=message):
        historical_file.read(SPEC, name, data)
