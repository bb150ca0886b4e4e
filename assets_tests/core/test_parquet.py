"""Equal rows give equal bytes and an equal digest, whatever their chunks."""

import itertools

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.parquet import (
    ROW_GROUP_SIZE,
    from_parquet,
    library_versions,
    rows_digest,
    to_parquet,
)

FRAME = pl.DataFrame(
    {
        "_partition": pl.Series([0, 1, 1, 2], dtype=pl.Int32),
        "text": ["a", None, "", "ä\x00\n"],
        "number": [1.5, None, -0.0, 1e308],
        "flag": [True, None, False, True],
        "raw": [b"\xff", None, b"", b"x"],
    }
)


@given(st.lists(st.integers(1, 3), max_size=3))
def test_bytes_and_digest_do_not_depend_on_chunks(cuts: list[int]) -> None:
    edges = sorted({0, 4, *cuts})
    parts = [FRAME[a:b] for a, b in itertools.pairwise(edges)]
    chunked = pl.concat(parts, rechunk=False)
    assert to_parquet(chunked) == to_parquet(FRAME)
    assert rows_digest(chunked) == rows_digest(FRAME)


def test_what_is_read_is_what_was_written() -> None:
    big = pl.concat([FRAME] * (ROW_GROUP_SIZE // 4 + 3))
    for frame in (FRAME, FRAME.clear(), big):
        decoded = from_parquet(to_parquet(frame))
        assert decoded.equals(frame)
        assert decoded.schema == frame.schema
        assert rows_digest(decoded) == rows_digest(frame)


@pytest.mark.parametrize(
    "other",
    [
        FRAME.rename({"text": "texts"}),
        FRAME.with_columns(pl.col("text").fill_null("")),
        FRAME.with_columns(pl.col("number").fill_null(0)),
        FRAME.with_columns(pl.col("flag").fill_null(False)),
        FRAME.with_columns(pl.col("_partition").cast(pl.Int64)),
        FRAME.reverse(),
        FRAME.head(3),
        FRAME.with_columns(text=pl.Series(["", None, "a", "ä\x00\n"])),
    ],
)
def test_another_value_is_another_digest(other: pl.DataFrame) -> None:
    assert rows_digest(other) != rows_digest(FRAME)


def test_the_digest_never_changes() -> None:
    assert rows_digest(FRAME) == (
        "e5ee21131ca07005ee2c196d9898b1142ce808d553088656a56edcb43d293142"
    )


def test_the_libraries_that_bytes_depend_on_are_listed() -> None:
    assert set(library_versions()) == {"lightgbm", "msgspec", "numpy", "polars", "pyarrow"}
