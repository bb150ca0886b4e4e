"""The live model of `tidemill up`: the flights on today's clock, written once."""

from pathlib import Path

from tidemill import bootstrap
from tidemill.cli.up.model import MODEL, live_model
from tidemill.settings import Settings, UpSettings

NOW = 1_795_640_000_000
FIVE, HOUR = 300_000, 3_600_000


def test_its_windows_begin_two_before_the_first_up_for_ever(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    first = live_model(settings, NOW)
    assert first.calendar.first.start == NOW // FIVE * FIVE - 2 * FIVE
    assert live_model(settings, NOW + HOUR) == first
    minute = settings.model_copy(update={"up": UpSettings(minutes=1)})
    assert live_model(minute, NOW + HOUR) == first


def test_it_is_the_packaged_model_but_for_topic_windows_and_half_life(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    live, packaged = live_model(settings, NOW), bootstrap.load_spec("flights", settings)
    assert bootstrap.load_spec(MODEL, settings) == live  # every command knows it
    own = {"topic", "windows", "initial", "freshness", "learner"}
    assert live.model_dump(exclude=own) == packaged.model_dump(exclude=own)
    windows = packaged.learner.replay.half_life / 86_400_000
    assert live.learner.replay.half_life / FIVE == windows
    assert live.learner.continue_ == packaged.learner.continue_
