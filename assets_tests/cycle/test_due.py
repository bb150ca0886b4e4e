"""What is due: the windows that the log has closed, by a look that plans none of them."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import MINUTE, START, Bench, run, turn
from in_memory import mill_in_memory
from tidemill.adapters.memory.log import MemoryLog
from tidemill.core.errors import WindowOpen
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window
from tidemill.cycle.due import compute_backlog, freshness
from tidemill.cycle.mill import ModelContext
from tidemill.cycle.plan import newest_closed, plan_window, plan_initial

FIVE = 5 * MINUTE


def fed(stamps: Sequence[Sequence[int]], silent: str | None) -> tuple[ModelContext, list[int]]:
    """A mill over one partition a list of event times, and the hand of its clock."""
    log, clock = MemoryLog(), [1_900_000_000_000]
    log.create_topic("events", len(stamps))
    for partition, times in enumerate(stamps):
        for at in times:
            log.append("events", partition, b"{}", START + at * MINUTE)
    windows = {"cron": "*/5 * * * *", "start": "2026-01-01", "confirm": 3}
    told = {"topic": "events", "fields": {"x": "number"}, "label": "y"}
    more = {"idle_timeout": "10m", "close_when_silent": silent}
    spec = ModelSpec.model_validate(told | {"windows": windows | more})
    return mill_in_memory(spec, log, lambda: clock[0]), clock


def planned_one_by_one(mill: ModelContext) -> Window | None:
    """The newest window that planning each after the other closes."""
    newest, window = None, mill.spec.calendar.first
    try:
        while True:
            plan_window(mill, window)
            newest, window = window, mill.spec.calendar.after(window)
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
    mill, clock = fed(stamps, silent)
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
    assert found == planned_one_by_one(mill)
    assert "is still open" in told


def test_looking_costs_the_logarithm_of_the_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    mill, _ = fed([range(-5, 5_000)], None)
    asked = []
    offsets_at = mill.event_log.offsets_for_timestamp
    monkeypatch.setattr(
        mill.event_log, "offsets_at", lambda *a: asked.append(a) or offsets_at(*a), raising=True
    )
    newest, _ = newest_closed(mill, plan_initial(mill))
    assert newest is not None
    assert newest.start == START + 998 * FIVE
    assert len(asked) < 25


def test_due_goes_from_the_first_unreported_to_the_newest_closed_window(bench: Bench) -> None:
    bench.feed(-1, 4)
    with bench.mill() as mill:
        run(mill, 0, 0)
        seen = compute_backlog(mill)
        assert seen.done == bench.window(0)
        assert (seen.first, seen.last) == (bench.window(1), bench.window(3))
        assert "is still open" in seen.open_reason
        for number in (1, 2, 3):
            turn(mill, number)
        assert compute_backlog(mill, hint=bench.window(1).key).first is None


def test_a_window_whose_deployment_was_deferred_and_never_made_up_for_is_due_again(
    bench: Bench,
) -> None:
    bench.define(gate={"policy": "always"})
    bench.feed(-1, 2)
    with bench.mill() as mill:
        run(mill, 0, 0)
        turn(mill, 1, final=False)
        seen = compute_backlog(mill)
        assert (seen.done, seen.first, seen.last) == (bench.window(1),) * 3
        assert freshness(mill, seen).done == bench.window(0)


def test_by_the_wall_clock_a_model_is_stale_two_windows_after_its_newest_one(bench: Bench) -> None:
    bench.feed(-1, 1)
    with bench.mill() as mill:
        run(mill, 0, 0)
        end = bench.window(0).end
        found = [freshness(_at(mill, end + lag), compute_backlog(mill)) for lag in (0, 2 * FIVE, 2 * FIVE + 1)]
    assert [one.fresh for one in found] == [True, True, False]
    assert [one.lag_ms for one in found] == [0, 2 * FIVE, 2 * FIVE + 1]
    assert found[-1].newest_due == bench.window(2)
    assert "600 s behind" in str(found[1])


def test_by_the_logs_clock_a_model_is_stale_when_the_log_has_closed_windows_it_has_not_seen(
    bench: Bench,
) -> None:
    bench.define(freshness={"clock": "log", "max_lag": "5m"})
    bench.feed(-1, 2)
    with bench.mill() as mill:
        run(mill, 0, 0)
        assert freshness(mill, compute_backlog(mill)).fresh
        bench.feed(3, 3)
        stale = freshness(mill, compute_backlog(mill))
        assert (stale.fresh, stale.lag_ms) == (False, 2 * FIVE)
        turn(mill, 0)  # an old window again
        assert not freshness(mill, compute_backlog(mill)).fresh
        turn(mill, 1)
        assert freshness(mill, compute_backlog(mill)).fresh


def _at(mill: ModelContext, now: int) -> ModelContext:
    return replace(mill, now=lambda: now)
