"""The live model of `tidemill up`: the flights on today's clock, written once."""

from pathlib import Path

import pytest
import yaml

from tidemill import bootstrap
from tidemill.core.errors import SpecInvalid
from tidemill.core.spec import ModelSpec
from tidemill.services.init_containers import init
from tidemill.services.live_flights import MODEL, ensure_live_model
from tidemill.settings import Settings, UpSettings

NOW = 1_795_640_000_000
FIVE_MINUTES_MS, HOUR_MS = 300_000, 3_600_000


def make_live_spec(settings: Settings, now: int) -> ModelSpec:
    return ensure_live_model(settings, settings.up_data / "models", now)


def test_its_windows_begin_two_before_the_first_up_for_ever(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    first = make_live_spec(settings, NOW)
    assert (
        first.calendar.first.start == NOW // FIVE_MINUTES_MS * FIVE_MINUTES_MS - 2 * FIVE_MINUTES_MS
    )
    assert make_live_spec(settings, NOW + HOUR_MS) == first
    minute = settings.model_copy(update={"up": UpSettings(window_minutes=1)})
    assert make_live_spec(minute, NOW + HOUR_MS) == first


def test_it_is_the_packaged_model_but_for_topic_windows_and_half_life(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    ours, packaged = make_live_spec(settings, NOW), bootstrap.load_spec("flights", settings)
    assert bootstrap.load_spec(MODEL, settings) == ours  # every command knows it
    own = {"topic", "windows", "initial", "freshness", "learner"}
    assert ours.model_dump(exclude=own) == packaged.model_dump(exclude=own)
    windows = packaged.learner.replay.half_life / 86_400_000
    assert ours.learner.replay.half_life / FIVE_MINUTES_MS == windows
    assert ours.learner.continue_ == packaged.learner.continue_


def test_containers_find_the_model_the_instance_and_the_dags_and_keep_what_they_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TIDEMILL_MODELS", str(tmp_path / "models"))
    init(tmp_path / "dags", "dagster-code:4000")
    found = {file: file.read_text() for file in tmp_path.rglob("*") if file.is_file()}
    home = tmp_path / "home" / "dagster"
    live, dags = tmp_path / "models" / MODEL / "defs.yaml", tmp_path / "dags" / f"{MODEL}.py"
    assert set(found) == {live, dags, home / "dagster.yaml", home / "workspace.yaml"}
    server = {"host": "dagster-code", "port": 4000, "location_name": "tidemill"}
    workspace = yaml.safe_load(found[home / "workspace.yaml"])
    assert workspace == {"load_from": [{"grpc_server": server}]}
    init(tmp_path / "dags", "dagster-code:4000")
    assert {file: file.read_text() for file in tmp_path.rglob("*") if file.is_file()} == found


def test_nothing_is_written_beside_the_packaged_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))
    monkeypatch.delenv("TIDEMILL_MODELS", raising=False)
    with pytest.raises(SpecInvalid, match="TIDEMILL_MODELS is not set"):
        init(tmp_path / "dags", "dagster-code:4000")
    assert not [*tmp_path.iterdir()]
