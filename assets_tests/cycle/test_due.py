"""What is due: the windows that the log has closed, by a look that plans none of them."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_context import make_memory_context
from model_harness import MINUTE, START, ModelHarness, run_window, run_windows
from tidemill.adapters.memory.event_log import MemoryLog
from tidemill.core.errors import WindowOpen
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window
from tidemill.cycle.backlog import compute_backlog, freshness
from tidemill.cycle.context import ModelContext
from tidemill.cycle.plan import newest_closed, plan_initial, plan_window

WINDOW_MS = 5 * MINUTE


def make_context(
    stamps: Sequence[Sequence[int]], silence: str | None
) -> tuple[ModelContext, list[int]]:
    """A mill over one partition a list of event times, and the hand of its clock."""
    log, clock = MemoryLog(), [1_900_000_000_000]
    log.create_topic("events", len(stamps))
    for partition, times in enumerate(stamps):
        for minute in times:
            log.append("events", partition, b"{}", START + minute * MINUTE)
    windows = {"cron": "*/5 * * * *", "start": "2026-01-01", "confirm": 3}
    attributes = {"topic": "events", "fields": {"x": "number"}, "label": "y"}
    closing = {"idle_timeout": "10m", "close_after_silence": silence}
    spec = ModelSpec.model_validate(attributes | {"windows": windows | closing})
    return make_memory_context(spec, log, lambda: clock[0]), clock


def newest_plannable_window(ctx: ModelContext) -> Window | None:
    """The newest window that planning each after the other closes."""
    newest, window = None, ctx.spec.calendar.first
    try:
        while True:
            plan_window(ctx, window)
            newest, window = window, ctx.spec.calendar.after(window)
    except WindowOpen:
        return newest


jumps = st.lists(st.integers(-4, 12), min_size=12, max_size=60)


@settings(max_examples=60)
@given(
    flows=st.lists(jumps, min_size=1, max_size=3),
    silent=st.sampled_from([None, "20m"]),
    waits=st.lists(st.sampled_from([6, 15, 30]), max_size=3),
)
def test_a_look_finds_the_windows_that_planning_one_by_one_closes(
    flows: list[list[int]], silent: str | None, waits: list[int]
) -> None:
    stamps = [
        [-3, -2, -1, *(max(0, sum(flow[: n + 1])) for n in range(len(flow)))] for flow in flows
    ]
    mill, clock = make_context(stamps, silent)
    try:
        first = plan_initial(mill)
    except WindowOpen:
        return
    for wait in [*waits, 0]:
        found, told = newest_closed(mill, first)
        assert mill.repository.plan(mill.spec.calendar.first.key) is None
        clock[0] += wait * MINUTE
    names = set(mill.repository.names("plans/"))
    assert names == {"plans/initial.json"}
    assert found == newest_plannable_window(mill)
    assert "is still open" in told


def test_looking_costs_the_logarithm_of_the_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    mill, _ = make_context([range(-5, 5_000)], None)
    asked = []
    offsets_at = mill.event_log.offsets_for_timestamp
    monkeypatch.setattr(
        mill.event_log, "offsets_at", lambda *a: asked.append(a) or offsets_at(*a), raising=True
    )
    newest, _ = newest_closed(mill, plan_initial(mill))
    assert newest is not None
    assert newest.start == START + 998 * WINDOW_MS
    assert len(asked) < 25


def test_due_goes_from_the_first_unreported_to_the_newest_closed_window(
    harness: ModelHarness,
) -> None:
    harness.produce_windows(-1, 4)
    with harness.open_model() as mill:
        run_windows(mill, 0, 0)
        seen = compute_backlog(mill)
        assert seen.done == harness.window(0)
        assert (seen.first, seen.last) == (harness.window(1), harness.window(3))
        assert "is still open" in seen.open_reason
        for number in (1, 2, 3):
            run_window(mill, number)
        assert compute_backlog(mill, hint=harness.window(1).key).first is None


def test_a_window_whose_deployment_was_deferred_and_never_made_up_for_is_due_again(
    harness: ModelHarness,
) -> None:
    harness.define(gate={"policy": "always"})
    harness.produce_windows(-1, 2)
    with harness.open_model() as mill:
        run_windows(mill, 0, 0)
        run_window(mill, 1, final=False)
        seen = compute_backlog(mill)
        assert (seen.done, seen.first, seen.last) == (harness.window(1),) * 3
        assert freshness(mill, seen).done == harness.window(0)


def test_by_the_wall_clock_a_model_is_stale_two_windows_after_its_newest_one(
    harness: ModelHarness,
) -> None:
    harness.produce_windows(-1, 1)
    with harness.open_model() as mill:
        run_windows(mill, 0, 0)
        end = harness.window(0).end
        found = [
            freshness(_with_clock(mill, end + lag), compute_backlog(mill))
            for lag in (0, 2 * WINDOW_MS, 2 * WINDOW_MS + 1)
        ]
    assert [one.fresh for one in found] == [True, True, False]
    assert [one.lag_ms for one in found] == [0, 2 * WINDOW_MS, 2 * WINDOW_MS + 1]
    assert found[-1].newest_due == harness.window(2)
    assert "600 s behind" in str(found[1])


def test_by_the_logs_clock_a_model_is_stale_when_the_log_has_closed_windows_it_has_not_seen(
    harness: ModelHarness,
) -> None:
    harness.define(freshness={"clock": "log", "max_lag": "5m"})
    harness.produce_windows(-1, 2)
    with harness.open_model() as mill:
        run_windows(mill, 0, 0)
        assert freshness(mill, compute_backlog(mill)).fresh
        harness.produce_windows(3, 3)
        stale = freshness(mill, compute_backlog(mill))
        assert (stale.fresh, stale.lag_ms) == (False, 2 * WINDOW_MS)
        run_window(mill, 0)  # an old window again
        assert not freshness(mill, compute_backlog(mill)).fresh
        run_window(mill, 1)
        assert freshness(mill, compute_backlog(mill)).fresh


def _with_clock(ctx: ModelContext, now: int) -> ModelContext:
    return replace(ctx, now=lambda: now)
