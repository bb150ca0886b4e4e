"""Added partitions, silent partitions, and entirely silent streams."""

from dataclasses import replace
from itertools import pairwise

import pytest

from faults.topics import add_partitions, end_offsets, event, spread_events, timestamp_at
from support.models import oracle
from support.models.harness import MINUTE, ModelHarness, run_window, run_windows
from tidemill.core.errors import WindowOpen
from tidemill.core.plans import PlannedRange
from tidemill.cycle.context import ModelContext
from tidemill.cycle.operations.manual_actions import close
from tidemill.cycle.planning.plan import plan_window
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.initial import initial


class ManualClock:
    """A host clock that only moves when advanced."""

    def __init__(self) -> None:
        self.now_ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, minutes: float) -> None:
        self.now_ms += round(minutes * MINUTE)


def ranges(ctx: ModelContext, harness: ModelHarness, number: int) -> dict[int, PlannedRange]:
    return {r.partition: r for r in plan_window(ctx, harness.window(number)).ranges}


def test_an_added_partition_starts_at_0_in_the_first_unplanned_window(
    harness: ModelHarness,
) -> None:
    """Fault 18."""
    harness.produce_windows(-3, 3)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 0)
        before = plan_window(ctx, harness.window(1))
        add_partitions(harness, 3)
        harness.produce(2, spread_events(90, 2, 20))
        harness.produce_windows(4, 5)
        assert plan_window(ctx, harness.window(1)) == before
        for number in (1, 2, 3):
            run_window(ctx, number)
        assert sorted(ranges(ctx, harness, 1)) == [0, 1]
        # Partition 2 has three minutes of window 0 and all of window 1, which are late here.
        assert [ranges(ctx, harness, n)[2].start for n in (2, 3)] == [0, 65]
        manifests = [extract(ctx, harness.window(n)) for n in (2, 3)]
        assert [manifest.late for manifest in manifests] == [40, 0]
        assert [manifest.rows for manifest in manifests] == [200 + 65, 200 + 25]
    oracle.assert_consistent(harness)


def test_an_idle_partition_does_not_block_a_window_and_its_old_events_are_late(
    harness: ModelHarness,
) -> None:
    """Fault 19: two observations `idle_timeout` apart, both in the plan."""
    harness.produce_windows(-3, 0)
    harness.produce(0, spread_events(300, 5, 20))
    clock = ManualClock()
    with harness.open_model() as real:
        ctx = replace(real, clock=clock)
        initial(ctx)
        started_at, stable_end = clock.now_ms, end_offsets(harness)[1]
        for minutes in (0, 4, 5.99):
            clock.advance(minutes)
            with pytest.raises(WindowOpen, match=r"partitions \[1\]"):
                run_window(ctx, 0)
        clock.advance(0.01)
        run_window(ctx, 0)
        planned = ranges(ctx, harness, 0)
        assert (planned[0].end_reason, planned[0].observation) == ("boundary", None)
        assert (planned[1].end_reason, planned[1].end) == ("idle", stable_end)
        observation = planned[1].observation
        assert observation is not None
        assert (observation.end_offset, observation.first_seen_ms, observation.last_seen_ms) == (
            stable_end,
            started_at,
            started_at + 10 * MINUTE,
        )
        run_window(ctx, 1)  # it is still silent
        harness.produce(1, [*spread_events(70, 3, 10), *spread_events(90, 10, 19)])
        harness.produce(0, spread_events(20, 20, 21))
        with pytest.raises(WindowOpen):  # no longer silent, but not far enough yet
            run_window(ctx, 3)
        run_window(ctx, 2)
        late = extract(ctx, harness.window(2))
        assert (late.rows, late.late) == (100 + 70 + 50, 70)
        assert ranges(ctx, harness, 2)[1].end_reason == "boundary"
    oracle.assert_consistent(harness)


def test_a_partition_that_receives_old_events_is_not_idle(harness: ModelHarness) -> None:
    """Fault 19: each new record, however old, restarts the idle time."""
    harness.produce_windows(-3, 0)
    harness.produce(0, spread_events(300, 5, 20))
    clock = ManualClock()
    with harness.open_model() as real:
        ctx = replace(real, clock=clock)
        initial(ctx)
        for minute in range(4):
            with pytest.raises(WindowOpen):
                plan_window(ctx, harness.window(0))
            harness.produce(1, [event(timestamp_at(minute))])
            clock.advance(9)


def test_nothing_closes_in_a_paused_replay_until_events_or_a_person(harness: ModelHarness) -> None:
    """Fault 19: all partitions are silent for a month."""
    harness.produce_windows(-3, 1)
    clock = ManualClock()
    with harness.open_model() as real:
        ctx = replace(real, clock=clock)
        run_windows(ctx, 0, 0)
        for _ in range(3):
            with pytest.raises(WindowOpen, match="tidemill close"):
                run_window(ctx, 1)
            clock.advance(10 * 24 * 60)
        harness.produce_windows(2, 3)
        run_window(ctx, 1)
        assert {r.end_reason for r in ranges(ctx, harness, 1).values()} == {"boundary"}
        run_window(ctx, 2)
        clock.advance(30 * 24 * 60)
        with pytest.raises(WindowOpen):
            run_window(ctx, 3)
        close(ctx, harness.window(3), "ada")
        run_window(ctx, 3)
        assert {r.end_reason for r in ranges(ctx, harness, 3).values()} == {"closed"}
        assert extract(ctx, harness.window(3)).rows == 200
    oracle.assert_consistent(harness)


def test_close_after_silence_closes_windows_up_to_the_last_record(
    harness: ModelHarness,
) -> None:
    """Fault 19 with `close_after_silence`: windows with records close, later ones do not."""
    windows = {"cron": "*/5 * * * *", "start": "2026-01-01", "confirmation_records": 4}
    harness.define(windows={**windows, "close_after_silence": "3m"})
    harness.produce_windows(-3, 2)
    clock = ManualClock()
    with harness.open_model() as real:
        ctx = replace(real, clock=clock)
        run_windows(ctx, 0, 1)
        with pytest.raises(WindowOpen):
            run_window(ctx, 2)
        clock.advance(2.9)
        with pytest.raises(WindowOpen):
            run_window(ctx, 2)
        clock.advance(0.1)
        run_window(ctx, 2)
        closed = ranges(ctx, harness, 2).values()
        assert [(r.end_reason, r.end) for r in closed] == [("silent", 600), ("silent", 600)]
        assert all(r.observation and r.observation.unchanged_for_ms == 3 * MINUTE for r in closed)
        clock.advance(60)
        with pytest.raises(WindowOpen):
            run_window(ctx, 3)
        harness.produce_windows(3, 4)
        run_window(ctx, 3)
        assert extract(ctx, harness.window(3)).rows == 200
        planned = [ranges(ctx, harness, n) for n in range(4)]
        assert all(a[p].end == b[p].start for a, b in pairwise(planned) for p in (0, 1))
    oracle.assert_consistent(harness)
