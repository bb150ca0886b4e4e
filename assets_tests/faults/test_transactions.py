"""Transactions: markers and aborted records are gaps, and an open one holds the window open."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

import oracle
from model_harness import START, ModelHarness, events, run_window, run_windows
from tidemill.core.errors import WindowOpen
from tidemill.core.records import Manifest
from tidemill.cycle.context import ModelContext
from tidemill.cycle.extract import extract, load_rows
from tidemill.cycle.initial import initial
from tidemill.cycle.manual_actions import close
from tidemill.cycle.plan import plan_window
from topic_tools import begin_transaction, end_offsets, event, spread_events, timestamp_at

DAY = 86_400_000


@contextmanager
def assert_quick() -> Iterator[None]:
    """What is done here takes less than 5 s."""
    started_at = time.monotonic()
    yield
    assert time.monotonic() - started_at < 5


def timestamps(ctx: ModelContext, manifest: Manifest) -> list[int]:
    values: list[int] = load_rows(ctx, manifest).sort("_timestamp")["_timestamp"].to_list()
    return values


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "abort"])
def test_a_range_that_ends_on_a_marker_ends_and_the_marker_is_a_gap(
    harness: ModelHarness, commit: bool
) -> None:
    """Row 12: the marker is the very last thing in the log."""
    harness.produce_windows(-3, 0)
    with harness.open_model() as mill:
        initial(mill)
        inside = {p: spread_events(40, 4, 5) for p in range(2)}
        begin_transaction(harness, inside)(commit)
        close(mill, harness.window(0), "ada")
        planned = plan_window(mill, harness.window(0))
        assert planned.end_offsets == end_offsets(harness)
        with assert_quick():
            made = extract(mill, harness.window(0))
        assert (made.rows, made.gaps) == ((280, 2) if commit else (200, 82))
        assert made.rows + made.rejected + made.gaps == planned.offset_count
        run_window(mill, 0)
    oracle.assert_consistent(harness)


def test_aborted_records_inside_a_window_are_absent_and_counted_as_gaps(
    harness: ModelHarness, kafka_folder: Path
) -> None:
    """Row 12, with Kafka's own reading of its log as the witness."""
    harness.produce_windows(-3, -1)
    harness.produce(0, spread_events(50, 0, 2))
    harness.produce(1, spread_events(50, 0, 2))
    begin_transaction(harness, {0: spread_events(30, 2, 3), 1: spread_events(30, 2, 3)})(False)
    begin_transaction(harness, {0: spread_events(20, 2, 4)})(True)
    begin_transaction(harness, {1: [event(timestamp_at(99)) for _ in range(30)]})(
        False
    )  # aborted: they pass no end
    harness.produce(1, spread_events(50, 3, 5))
    harness.produce_windows(1, 2)
    with harness.open_model() as mill:
        initial(mill)
        with assert_quick():
            made = extract(mill, harness.window(0))
        # 90 aborted records and a marker for each partition of each transaction.
        assert (made.rows, made.rejected, made.gaps) == (170, 0, 90 + 4)
        assert (made.late, made.early) == (0, 0)
        assert timestamps(mill, made)[-1] < timestamp_at(5)
        run_window(mill, 0)
        run_window(mill, 1)
    oracle.assert_consistent(harness)
    assert oracle.assert_matches_log(harness, kafka_folder) == 3 * 200 + 170 + 200


@pytest.mark.faults
def test_ten_days_of_history_in_one_transaction_a_day_are_each_in_their_own_window(
    harness: ModelHarness,
) -> None:
    """Row 12: every marker carries the broker's clock, long after the last of these days."""
    start = "2020-01-01"
    harness.define(
        windows={"cron": "0 0 * * *", "start": start, "confirm": 4},
        learner={},  # defaults: trees are of no interest here
    )
    first = harness.load_spec().calendar.first.start
    days = {
        day: [(stamp - START + first + day * DAY, value) for stamp, value in events(0, 60, day)]
        for day in range(-1, 11)
    }
    for records in days.values():
        begin_transaction(harness, {p: records[p::2] for p in range(2)})(True)
    with harness.open_model() as mill:
        initial(mill)
        for number in range(10):
            with assert_quick():
                made = extract(mill, harness.window(number))
            assert (made.rows, made.gaps, made.late, made.early) == (60, 2, 0, 0)
            assert timestamps(mill, made) == [stamp for stamp, _ in days[number]]
    oracle.assert_consistent(harness)


def test_one_transaction_over_several_windows_is_cut_by_event_time(harness: ModelHarness) -> None:
    """Row 12: a transaction is no unit of windows."""
    harness.produce_windows(-3, -1)
    begin_transaction(harness, {p: spread_events(90, 0, 15) for p in range(2)})(True)
    harness.produce_windows(3, 3)
    with harness.open_model() as mill:
        initial(mill)
        made = [extract(mill, harness.window(number)) for number in range(3)]
        assert [one.rows for one in made] == [60, 60, 60]
        assert [one.gaps for one in made] == [0, 0, 2]
    oracle.assert_consistent(harness)


@pytest.mark.parametrize("commit", [True, False], ids=["committed", "aborted"])
def test_an_open_transaction_across_the_boundary_holds_the_window_open_until_it_ends(
    harness: ModelHarness, commit: bool
) -> None:
    """Row 13: in one partition of two, with plain records of later windows behind it."""
    harness.produce_windows(-3, 0)
    with harness.open_model() as mill:
        initial(mill)
        end = begin_transaction(harness, {0: spread_events(40, 4, 6)})
        harness.produce_windows(1, 2)
        for _ in range(2):
            with pytest.raises(WindowOpen, match=r"partitions \[0\]"):
                run_window(mill, 0)
        assert mill.repository.plan(harness.window(0).key) is None
        end(commit)
        run_windows(mill, 0, 0)
        planned = plan_window(mill, harness.window(0))
        made = extract(mill, harness.window(0))
        assert (made.rows, made.gaps) == ((220, 0) if commit else (200, 40))
        run_window(mill, 1)
        assert plan_window(mill, harness.window(0)) == planned
        after = extract(mill, harness.window(1))
        assert (after.rows, after.gaps) == ((220, 0) if commit else (200, 0))
    oracle.assert_consistent(harness)


def test_records_of_an_open_transaction_are_in_no_window_however_old(harness: ModelHarness) -> None:
    """Row 13: its rows come late, by the rules of late rows, when it is committed."""
    harness.produce_windows(-3, 0)
    with harness.open_model() as mill:
        initial(mill)
        harness.produce_windows(1, 1)
        end = begin_transaction(harness, {1: spread_events(30, 1, 4)})
        run_window(mill, 0)
        before = plan_window(mill, harness.window(0))
        end(True)
        harness.produce_windows(2, 3)
        run_window(mill, 1)
        made = extract(mill, harness.window(1))
        assert (made.rows, made.late, made.gaps) == (230, 30, 1)
        assert plan_window(mill, harness.window(0)) == before
        assert load_rows(mill, made).filter(pl.col("_timestamp") < timestamp_at(5)).height == 30
    oracle.assert_consistent(harness)
