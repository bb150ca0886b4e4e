"""The live model of `tidemill up`: the flights on today's clock, written once."""

from pathlib import Path

from tidemill import bootstrap
from tidemill.cli.up.model import MODEL, live_model
from tidemill.core.spec import ModelSpec
from tidemill.settings import Settings, UpSettings

NOW = 1_795_640_000_000
FIVE, HOUR = 300_000, 3_600_000


def live(settings: Settings, now: int) -> ModelSpec:
    return live_model(settings, settings.up_data / "models", now)


def test_its_windows_begin_two_before_the_first_up_for_ever(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    first = live(settings, NOW)
    assert first.calendar.first.start == NOW // FIVE * FIVE - 2 * FIVE
    assert live(settings, NOW + HOUR) == first
    minute = settings.model_copy(update={"up": UpSettings(minutes=1)})
    assert live(minute, NOW + HOUR) == first


def test_it_is_the_packaged_model_but_for_topic_windows_and_half_life(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    ours, packaged = live(settings, NOW), bootstrap.load_spec("flights", settings)
    assert bootstrap.load_spec(MODEL, settings) == ours  # every command knows it
    own = {"topic", "windows", "initial", "freshness", "learner"}
    assert ours.model_dump(exclude=own) == packaged.model_dump(exclude=own)
    windows = packaged.learner.replay.half_life / 86_400_000
    assert ours.learner.replay.half_life / FIVE == windows
    assert ours.learner.continue_ == packaged.learner.continue_
