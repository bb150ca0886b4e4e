"""Rows as Parquet bytes, and a digest of rows that does not depend on library versions."""

import hashlib
import io
from functools import cache
from importlib.metadata import version

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP_SIZE = 65_536
"""Rows per row group: fixed, because it affects the bytes."""

_LIBRARIES = ("lightgbm", "msgspec", "numpy", "polars", "pyarrow")


def to_parquet(frame: pl.DataFrame) -> bytes:
    """The frame as one Parquet file. Equal rows and library versions give equal bytes, whatever
    the chunks of the frame."""
    table = frame.rechunk().to_arrow().combine_chunks()
    sink = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata(None),
        sink,
        row_group_size=ROW_GROUP_SIZE,
        compression="zstd",
        compression_level=3,
        store_schema=False,
    )
    return sink.getvalue()


def from_parquet(data: bytes) -> pl.DataFrame:
    """The frame that was passed to `to_parquet`."""
    table = pq.read_table(pa.BufferReader(data), use_threads=False)
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # a table is never a series
    return frame


def rows_digest(frame: pl.DataFrame) -> str:
    """sha256 of the frame's columns in order: name, type, validity and values of each.

    Numbers are hashed as little-endian bytes, text as UTF-8 after its lengths.
    """
    hasher = hashlib.sha256()
    for column in frame.get_columns():
        for part in (column.name.encode(), str(column.dtype).encode(), *_digest_parts(column)):
            hasher.update(len(part).to_bytes(8, "little"))
            hasher.update(part)
    return hasher.hexdigest()


@cache
def library_versions() -> dict[str, str]:
    """The versions of the libraries on which bytes and trees depend."""
    return {name: version(name) for name in _LIBRARIES}


def _digest_parts(column: pl.Series) -> list[bytes]:
    """Validity as one byte per row, then the values, with nulls as zero or empty."""
    valid = _little_endian(column.is_not_null().cast(pl.UInt8))
    if column.dtype == pl.String:
        texts = column.fill_null("")
        lengths = texts.str.len_bytes().cast(pl.UInt64)
        return [valid, _little_endian(lengths), texts.str.join("").item().encode()]
    if column.dtype == pl.Binary:
        blobs = column.fill_null(b"")
        return [valid, _little_endian(blobs.bin.size("b").cast(pl.UInt64)), b"".join(blobs)]
    if column.dtype == pl.Boolean:
        return [valid, _little_endian(column.fill_null(False).cast(pl.UInt8))]
    return [valid, _little_endian(column.fill_null(0))]


def _little_endian(column: pl.Series) -> bytes:
    array = column.to_numpy()
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
