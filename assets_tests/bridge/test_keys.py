"""Scheduled, catch-up and backfill runs of Airflow have the keys of their windows."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from airflow.sdk.timezone import coerce_datetime
from airflow.serialization.encoders import coerce_to_core_timetable
from airflow.timetables.base import TimeRestriction

from tidemill.core.windows import Calendar, Window, from_ms
from tidemill_airflow.factory import ModelConfig, model_dags
from tidemill_airflow.schedule import partition_timetable

NEW_YORK = ZoneInfo("America/New_York")
CALENDARS = [
    Calendar("0 0 * * *", datetime(2013, 3, 8, tzinfo=NEW_YORK), "America/New_York"),  # 23 hours
    Calendar("0 0 * * *", datetime(2013, 11, 1, tzinfo=NEW_YORK), "America/New_York"),  # 25 hours
    Calendar("*/5 * * * *", datetime(2026, 1, 1, tzinfo=UTC)),
    Calendar("0 */6 * * *", datetime(2026, 1, 1, tzinfo=UTC)),
]


def first_windows(calendar: Calendar, count: int = 6) -> list[Window]:
    result = [calendar.first]
    while len(result) < count:
        result.append(calendar.after(result[-1]))
    return result


def timetable(calendar: Calendar, offset: int = -1) -> Any:
    schedule = partition_timetable(calendar.cron, timezone=calendar.timezone, offset=offset)
    return coerce_to_core_timetable(schedule)


@pytest.mark.parametrize("calendar", CALENDARS, ids=lambda c: c.cron + str(c.start.date()))
def test_a_window_is_scheduled_when_it_ends_under_its_own_key(calendar: Calendar) -> None:
    table, expected = timetable(calendar), first_windows(calendar)
    earliest = coerce_datetime(from_ms(calendar.first.end))
    restriction = TimeRestriction(earliest, None, catchup=True)
    info = None
    for window in expected:
        info = table.next_dagrun_info_v2(last_dagrun_info=info, restriction=restriction)
        assert (info.partition_key, info.run_after) == (window.key, from_ms(window.end))


@pytest.mark.parametrize("calendar", CALENDARS, ids=lambda c: c.cron + str(c.start.date()))
def test_a_backfill_has_the_key_of_every_window_in_its_range(calendar: Calendar) -> None:
    expected = first_windows(calendar)
    zone = ZoneInfo(calendar.timezone)
    ends = [from_ms(w.start).astimezone(zone) for w in (expected[0], expected[-1])]
    infos = timetable(calendar).iter_partition_dagrun_infos(earliest=ends[0], latest=ends[1])
    assert [info.partition_key for info in infos] == [window.key for window in expected]


@pytest.mark.parametrize("live", [False, True])
def test_the_dags_of_a_model_run_from_its_first_window_to_its_last(live: bool) -> None:
    calendar = CALENDARS[2]
    expected = first_windows(calendar)
    start, end = from_ms(expected[0].start), from_ms(expected[-1].end)
    _, *timed = model_dags(ModelConfig("m", cron=calendar.cron, start=start, end=end, live=live))
    for dag in timed:
        table = coerce_to_core_timetable(dag.timetable)
        bounds = (coerce_datetime(date) for date in (dag.start_date, dag.end_date))
        restriction, infos = TimeRestriction(*bounds, catchup=True), [None]
        while info := table.next_dagrun_info_v2(
            last_dagrun_info=infos[-1], restriction=restriction
        ):
            infos.append(info)
        assert [info.partition_key for info in infos[1:]] == [window.key for window in expected]


def test_live_simulated_events_are_scheduled_at_the_start_of_their_window() -> None:
    calendar = CALENDARS[2]
    window = calendar.after(calendar.first)
    restriction = TimeRestriction(coerce_datetime(from_ms(window.start)), None, catchup=True)
    info = timetable(calendar, 0).next_dagrun_info_v2(
        last_dagrun_info=None, restriction=restriction
    )
    assert (info.partition_key, info.run_after) == (window.key, from_ms(window.start))
