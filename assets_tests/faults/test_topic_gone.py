"""The topic deleted, recreated, aged out or compacted: named, and nothing written is harmed."""

import re
from pathlib import Path

import pytest

import oracle
from model_harness import ModelHarness, run_window, run_windows
from tidemill.core.errors import (
    OffsetsExpired,
    OperationNotAllowed,
    TopicCompacted,
    TopicMissing,
    TopicRecreated,
)
from tidemill.cycle.extract import extract
from tidemill.cycle.initial import initial
from tidemill.cycle.manual_actions import skip
from tidemill.cycle.plan import plan_window
from topic_tools import delete_before, end_offsets, recreate_topic


def store_files(harness: ModelHarness) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in harness.settings.store.rglob("*") if path.is_file()}


def test_a_deleted_topic_is_missing_and_committed_windows_stand(harness: ModelHarness) -> None:
    """Row 10."""
    harness.produce_windows(-3, 3)
    with harness.open_model() as mill:
        run_windows(mill, 0, 0)
        plan_window(mill, harness.window(1))
        before = store_files(harness)
        harness.delete_topic()
        for number in (1, 2):  # planned, and not planned
            with pytest.raises(TopicMissing, match=harness.model):
                extract(mill, harness.window(number))
        assert run_window(mill, 0).status == "unchanged"
    assert store_files(harness) == before
    oracle.assert_consistent(harness)


@pytest.mark.parametrize("last", [1, 8], ids=["fewer", "more"])
def test_a_recreated_topic_is_known_by_its_id_however_many_records_it_has(
    harness: ModelHarness, last: int
) -> None:
    """Row 10: the old one held windows -3 to 4."""
    harness.produce_windows(-3, 4)
    with harness.open_model() as mill:
        run_windows(mill, 0, 0)
        old = plan_window(mill, harness.window(1)).topic_id
        before = store_files(harness)
        recreate_topic(harness)
        harness.produce_windows(-3, last, rows=300, seed=1)
        for number in (1, 2):  # planned on the old topic, and not planned
            with pytest.raises(
                TopicRecreated, match=rf"{re.escape(old)}.*tidemill adopt {harness.model}"
            ):
                extract(mill, harness.window(number))
        assert run_window(mill, 0).status == "unchanged"
    assert store_files(harness) == before
    oracle.assert_consistent(harness)


def test_expired_offsets_are_named_exactly_and_skipping_is_recorded(harness: ModelHarness) -> None:
    """Row 11: retention passed the start of a planned window."""
    harness.produce_windows(-3, 5)
    with harness.open_model() as mill:
        run_windows(mill, 0, 0)
        planned = plan_window(mill, harness.window(1))
        gone = {r.partition: (r.start, r.end) for r in planned.ranges}
        delete_before(harness, {0: gone[0][0] + 7, 1: gone[1][0]})
        told = rf"offsets {gone[0][0]} to {gone[0][0] + 6} of partition 0"
        with pytest.raises(OffsetsExpired, match=f"{told}.*tidemill skip"):
            extract(mill, harness.window(1))
        assert mill.repository.manifest(planned.window) is None
        skipped = skip(mill, harness.window(1), "ada", "aged out")
        assert skipped.skipped is not None
        assert (skipped.skipped.actor, skipped.skipped.reason) == ("ada", "aged out")
        assert (skipped.rows, skipped.rejected, skipped.gaps) == (0, 0, planned.offset_count)
        run_window(mill, 1)
        assert extract(mill, harness.window(2)).rows == 200
        run_window(mill, 2)
        with pytest.raises(OperationNotAllowed, match="Only a window without a batch"):
            skip(mill, harness.window(2), "ada", "aged out")
    oracle.assert_consistent(harness)


def test_a_window_whose_records_expired_before_it_was_planned_is_expired_too(
    harness: ModelHarness,
) -> None:
    """Row 11: no offset falls between two windows because retention was faster than planning."""
    harness.produce_windows(-3, 5)
    with harness.open_model() as mill:
        run_windows(mill, 0, 0)
        before = plan_window(mill, harness.window(0)).end_offsets
        low = {partition: end + 150 for partition, end in before.items()}  # in window 1 + 50 of 2
        delete_before(harness, low)
        with pytest.raises(
            OffsetsExpired, match=rf"offsets {before[0]} to {before[0] + 149} of partition 0"
        ):
            extract(mill, harness.window(1))
        assert plan_window(mill, harness.window(1)).offset_ranges == {
            p: (before[p], low[p]) for p in before
        }
        skip(mill, harness.window(1), "ada", "aged out")
        run_window(mill, 1)
        run_window(mill, 2)
        run_window(mill, 3)
        assert extract(mill, harness.window(2)).rows == 100
        assert end_offsets(harness)[0] == 900
    oracle.assert_consistent(harness)


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
def test_a_compacted_topic_is_refused_at_attach(harness: ModelHarness, policy: str) -> None:
    """Row 11."""
    other = ModelHarness(harness.bootstrap_servers, harness.home, f"{harness.model}c")
    other.define()
    other.create_topic(**{"cleanup.policy": policy})
    with other.open_model() as mill:
        with pytest.raises(TopicCompacted, match=r"is compacted.*cleanup.policy=delete"):
            initial(mill)
        assert list(mill.repository.names("")) == []
