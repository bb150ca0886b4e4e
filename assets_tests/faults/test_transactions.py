"""Transactions: markers and aborted records are gaps, an open transaction keeps a window open."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from faults.topics import begin_transaction, end_offsets, event, spread_events, timestamp_at
from support.models import oracle
from support.models.harness import START, ModelHarness, events, run_window, run_windows
from tidemill.core.errors import WindowOpen
from tidemill.core.records import Manifest
from tidemill.cycle.context import ModelContext
from tidemill.cycle.operations.manual_actions import close
from tidemill.cycle.planning.plan import plan_window
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.initial import initial

DAY = 86_400_000


@contextmanager
def assert_quick() -> Iterator[None]:
    """Assert that the block takes less than 5 s."""
    started_at = time.monotonic()
    yield
    assert time.monotonic() - started_at < 5


def timestamps(ctx: ModelContext, manifest: Manifest) -> list[int]:
    values: list[int] = ctx.load_rows(manifest).sort("_timestamp")["_timestamp"].to_list()
    return values


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "abort"])
def test_a_range_that_ends_on_a_marker_ends_and_the_marker_is_a_gap(
    harness: ModelHarness, commit: bool
) -> None:
    """Fault 12: the marker is the last offset of the log."""
    harness.produce_windows(-3, 0)
    with harness.open_model() as ctx:
        initial(ctx)
        records = {p: spread_events(40, 4, 5) for p in range(2)}
        begin_transaction(harness, records)(commit)
        close(ctx, harness.window(0), "ada")
        plan = plan_window(ctx, harness.window(0))
        assert plan.end_offsets == end_offsets(harness)
        with assert_quick():
            manifest = extract(ctx, harness.window(0))
        assert (manifest.rows, manifest.gaps) == ((280, 2) if commit else (200, 82))
        assert manifest.rows + manifest.rejected + manifest.gaps == plan.offset_count
        run_window(ctx, 0)
    oracle.assert_consistent(harness)


def test_aborted_records_inside_a_window_are_absent_and_counted_as_gaps(
    harness: ModelHarness, kafka_folder: Path
) -> None:
    """Fault 12, checked with Kafka's own reader of its log."""
    harness.produce_windows(-3, -1)
    harness.produce(0, spread_events(50, 0, 2))
    harness.produce(1, spread_events(50, 0, 2))
    begin_transaction(harness, {0: spread_events(30, 2, 3), 1: spread_events(30, 2, 3)})(False)
    begin_transaction(harness, {0: spread_events(20, 2, 4)})(True)
    begin_transaction(harness, {1: [event(timestamp_at(99)) for _ in range(30)]})(
        False
    )  # aborted records pass no end
    harness.produce(1, spread_events(50, 3, 5))
    harness.produce_windows(1, 2)
    with harness.open_model() as ctx:
        initial(ctx)
        with assert_quick():
            manifest = extract(ctx, harness.window(0))
        # 90 aborted records and a marker for each partition of each transaction.
        assert (manifest.rows, manifest.rejected, manifest.gaps) == (170, 0, 90 + 4)
        assert (manifest.late, manifest.early) == (0, 0)
        assert timestamps(ctx, manifest)[-1] < timestamp_at(5)
        run_window(ctx, 0)
        run_window(ctx, 1)
    oracle.assert_consistent(harness)
    assert oracle.assert_matches_log(harness, kafka_folder) == 3 * 200 + 170 + 200


@pytest.mark.faults
def test_ten_days_of_history_in_daily_transactions_fall_into_their_own_windows(
    harness: ModelHarness,
) -> None:
    """Fault 12: each marker has the broker's time, long after the last of these days."""
    start = "2020-01-01"
    harness.define(
        windows={"cron": "0 0 * * *", "start": start, "confirmation_records": 4},
        learner={},  # the defaults; the trees do not matter here
    )
    first = harness.load_spec().calendar.first.start
    days = {
        day: [
            (timestamp - START + first + day * DAY, value)
            for timestamp, value in events(0, 60, day)
        ]
        for day in range(-1, 11)
    }
    for records in days.values():
        begin_transaction(harness, {p: records[p::2] for p in range(2)})(True)
    with harness.open_model() as ctx:
        initial(ctx)
        for number in range(10):
            with assert_quick():
                manifest = extract(ctx, harness.window(number))
            assert (manifest.rows, manifest.gaps, manifest.late, manifest.early) == (60, 2, 0, 0)
            assert timestamps(ctx, manifest) == [timestamp for timestamp, _ in days[number]]
    oracle.assert_consistent(harness)


def test_one_transaction_over_several_windows_is_cut_by_event_time(harness: ModelHarness) -> None:
    """Fault 12: a transaction may span windows."""
    harness.produce_windows(-3, -1)
    begin_transaction(harness, {p: spread_events(90, 0, 15) for p in range(2)})(True)
    harness.produce_windows(3, 3)
    with harness.open_model() as ctx:
        initial(ctx)
        manifests = [extract(ctx, harness.window(number)) for number in range(3)]
        assert [manifest.rows for manifest in manifests] == [60, 60, 60]
        assert [manifest.gaps for manifest in manifests] == [0, 0, 2]
    oracle.assert_consistent(harness)


@pytest.mark.parametrize("commit", [True, False], ids=["committed", "aborted"])
def test_an_open_transaction_across_the_boundary_holds_the_window_open_until_it_ends(
    harness: ModelHarness, commit: bool
) -> None:
    """Fault 13: in one partition of two, with plain records of later windows behind it."""
    harness.produce_windows(-3, 0)
    with harness.open_model() as ctx:
        initial(ctx)
        end_transaction = begin_transaction(harness, {0: spread_events(40, 4, 6)})
        harness.produce_windows(1, 2)
        for _ in range(2):
            with pytest.raises(WindowOpen, match=r"partitions \[0\]"):
                run_window(ctx, 0)
        assert ctx.repository.plan(harness.window(0).key) is None
        end_transaction(commit)
        run_windows(ctx, 0, 0)
        plan = plan_window(ctx, harness.window(0))
        manifest = extract(ctx, harness.window(0))
        assert (manifest.rows, manifest.gaps) == ((220, 0) if commit else (200, 40))
        run_window(ctx, 1)
        assert plan_window(ctx, harness.window(0)) == plan
        next_manifest = extract(ctx, harness.window(1))
        assert (next_manifest.rows, next_manifest.gaps) == ((220, 0) if commit else (200, 0))
    oracle.assert_consistent(harness)


def test_records_of_an_open_transaction_are_in_no_window_however_old(harness: ModelHarness) -> None:
    """Fault 13: once committed, its rows are late rows."""
    harness.produce_windows(-3, 0)
    with harness.open_model() as ctx:
        initial(ctx)
        harness.produce_windows(1, 1)
        end_transaction = begin_transaction(harness, {1: spread_events(30, 1, 4)})
        run_window(ctx, 0)
        before = plan_window(ctx, harness.window(0))
        end_transaction(True)
        harness.produce_windows(2, 3)
        run_window(ctx, 1)
        manifest = extract(ctx, harness.window(1))
        assert (manifest.rows, manifest.late, manifest.gaps) == (230, 30, 1)
        assert plan_window(ctx, harness.window(0)) == before
        assert ctx.load_rows(manifest).filter(pl.col("_timestamp") < timestamp_at(5)).height == 30
    oracle.assert_consistent(harness)
