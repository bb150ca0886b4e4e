"""Records with LogAppendTime or without a timestamp: counted, warned about, in no boundary."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from faults.topics import Records, event, spread_events
from support.kafka.clients import set_topic_config
from support.models import oracle
from support.models.harness import ModelHarness, run_window
from tidemill.core.errors import WindowOpen
from tidemill.core.event_log import TimestampCounts
from tidemill.core.report_markdown import render_markdown
from tidemill.core.windows import to_ms
from tidemill.cycle.operations.manual_actions import close
from tidemill.cycle.planning.plan import plan_window
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.initial import initial

pytestmark = pytest.mark.faults

HOUR = 3_600_000
DAY = 24 * HOUR
UNTIMED = event(-1)
"""Kafka treats -1 from a producer as no timestamp."""


def hourly_events(start: datetime, count: int, days: int) -> Records:
    """`count` events of one hour, `days` days after the start."""
    first = to_ms(start) + days * DAY
    return [event(first + index * HOUR // count, index % 3 == 0) for index in range(count)]


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")  # Dagster's
def test_a_topic_switched_to_log_append_time_is_counted_and_warned_about(
    harness: ModelHarness, kafka_folder: Path
) -> None:
    """Fault 17: in today's window, because LogAppendTime is always now."""
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
    set_topic_config(
        harness.bootstrap_servers, harness.model, "message.timestamp.type", "LogAppendTime"
    )
    for partition in range(2):
        harness.produce(partition, hourly_events(start, 20, -9))
    with harness.open_model() as ctx:
        initial(ctx)
        close(ctx, harness.window(2), "ada")
        for number in range(3):
            run_window(ctx, number)
        manifests = [extract(ctx, harness.window(number)) for number in range(3)]
        reports = [ctx.repository.report(each.window) for each in manifests]
        checks = [batch_checks(ctx.spec, each.window, each) for each in manifests]
    expected = [
        TimestampCounts(100),
        TimestampCounts(196, not_available=2),
        TimestampCounts(60, log_append_time=40),
    ]
    assert [each.timestamps for each in manifests] == expected
    assert (manifests[1].rows, manifests[1].reasons) == (196, {"no timestamp": 2})
    assert [each.timestamps for each in reports if each] == expected
    markdown = render_markdown(reports[2]) if reports[2] else ""
    assert "60 set by the producer, 40 by the broker, 0 missing." in markdown
    passed = [c.passed for each in checks for c in each if c.check_name == TIMESTAMPS.name]
    assert passed == [True, False, False]
    oracle.assert_consistent(harness)
    oracle.assert_matches_log(harness, kafka_folder)


def test_records_without_a_timestamp_are_rejected_and_never_confirm_a_boundary(
    harness: ModelHarness,
) -> None:
    """Fault 17: the two records that confirm a boundary have timestamps."""
    harness.define(max_reject_share=0.5)
    harness.produce_windows(-2, 0)
    for partition in range(2):
        harness.produce(partition, [UNTIMED] * 10)
    with harness.open_model() as ctx:
        initial(ctx)
        with pytest.raises(WindowOpen):
            plan_window(ctx, harness.window(0))
        for partition in range(2):
            harness.produce(partition, [*spread_events(2, 5, 6), *[UNTIMED] * 10])
        with pytest.raises(WindowOpen):
            plan_window(ctx, harness.window(0))
        for partition in range(2):
            harness.produce(partition, spread_events(1, 6, 7))
        manifest = extract(ctx, harness.window(0))
        plan = plan_window(ctx, harness.window(0))
        assert [(r.start, r.end) for r in plan.ranges] == [(200, 310)] * 2
        assert manifest.timestamps == TimestampCounts(create_time=200, not_available=20)
        assert (manifest.rows, manifest.rejected, manifest.reasons) == (
            200,
            20,
            {"no timestamp": 20},
        )
        assert ctx.load_rows(manifest)["_timestamp"].null_count() == 0
    oracle.assert_consistent(harness)
