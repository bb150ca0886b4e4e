"""Records with the broker's time, or with none: counted, warned of, and in no boundary."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import oracle
from ledger_tools import set_topic_config
from model_harness import ModelHarness, run_window
from tidemill.core.errors import WindowOpen
from tidemill.core.event_log import TimestampCounts
from tidemill.core.report import render_markdown
from tidemill.core.windows import to_ms
from tidemill.cycle.extract import extract, load_rows
from tidemill.cycle.initial import initial
from tidemill.cycle.manual_actions import close
from tidemill.cycle.plan import plan_window
from topic_tools import Records, event, spread_events

pytestmark = pytest.mark.faults

HOUR = 3_600_000
DAY = 24 * HOUR
UNTIMED = event(-1)
"""Kafka takes -1 from a producer for no time at all."""


def hourly_events(start: datetime, count: int, days: int) -> Records:
    """So many events of the hours that begin so many days after the start."""
    first = to_ms(start) + days * DAY
    return [event(first + index * HOUR // count, index % 3 == 0) for index in range(count)]


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")  # Dagster's
def test_a_topic_set_to_the_brokers_time_in_mid_stream_is_counted_and_warned_of(
    harness: ModelHarness, kafka_folder: Path
) -> None:
    """Row 17: in today's window, for the broker's time is of no other day."""
    from tidemill.defs.checks import TIMESTAMPS, batch_checks

    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    start = now - timedelta(days=2, hours=12)  # so that no window ends while this runs
    harness.define(windows={"cron": f"0 {start.hour} * * *", "start": start.isoformat()})
    for partition in range(2):
        harness.produce(
            partition,
            [
                *hourly_events(start, 50, -1),
                *hourly_events(start, 50, 0),
                *hourly_events(start, 98, 1),
            ],
        )
        harness.produce(partition, [UNTIMED, *hourly_events(start, 30, 2)])
    set_topic_config(harness, "message.timestamp.type", "LogAppendTime", harness.model)
    for partition in range(2):
        harness.produce(partition, hourly_events(start, 20, -9))
    with harness.open_model() as mill:
        initial(mill)
        close(mill, harness.window(2), "ada")
        for number in range(3):
            run_window(mill, number)
        made = [extract(mill, harness.window(number)) for number in range(3)]
        reports = [mill.repository.report(one.window) for one in made]
        checks = [batch_checks(harness.model, mill.spec, one.window, one) for one in made]
    counted = [
        TimestampCounts(100),
        TimestampCounts(196, not_available=2),
        TimestampCounts(60, log_append_time=40),
    ]
    assert [one.timestamps for one in made] == counted
    assert (made[1].rows, made[1].reasons) == (196, {"no timestamp": 2})
    assert [one.timestamps for one in reports if one] == counted
    told = render_markdown(reports[2]) if reports[2] else ""
    assert "60 carry their producer's time, 40 the broker's, 0 none." in told
    passed = [c.passed for each in checks for c in each if c.check_name == TIMESTAMPS.name]
    assert passed == [True, False, False]
    oracle.assert_consistent(harness)
    oracle.assert_matches_log(harness, kafka_folder)


def test_records_without_a_time_are_rejected_and_neither_end_a_window_nor_confirm_its_end(
    harness: ModelHarness,
) -> None:
    """Row 17: the two that confirm a boundary are two with a time."""
    harness.define(max_reject_share=0.5)
    harness.produce_windows(-2, 0)
    for partition in range(2):
        harness.produce(partition, [UNTIMED] * 10)
    with harness.open_model() as mill:
        initial(mill)
        with pytest.raises(WindowOpen):
            plan_window(mill, harness.window(0))
        for partition in range(2):
            harness.produce(partition, [*spread_events(2, 5, 6), *[UNTIMED] * 10])
        with pytest.raises(WindowOpen):
            plan_window(mill, harness.window(0))
        for partition in range(2):
            harness.produce(partition, spread_events(1, 6, 7))
        made = extract(mill, harness.window(0))
        planned = plan_window(mill, harness.window(0))
        assert [(r.start, r.end) for r in planned.ranges] == [(200, 310)] * 2
        assert made.timestamps == TimestampCounts(create_time=200, not_available=20)
        assert (made.rows, made.rejected, made.reasons) == (200, 20, {"no timestamp": 20})
        assert load_rows(mill, made)["_timestamp"].null_count() == 0
    oracle.assert_consistent(harness)
