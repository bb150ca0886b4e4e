"""The simulated stream as an asset: a stretch has an identity, and a repeat produces nothing."""

import uuid
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tidemill.core.spec import ModelSpec
from tidemill.defs.simulated_events import build_simulated_events
from tidemill.simulation.time_scale import TimeScale
from topic_readers import read_records, read_sequences

DAY = 86_400_000


def make_spec(topic: str, **windows: Any) -> ModelSpec:
    attributes = {"topic": topic, "fields": {"hour": "number"}, "label": "late", "windows": windows}
    return ModelSpec.model_validate(attributes)


def test_a_model_of_the_flights_own_year_gets_them_as_they_were() -> None:
    spec = make_spec("flights", start="2013-02-01", timezone="America/New_York")
    pace, end = TimeScale.for_spec(spec), spec.calendar.first.end
    assert (pace.speed, pace.flights_time(end)) == (0.0, end)


def test_on_a_clock_of_its_own_a_window_is_a_day_and_january_lies_before_the_first() -> None:
    spec = make_spec("flights-live", start="2026-01-01T00:00:00", cron="*/5 * * * *")
    pace, first = TimeScale.for_spec(spec), spec.calendar.first
    assert pace.speed == 288.0
    feb = TimeScale.for_spec(
        make_spec("flights", start="2013-02-01", timezone="America/New_York")
    ).origin
    assert pace.flights_time(first.start) == feb
    assert pace.flights_time(first.end) == feb + DAY
    assert first.start - pace.starts_at == 31 * 300_000


def test_a_topic_of_any_other_name_has_no_stretches() -> None:
    assert build_simulated_events("m", make_spec("clicks", start="2026-01-01")) == []
    assert build_simulated_events("m", make_spec("flightsim", start="2026-01-01")) == []


def test_stretch_follows_stretch_and_a_repeat_produces_nothing(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))
    monkeypatch.setenv("TIDEMILL_KAFKA__BOOTSTRAP_SERVERS", kafka)
    topic = f"flights-{uuid.uuid4().hex[:8]}"
    spec = make_spec(topic, start="2026-01-01T00:00:00", cron="*/5 * * * *")
    first = spec.calendar.first
    second = spec.calendar.after(first)
    (asset,) = build_simulated_events("m", spec)

    def produced(key: str) -> int:
        with dg.DagsterInstance.ephemeral() as instance:
            done = dg.materialize([asset], instance=instance, partition_key=key)
        (made,) = done.asset_materializations_for_node("m__stretch")
        return int(made.metadata["produced"].value)

    history = produced(first.key)
    stamps = [m.timestamp()[1] for ms in read_records(kafka, topic).values() for m in ms]
    assert len(stamps) == history > 25_000  # January and the 1st of February
    assert min(stamps) >= first.start - 31 * 300_000 - 3_000  # reported up to ten minutes late
    assert first.end - 60_000 < max(stamps) < first.end
    assert produced(first.key) == 0
    assert 300 < produced(second.key) < 1200  # a day
    for seqs in read_sequences(kafka, topic).values():
        assert seqs == sorted(set(seqs))


def test_a_window_that_has_not_begun_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))
    (asset,) = build_simulated_events("m", make_spec("flights", start="2026-01-01"))
    tags = {"dagster/partition": "2999-01-01"}
    with (
        dg.DagsterInstance.ephemeral() as instance,
        pytest.raises(dg.Failure, match="UnknownWindow"),
    ):
        dg.materialize([asset], instance=instance, tags=tags)
    assert list(tmp_path.iterdir()) == []
