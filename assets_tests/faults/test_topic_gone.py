"""A topic deleted, recreated, expired or compacted: reported, and committed data is kept."""

import re
from pathlib import Path

import pytest

from faults.topics import delete_before, end_offsets, recreate_topic
from support.models import oracle
from support.models.harness import ModelHarness, run_window, run_windows
from tidemill.core.errors import (
    OffsetsExpired,
    OperationNotAllowed,
    TopicCompacted,
    TopicMissing,
    TopicRecreated,
)
from tidemill.cycle.operations.manual_actions import skip
from tidemill.cycle.planning.plan import plan_window
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.initial import initial


def store_files(harness: ModelHarness) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in harness.settings.store.rglob("*") if path.is_file()}


def test_a_deleted_topic_is_reported_and_committed_windows_stay_valid(
    harness: ModelHarness,
) -> None:
    """Fault 10."""
    harness.produce_windows(-3, 3)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 0)
        plan_window(ctx, harness.window(1))
        before = store_files(harness)
        harness.delete_topic()
        for number in (1, 2):  # planned and not planned
            with pytest.raises(TopicMissing, match=harness.model):
                extract(ctx, harness.window(number))
        assert run_window(ctx, 0).status == "unchanged"
    assert store_files(harness) == before
    oracle.assert_consistent(harness)


@pytest.mark.parametrize("last", [1, 8], ids=["fewer", "more"])
def test_a_recreated_topic_is_known_by_its_id_however_many_records_it_has(
    harness: ModelHarness, last: int
) -> None:
    """Fault 10: the old topic had windows -3 to 4."""
    harness.produce_windows(-3, 4)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 0)
        old = plan_window(ctx, harness.window(1)).topic_id
        before = store_files(harness)
        recreate_topic(harness)
        harness.produce_windows(-3, last, rows=300, seed=1)
        for number in (1, 2):  # planned on the old topic and not planned
            with pytest.raises(
                TopicRecreated, match=rf"{re.escape(old)}.*tidemill adopt {harness.model}"
            ):
                extract(ctx, harness.window(number))
        assert run_window(ctx, 0).status == "unchanged"
    assert store_files(harness) == before
    oracle.assert_consistent(harness)


def test_expired_offsets_are_reported_exactly_and_skipping_is_recorded(
    harness: ModelHarness,
) -> None:
    """Fault 11: retention deleted the start of a planned window."""
    harness.produce_windows(-3, 5)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 0)
        plan = plan_window(ctx, harness.window(1))
        ranges = {r.partition: (r.start, r.end) for r in plan.ranges}
        delete_before(harness, {0: ranges[0][0] + 7, 1: ranges[1][0]})
        message = rf"offsets {ranges[0][0]} to {ranges[0][0] + 6} of partition 0"
        with pytest.raises(OffsetsExpired, match=f"{message}.*tidemill skip"):
            extract(ctx, harness.window(1))
        assert ctx.repository.manifest(plan.window) is None
        manifest = skip(ctx, harness.window(1), "ada", "aged out")
        assert manifest.skipped is not None
        assert (manifest.skipped.actor, manifest.skipped.reason) == ("ada", "aged out")
        assert (manifest.rows, manifest.rejected, manifest.gaps) == (0, 0, plan.offset_count)
        run_window(ctx, 1)
        assert extract(ctx, harness.window(2)).rows == 200
        run_window(ctx, 2)
        with pytest.raises(OperationNotAllowed, match="Only a window without a batch"):
            skip(ctx, harness.window(2), "ada", "aged out")
    oracle.assert_consistent(harness)


def test_a_window_whose_records_expired_before_it_was_planned_is_expired_too(
    harness: ModelHarness,
) -> None:
    """Fault 11: retention ahead of planning loses no offset between two windows."""
    harness.produce_windows(-3, 5)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 0)
        before = plan_window(ctx, harness.window(0)).end_offsets
        low = {
            partition: end + 150 for partition, end in before.items()
        }  # all of window 1 and 50 offsets of window 2
        delete_before(harness, low)
        with pytest.raises(
            OffsetsExpired, match=rf"offsets {before[0]} to {before[0] + 149} of partition 0"
        ):
            extract(ctx, harness.window(1))
        assert plan_window(ctx, harness.window(1)).offset_ranges == {
            p: (before[p], low[p]) for p in before
        }
        skip(ctx, harness.window(1), "ada", "aged out")
        run_window(ctx, 1)
        run_window(ctx, 2)
        run_window(ctx, 3)
        assert extract(ctx, harness.window(2)).rows == 100
        assert end_offsets(harness)[0] == 900
    oracle.assert_consistent(harness)


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
def test_a_compacted_topic_is_refused_at_attach(harness: ModelHarness, policy: str) -> None:
    """Fault 11."""
    other = ModelHarness(harness.bootstrap_servers, harness.home, f"{harness.model}c")
    other.define()
    other.create_topic(**{"cleanup.policy": policy})
    with other.open_model() as ctx:
        with pytest.raises(TopicCompacted, match=r"is compacted.*cleanup.policy=delete"):
            initial(ctx)
        assert list(ctx.repository.names("")) == []
