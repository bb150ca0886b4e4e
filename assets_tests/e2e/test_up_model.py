"""The live model of `tidemill up`: the flights on today's clock, written once."""

from pathlib import Path

import pytest
import yaml

from tidemill import bootstrap
from tidemill.cli.platform import init
from tidemill.core.errors import SpecInvalid
from tidemill.core.spec import ModelSpec
from tidemill.services.live_flights import MODEL, ensure_live_model
from tidemill.settings import Settings
from tidemill.settings_groups import UpSettings

NOW = 1_795_640_000_000
FIVE_MINUTES_MS, HOUR_MS = 300_000, 3_600_000


def make_live_spec(settings: Settings, now_ms: int) -> ModelSpec:
    return ensure_live_model(settings, settings.up_data / "models", now_ms)


def test_its_first_window_is_two_before_the_first_start_and_never_changes(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    first = make_live_spec(settings, NOW)
    assert (
        first.calendar.first.start == NOW // FIVE_MINUTES_MS * FIVE_MINUTES_MS - 2 * FIVE_MINUTES_MS
    )
    assert make_live_spec(settings, NOW + HOUR_MS) == first
    minute = settings.model_copy(update={"up": UpSettings(window_minutes=1)})
    assert make_live_spec(minute, NOW + HOUR_MS) == first


def test_it_differs_from_the_packaged_model_only_in_topic_windows_and_half_life(
    tmp_path: Path,
) -> None:
    settings = Settings(home=tmp_path)
    live, packaged = make_live_spec(settings, NOW), bootstrap.load_spec("flights", settings)
    assert bootstrap.load_spec(MODEL, settings) == live  # every command finds it
    different = {"topic", "windows", "initial", "freshness", "learner"}
    assert live.model_dump(exclude=different) == packaged.model_dump(exclude=different)
    windows = packaged.learner.replay.half_life / 86_400_000
    assert live.learner.replay.half_life / FIVE_MINUTES_MS == windows
    assert live.learner.continue_ == packaged.learner.continue_


def test_init_writes_the_model_the_instance_and_the_dags_and_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TIDEMILL_MODELS", str(tmp_path / "models"))
    init(tmp_path / "dags", "dagster-code:4000")
    files = {file: file.read_text() for file in tmp_path.rglob("*") if file.is_file()}
    home = tmp_path / "home" / "dagster"
    live, dags = tmp_path / "models" / MODEL / "defs.yaml", tmp_path / "dags" / f"{MODEL}.py"
    assert set(files) == {live, dags, home / "dagster.yaml", home / "workspace.yaml"}
    server = {"host": "dagster-code", "port": 4000, "location_name": "tidemill"}
    workspace = yaml.safe_load(files[home / "workspace.yaml"])
    assert workspace == {"load_from": [{"grpc_server": server}]}
    init(tmp_path / "dags", "dagster-code:4000")
    assert {file: file.read_text() for file in tmp_path.rglob("*") if file.is_file()} == files


def test_init_writes_nothing_to_the_folder_of_the_packaged_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))
    monkeypatch.delenv("TIDEMILL_MODELS", raising=False)
    with pytest.raises(SpecInvalid, match="TIDEMILL_MODELS is not set"):
        init(tmp_path / "dags", "dagster-code:4000")
    assert not [*tmp_path.iterdir()]
