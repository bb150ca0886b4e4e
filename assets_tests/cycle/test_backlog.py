"""The backlog: the windows that the log has closed, computed without planning them."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cycle.memory_model import make_memory_context
from support.models.harness import MINUTE, START, ModelHarness, run_window, run_windows
from tidemill.adapters.memory import MemoryLog
from tidemill.core.errors import WindowOpen
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.cycle.planning.backlog import compute_backlog, freshness
from tidemill.cycle.planning.plan import newest_closed, plan_initial, plan_window

WINDOW_MS = 5 * MINUTE


def make_context(
    stamps: Sequence[Sequence[int]], silence: str | None
) -> tuple[ModelContext, list[int]]:
    """A context over one partition per list of event times, and its clock, which tests may set."""
    log, clock = MemoryLog(), [1_900_000_000_000]
    log.create_topic("events", len(stamps))
    for partition, times in enumerate(stamps):
        for minute in times:
            log.append("events", partition, b"{}", START + minute * MINUTE)
    windows = {"cron": "*/5 * * * *", "start": "2026-01-01", "confirmation_records": 3}
    attributes = {"topic": "events", "fields": {"x": "number"}, "label": "y"}
    closing = {"idle_timeout": "10m", "close_after_silence": silence}
    spec = ModelSpec.create("m", attributes | {"windows": windows | closing})
    return make_memory_context(spec, log, lambda: clock[0]), clock


def newest_plannable_window(ctx: ModelContext) -> Window | None:
    """The newest window that can be planned, found by planning one after the other."""
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
    silence=st.sampled_from([None, "20m"]),
    waits=st.lists(st.sampled_from([6, 15, 30]), max_size=3),
)
def test_newest_closed_window_equals_the_result_of_planning_one_by_one(
    flows: list[list[int]], silence: str | None, waits: list[int]
) -> None:
    stamps = [
        [-3, -2, -1, *(max(0, sum(flow[: n + 1])) for n in range(len(flow)))] for flow in flows
    ]
    ctx, clock = make_context(stamps, silence)
    try:
        first = plan_initial(ctx)
    except WindowOpen:
        return
    for wait in [*waits, 0]:
        newest, open_reason = newest_closed(ctx, first)
        assert ctx.repository.plan(ctx.spec.calendar.first.key) is None
        clock[0] += wait * MINUTE
    names = set(ctx.repository.names("plans/"))
    assert names == {"plans/initial.json"}
    assert newest == newest_plannable_window(ctx)
    assert "is still open" in open_reason


def test_log_queries_grow_with_the_logarithm_of_the_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ctx, _ = make_context([range(-5, 5_000)], None)
    queries = []
    original = ctx.event_log.offsets_for_timestamp
    monkeypatch.setattr(
        ctx.event_log,
        "offsets_for_timestamp",
        lambda *args: queries.append(args) or original(*args),
    )
    newest, _ = newest_closed(ctx, plan_initial(ctx))
    assert newest is not None
    assert newest.start == START + 998 * WINDOW_MS
    assert len(queries) < 25


def test_due_windows_are_the_first_unreported_to_the_newest_closed(
    harness: ModelHarness,
) -> None:
    harness.produce_windows(-1, 4)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 0)
        backlog = compute_backlog(ctx)
        assert backlog.done == harness.window(0)
        assert (backlog.first, backlog.last) == (harness.window(1), harness.window(3))
        assert "is still open" in backlog.open_reason
        for number in (1, 2, 3):
            run_window(ctx, number)
        assert compute_backlog(ctx, hint=harness.window(1).key).first is None


def test_a_window_whose_deferred_deployment_was_never_made_is_due_again(
    harness: ModelHarness,
) -> None:
    harness.define(gate={"policy": "always"})
    harness.produce_windows(-1, 2)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 0)
        run_window(ctx, 1, final=False)
        backlog = compute_backlog(ctx)
        assert (backlog.done, backlog.first, backlog.last) == (harness.window(1),) * 3
        assert freshness(ctx, backlog).done == harness.window(0)


def test_by_the_wall_clock_a_model_is_stale_two_windows_after_its_newest_one(
    harness: ModelHarness,
) -> None:
    harness.produce_windows(-1, 1)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 0)
        end = harness.window(0).end
        results = [
            freshness(_with_clock(ctx, end + lag), compute_backlog(ctx))
            for lag in (0, 2 * WINDOW_MS, 2 * WINDOW_MS + 1)
        ]
    assert [result.fresh for result in results] == [True, True, False]
    assert [result.lag_ms for result in results] == [0, 2 * WINDOW_MS, 2 * WINDOW_MS + 1]
    assert results[-1].newest_due == harness.window(2)
    assert "600 s behind" in str(results[1])


def test_by_event_time_a_model_is_stale_if_the_log_has_closed_windows_it_has_not_learned_from(
    harness: ModelHarness,
) -> None:
    harness.define(freshness={"clock": "event_time", "max_lag": "5m"})
    harness.produce_windows(-1, 2)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 0)
        assert freshness(ctx, compute_backlog(ctx)).fresh
        harness.produce_windows(3, 3)
        stale = freshness(ctx, compute_backlog(ctx))
        assert (stale.fresh, stale.lag_ms) == (False, 2 * WINDOW_MS)
        run_window(ctx, 0)  # an old window again
        assert not freshness(ctx, compute_backlog(ctx)).fresh
        run_window(ctx, 1)
        assert freshness(ctx, compute_backlog(ctx)).fresh


def _with_clock(ctx: ModelContext, now: int) -> ModelContext:
    return replace(ctx, clock=lambda: now)
