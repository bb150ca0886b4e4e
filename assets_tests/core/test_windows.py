"""Windows tile event time, and their keys are those of Dagster's partitions."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.errors import SpecInvalid, UnknownWindow
from tidemill.core.windows import Calendar

NEW_YORK = "America/New_York"


def calendar(cron: str, timezone: str = "UTC", start: str = "2013-02-01") -> Calendar:
    return Calendar(
        cron, datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(timezone)), timezone
    )


CALENDARS = [
    calendar("0 0 * * *", NEW_YORK),
    calendar("30 6 * * *", "Europe/Berlin"),
    calendar("0 0 * * 1", "Australia/Lord_Howe"),
    calendar("0 0 1 * *"),
    calendar("*/5 * * * *"),
    calendar("0 * * * *"),
    calendar("15 */6 * * *"),
]


@given(st.sampled_from(CALENDARS), st.integers(0, 3 * 365 * 86_400_000))
def test_every_moment_lies_in_exactly_one_window(calendar: Calendar, after_start: int) -> None:
    moment = calendar.first.start + after_start
    window = calendar.containing(moment)
    assert window is not None
    assert window.start <= moment < window.end
    assert calendar.window(window.key) == window
    assert calendar.before(calendar.after(window)) == window


@pytest.mark.parametrize("calendar", CALENDARS)
def test_the_last_millisecond_of_a_window_is_its_own_and_the_next_is_not(
    calendar: Calendar,
) -> None:
    window = calendar.after(calendar.first)
    assert calendar.containing(window.end - 1) == window
    assert calendar.containing(window.end) == calendar.after(window)


@pytest.mark.parametrize("calendar", CALENDARS)
def test_nth_before_counts_windows_and_ends_at_the_first(
    calendar: Calendar,
) -> None:
    windows = [calendar.first]
    for _ in range(9):
        windows.append(calendar.after(windows[-1]))
    for steps in range(1, 10):
        assert calendar.nth_before(windows[9], steps) == windows[9 - steps]
    assert calendar.nth_before(windows[9], 10) is None
    assert list(calendar.between(windows[2], windows[5])) == windows[2:6]
    assert list(calendar.between(windows[2], windows[2])) == [windows[2]]
    assert list(calendar.between(windows[2], windows[1])) == []


@pytest.mark.parametrize("calendar", CALENDARS)
def test_windows_tile_without_gap(calendar: Calendar) -> None:
    window = calendar.first
    for _ in range(800):
        following = calendar.after(window)
        assert following.start == window.end
        assert following.key > window.key
        window = following


def test_a_day_has_23_or_25_hours_when_the_clocks_change() -> None:
    days = calendar("0 0 * * *", NEW_YORK)
    hours = {
        key: days.window(key).end - days.window(key).start for key in ("2013-03-10", "2013-11-03")
    }
    assert hours == {"2013-03-10": 23 * 3_600_000, "2013-11-03": 25 * 3_600_000}


def test_nothing_is_before_the_first_window() -> None:
    days = calendar("0 0 * * *", NEW_YORK)
    assert days.before(days.first) is None
    assert days.containing(days.first.start - 1) is None


@pytest.mark.parametrize(
    "key",
    ["", "2013-02-30", "2013-1-1", "2013-01-31", "../2013-02-01", "2013-02-01\n", "x" * 65,
     "2013-02-01T0000Z", "２013-02-01"],
)  # fmt: skip
def test_a_hostile_or_unknown_key_is_refused_by_name(key: str) -> None:
    with pytest.raises(UnknownWindow, match="Keys look like 2013-02-01"):
        calendar("0 0 * * *", NEW_YORK).window(key)


def test_of_a_key_that_is_far_too_long_the_beginning_is_quoted() -> None:
    with pytest.raises(UnknownWindow, match=f"^'{'x' * 80}' is not a valid window key"):
        calendar("0 0 * * *").window("x" * 200)


def test_short_windows_are_in_utc() -> None:
    with pytest.raises(SpecInvalid, match="shorter than a day"):
        calendar("*/5 * * * *", NEW_YORK)
    assert calendar("*/5 * * * *").first.key == "2013-02-01T0000Z"


def test_the_first_window_begins_at_the_first_tick_at_or_after_start() -> None:
    weeks = calendar("0 0 * * 1", start="2013-02-01")
    assert weeks.first.key == "2013-02-04"
    exact = calendar("0 0 * * *", start="2013-02-01")
    assert exact.first.start == datetime(2013, 2, 1, tzinfo=ZoneInfo("UTC")).timestamp() * 1000
    for late in (timedelta(minutes=1), timedelta(seconds=1), timedelta(microseconds=1)):
        assert Calendar("0 0 * * *", exact.start + late, "UTC").first.key == "2013-02-02"
