"""Dagster's partitions are the calendar's windows, with the same keys."""

from datetime import UTC, datetime
from itertools import islice

import dagster as dg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tidemill.core.errors import UnknownWindow
from tidemill.core.windows import Calendar, Window, to_ms
from tidemill.defs.partitions import partitions_of, windows_between

ZONES = ["UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata"]
LONG = ["0 0 * * *", "30 6 * * *", "0 0 * * 1", "0 0 1 * *", "0 12 15 * *"]
SHORT = ["*/5 * * * *", "0 * * * *", "*/15 * * * *", "30 */6 * * *"]
MOMENTS = st.datetimes(
    datetime(2001, 1, 1),  # noqa: DTZ001
    datetime(2024, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
CALENDARS = st.one_of(
    st.builds(Calendar, st.sampled_from(LONG), MOMENTS, st.sampled_from(ZONES)),
    st.builds(Calendar, st.sampled_from(SHORT), MOMENTS),
)


def first_windows(calendar: Calendar, count: int) -> list[Window]:
    def walk():
        window = calendar.first
        while True:
            yield window
            window = calendar.after(window)

    return list(islice(walk(), count))


@given(CALENDARS)
@example(Calendar("0 0 * * *", datetime(2013, 3, 1, tzinfo=UTC), "America/New_York"))
@example(Calendar("0 0 * * *", datetime(2013, 10, 20, tzinfo=UTC), "America/New_York"))
@example(Calendar("*/5 * * * *", datetime(2013, 3, 10, 5, tzinfo=UTC)))
@settings(max_examples=60)
def test_keys_and_bounds_are_the_same(calendar):
    expected, partitions = first_windows(calendar, 25), partitions_of(calendar)
    assert partitions.get_first_partition_key() == expected[0].key
    in_range = dg.PartitionKeyRange(expected[0].key, expected[-1].key)
    assert list(partitions.get_partition_keys_in_range(in_range)) == [w.key for w in expected]
    for window in expected:
        bounds = partitions.time_window_for_partition_key(window.key)
        assert (to_ms(bounds.start), to_ms(bounds.end)) == (window.start, window.end)


def test_a_range_includes_both_ends():
    calendar = Calendar("0 0 * * *", datetime(2024, 1, 1, tzinfo=UTC))
    windows = windows_between(calendar, partitions_of(calendar), "2024-02-28", "2024-03-01")
    assert [w.key for w in windows] == ["2024-02-28", "2024-02-29", "2024-03-01"]


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("2024-01-02", "2024-01-01"),
        ("2023-12-31", "2024-01-02"),
        ("2024-01-01", "2999-01-01"),
        ("2024-01-01T0000Z", "2024-01-02"),
    ],
)
def test_an_invalid_range_is_refused(first, last):
    calendar = Calendar("0 0 * * *", datetime(2024, 1, 1, tzinfo=UTC))
    with pytest.raises(UnknownWindow):
        windows_between(calendar, partitions_of(calendar), first, last)
