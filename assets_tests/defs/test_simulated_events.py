"""The simulated events as an asset: materializing a window again produces nothing."""

import uuid
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from support.kafka.clients import read_records
from tidemill.core.spec import ModelSpec
from tidemill.defs.resources import TidemillResource
from tidemill.defs.simulated_events import build_simulated_events
from tidemill.settings import Settings
from tidemill.settings_groups import KafkaSettings
from tidemill.simulation.time_scale import TimeScale

DAY = 86_400_000


def make_spec(topic: str, **windows: Any) -> ModelSpec:
    attributes = {"topic": topic, "fields": {"hour": "number"}, "label": "late", "windows": windows}
    return ModelSpec.create("m", attributes)


def test_a_model_of_2013_gets_the_flights_at_their_original_times() -> None:
    spec = make_spec("flights", start="2013-02-01", timezone="America/New_York")
    time_scale, end = TimeScale.for_spec(spec), spec.calendar.first.end
    assert (time_scale.speed, time_scale.flights_time(end)) == (0.0, end)


def test_a_live_window_is_one_day_and_january_precedes_the_first() -> None:
    spec = make_spec("flights-live", start="2026-01-01T00:00:00", cron="*/5 * * * *")
    time_scale, first = TimeScale.for_spec(spec), spec.calendar.first
    assert time_scale.speed == 288.0
    feb = TimeScale.for_spec(
        make_spec("flights", start="2013-02-01", timezone="America/New_York")
    ).origin
    assert time_scale.flights_time(first.start) == feb
    assert time_scale.flights_time(first.end) == feb + DAY
    assert first.start - time_scale.starts_at == 31 * 300_000


def test_a_topic_of_another_name_has_no_simulated_events() -> None:
    assert build_simulated_events(make_spec("clicks", start="2026-01-01")) == []
    assert build_simulated_events(make_spec("flightsim", start="2026-01-01")) == []


def test_windows_follow_each_other_and_a_repeat_produces_nothing(
    kafka: str, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, kafka=KafkaSettings(bootstrap_servers=kafka))
    resources = {"tidemill": TidemillResource(settings)}
    topic = f"flights-{uuid.uuid4().hex[:8]}"
    spec = make_spec(topic, start="2026-01-01T00:00:00", cron="*/5 * * * *")
    first = spec.calendar.first
    second = spec.calendar.after(first)
    (asset,) = build_simulated_events(spec)

    def produced(key: str) -> int:
        with dg.DagsterInstance.ephemeral() as instance:
            result = dg.materialize(
                [asset], instance=instance, partition_key=key, resources=resources
            )
        (materialization,) = result.asset_materializations_for_node("m__simulated_events")
        return int(materialization.metadata["produced"].value)

    history = produced(first.key)
    timestamps = [m.timestamp()[1] for ms in read_records(kafka, topic, 4).values() for m in ms]
    assert len(timestamps) == history > 25_000  # January and the 1st of February
    assert min(timestamps) >= first.start - 31 * 300_000 - 3_000  # reported up to ten minutes late
    assert first.end - 60_000 < max(timestamps) < first.end
    assert produced(first.key) == 0
    assert 300 < produced(second.key) < 1200  # a day
    for messages in read_records(kafka, topic, 4).values():
        seqs = [int(dict(message.headers())["seq"]) for message in messages]
        assert seqs == sorted(set(seqs))


def test_a_window_that_has_not_started_is_refused(tmp_path: Path) -> None:
    resources = {"tidemill": TidemillResource(Settings(home=tmp_path))}
    (asset,) = build_simulated_events(make_spec("flights", start="2026-01-01"))
    tags = {"dagster/partition": "2999-01-01"}
    with (
        dg.DagsterInstance.ephemeral() as instance,
        pytest.raises(dg.Failure, match="UnknownWindow"),
    ):
        dg.materialize([asset], instance=instance, tags=tags, resources=resources)
    assert list(tmp_path.iterdir()) == []
