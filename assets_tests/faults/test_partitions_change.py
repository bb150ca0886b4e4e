"""Partitions that are added, that fall silent, and streams that are silent altogether."""

from dataclasses import replace
from itertools import pairwise

import pytest

import oracle
from bench import MINUTE, Bench, run, turn
from log_hands import add_partitions, at, ends, event, spread
from tidemill.core.errors import WindowOpen
from tidemill.core.plans import PlannedRange
from tidemill.cycle.extract import extract
from tidemill.cycle.initial import initial
from tidemill.cycle.intervene import close
from tidemill.cycle.mill import ModelContext
from tidemill.cycle.plan import plan_window


class Clock:
    """A host's clock that stands until it is moved."""

    def __init__(self) -> None:
        self.at = 1_800_000_000_000

    def __call__(self) -> int:
        return self.at

    def wait(self, minutes: float) -> None:
        self.at += round(minutes * MINUTE)


def ranges(mill: ModelContext, bench: Bench, number: int) -> dict[int, PlannedRange]:
    return {r.partition: r for r in plan_window(mill, bench.window(number)).ranges}


def test_an_added_partition_starts_at_0_in_the_first_unplanned_window(bench: Bench) -> None:
    """Row 18."""
    bench.feed(-3, 3)
    with bench.mill() as mill:
        run(mill, 0, 0)
        before = plan_window(mill, bench.window(1))
        add_partitions(bench, 3)
        bench.put(2, spread(90, 2, 20))
        bench.feed(4, 5)
        assert plan_window(mill, bench.window(1)) == before
        for number in (1, 2, 3):
            turn(mill, number)
        assert sorted(ranges(mill, bench, 1)) == [0, 1]
        # Partition 2 has three minutes of window 0 and all of window 1, which are late here.
        assert [ranges(mill, bench, n)[2].start for n in (2, 3)] == [0, 65]
        made = [extract(mill, bench.window(n)) for n in (2, 3)]
        assert [one.late for one in made] == [40, 0]
        assert [one.rows for one in made] == [200 + 65, 200 + 25]
    oracle.check(bench)


def test_a_silent_partition_is_excused_and_its_later_old_events_are_late(bench: Bench) -> None:
    """Row 19: two observations `idle_timeout` apart, both in the plan."""
    bench.feed(-3, 0)
    bench.put(0, spread(300, 5, 20))
    clock = Clock()
    with bench.mill() as real:
        mill = replace(real, now=clock)
        initial(mill)
        begun, stood = clock.at, ends(bench)[1]
        for minutes in (0, 4, 5.99):
            clock.wait(minutes)
            with pytest.raises(WindowOpen, match=r"partitions \[1\]"):
                turn(mill, 0)
        clock.wait(0.01)
        turn(mill, 0)
        excused = ranges(mill, bench, 0)
        assert (excused[0].end_reason, excused[0].observation) == ("boundary", None)
        assert (excused[1].end_reason, excused[1].end) == ("idle", stood)
        seen = excused[1].observation
        assert seen is not None
        assert (seen.end_offset, seen.first_seen_ms, seen.last_seen_ms) == (stood, begun, begun + 10 * MINUTE)
        turn(mill, 1)  # it is still silent
        bench.put(1, [*spread(70, 3, 10), *spread(90, 10, 19)])
        bench.put(0, spread(20, 20, 21))
        with pytest.raises(WindowOpen):  # it is silent no longer, and has not come far enough
            turn(mill, 3)
        turn(mill, 2)
        late = extract(mill, bench.window(2))
        assert (late.rows, late.late) == (100 + 70 + 50, 70)
        assert ranges(mill, bench, 2)[1].end_reason == "boundary"
    oracle.check(bench)


def test_a_silent_partition_that_moves_is_not_idle(bench: Bench) -> None:
    """Row 19: each new record of its own, old as it may be, starts the idle time anew."""
    bench.feed(-3, 0)
    bench.put(0, spread(300, 5, 20))
    clock = Clock()
    with bench.mill() as real:
        mill = replace(real, now=clock)
        initial(mill)
        for minute in range(4):
            with pytest.raises(WindowOpen):
                plan_window(mill, bench.window(0))
            bench.put(1, [event(at(minute))])
            clock.wait(9)


def test_nothing_closes_in_a_paused_replay_until_events_or_a_person(bench: Bench) -> None:
    """Row 19: all partitions are silent for a month."""
    bench.feed(-3, 1)
    clock = Clock()
    with bench.mill() as real:
        mill = replace(real, now=clock)
        run(mill, 0, 0)
        for _ in range(3):
            with pytest.raises(WindowOpen, match="tidemill close"):
                turn(mill, 1)
            clock.wait(10 * 24 * 60)
        bench.feed(2, 3)
        turn(mill, 1)
        assert {r.end_reason for r in ranges(mill, bench, 1).values()} == {"boundary"}
        turn(mill, 2)
        clock.wait(30 * 24 * 60)
        with pytest.raises(WindowOpen):
            turn(mill, 3)
        close(mill, bench.window(3), "ada")
        turn(mill, 3)
        assert {r.end_reason for r in ranges(mill, bench, 3).values()} == {"closed"}
        assert extract(mill, bench.window(3)).rows == 200
    oracle.check(bench)


def test_a_stream_that_asks_for_it_is_closed_by_silence_to_its_last_record(bench: Bench) -> None:
    """Row 19, with `close_when_silent`: the windows that hold records, and none of the future."""
    windows = {"cron": "*/5 * * * *", "start": "2026-01-01", "confirm": 4}
    bench.define(windows={**windows, "close_when_silent": "3m"})
    bench.feed(-3, 2)
    clock = Clock()
    with bench.mill() as real:
        mill = replace(real, now=clock)
        run(mill, 0, 1)
        with pytest.raises(WindowOpen):
            turn(mill, 2)
        clock.wait(2.9)
        with pytest.raises(WindowOpen):
            turn(mill, 2)
        clock.wait(0.1)
        turn(mill, 2)
        closed = ranges(mill, bench, 2).values()
        assert [(r.end_reason, r.end) for r in closed] == [("silent", 600), ("silent", 600)]
        assert all(r.observation and r.observation.unchanged_for_ms == 3 * MINUTE for r in closed)
        clock.wait(60)
        with pytest.raises(WindowOpen):
            turn(mill, 3)
        bench.feed(3, 4)
        turn(mill, 3)
        assert extract(mill, bench.window(3)).rows == 200
        made = [ranges(mill, bench, n) for n in range(4)]
        assert all(a[p].end == b[p].start for a, b in pairwise(made) for p in (0, 1))
    oracle.check(bench)
