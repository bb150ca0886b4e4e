"""Adoption of another topic: its windows are cut as the first ones were, in another epoch."""

from typing import Any

import pytest

from cycle.adopt.adoption import (
    COMPLETED_WINDOWS,
    COUPON,
    adopt_at,
    candidate_at,
    coupon,
    memory_log,
    window_at,
)
from cycle.memory_model import TOPIC, produce, stored_files, with_changes
from support.models.harness import run_window
from support.models.oracle import assert_verified
from tidemill.core.errors import (
    LineageChanged,
    LogTruncated,
    OperationNotAllowed,
    TopicRecreated,
    WindowOpen,
)
from tidemill.core.parquet import from_parquet
from tidemill.cycle.context import ModelContext
from tidemill.cycle.operations.manual_actions import skip
from tidemill.cycle.planning.backlog import compute_backlog
from tidemill.cycle.planning.plan import plan_window
from tidemill.cycle.steps.extract import extract


@pytest.mark.parametrize("name", [TOPIC, "other"], ids=["recreated", "renamed"])
@pytest.mark.parametrize("changes", [{}, {"fields": COUPON}], ids=["same spec", "changed spec"])
def test_on_another_topic_the_next_window_starts_as_the_first_did(
    ctx: ModelContext, name: str, changes: dict[str, Any]
) -> None:
    lineage_id = ctx.records.lineage_id(window_at(ctx, COMPLETED_WINDOWS - 1))
    memory_log(ctx).create_topic(name, 3)
    produce(ctx, COMPLETED_WINDOWS - 2, COMPLETED_WINDOWS + 2, name, 3, coupon=coupon)
    ctx = with_changes(ctx, topic=name, **changes)
    before = stored_files(ctx)
    expected_error = TopicRecreated if not changes else LineageChanged
    first = window_at(ctx, COMPLETED_WINDOWS)
    with pytest.raises(expected_error, match=f"tidemill adopt m --from {first} --reason"):
        extract(ctx, window_at(ctx, COMPLETED_WINDOWS))
    with pytest.raises(TopicRecreated):
        compute_backlog(ctx)
    assert stored_files(ctx) == before
    done = adopt_at(ctx)
    assert (done.topic_changed, done.epoch, done.topic) == (True, 1, name)
    assert (done.lineage == lineage_id) == (not changes)
    backlog = compute_backlog(ctx)
    assert (backlog.first, backlog.closed) == (first, window_at(ctx, COMPLETED_WINDOWS + 1))
    for number in (COMPLETED_WINDOWS, COMPLETED_WINDOWS + 1):
        run_window(ctx, number)
    plan = plan_window(ctx, first)
    assert {r.partition: r.start for r in plan.ranges} == {0: 108, 1: 106, 2: 106}
    assert (plan.epoch, plan.topic, plan.adoption) == (1, name, 1)
    manifest = ctx.repository.manifest(window_at(ctx, COMPLETED_WINDOWS).key)
    assert manifest is not None
    assert (manifest.epoch, manifest.rows) == (1, 160)
    verification = assert_verified(ctx)
    assert verification.recomputed == COMPLETED_WINDOWS + 2
    assert (len(verification.taken_as_archived) > 0) == (name == TOPIC)


def test_rows_of_two_topics_differ_by_epoch(ctx: ModelContext) -> None:
    memory_log(ctx).create_topic(TOPIC, 2)
    produce(ctx, COMPLETED_WINDOWS - 4, COMPLETED_WINDOWS + 3)
    adopt_at(ctx)
    for number in (COMPLETED_WINDOWS, COMPLETED_WINDOWS + 1):  # window 5 retrains
        run_window(ctx, number)
    candidate = candidate_at(ctx, COMPLETED_WINDOWS + 1)
    assert candidate.kind == "retrain"
    sample = from_parquet(ctx.repository.file(candidate.sample.snapshot))
    assert set(sample["_epoch"]) == {0, 1}
    position = ["_partition", "_offset"]
    assert sample.select(position).n_unique() < sample.height  # both topics have these offsets
    assert sample.select("_epoch", *position).n_unique() == sample.height
    assert_verified(ctx)


def test_a_topic_that_lost_planned_records_continues_in_another_epoch(ctx: ModelContext) -> None:
    """Fault 9."""
    end = plan_window(ctx, window_at(ctx, COMPLETED_WINDOWS - 1)).end_offsets
    for partition in end:
        memory_log(ctx).truncate(TOPIC, partition, end[partition] - 30)
    with pytest.raises(
        LogTruncated, match=f"tidemill adopt m --from {window_at(ctx, COMPLETED_WINDOWS)} --reason"
    ):
        extract(ctx, window_at(ctx, COMPLETED_WINDOWS))
    done = adopt_at(ctx)
    assert (done.topic_changed, done.epoch) == (True, 1)
    with pytest.raises(WindowOpen):
        extract(ctx, window_at(ctx, COMPLETED_WINDOWS))
    produce(ctx, COMPLETED_WINDOWS, COMPLETED_WINDOWS + 1)
    run_window(ctx, COMPLETED_WINDOWS)
    assert plan_window(ctx, window_at(ctx, COMPLETED_WINDOWS)).offset_ranges == {
        p: (e - 30, e + 50) for p, e in end.items()
    }
    assert_verified(ctx)


def test_a_topic_recreated_again_before_anything_was_planned_on_it_is_adopted_again(
    ctx: ModelContext,
) -> None:
    memory_log(ctx).create_topic(TOPIC, 2)
    adopt_at(ctx)
    memory_log(ctx).create_topic(TOPIC, 2)
    produce(ctx, COMPLETED_WINDOWS - 1, COMPLETED_WINDOWS + 1)
    with pytest.raises(TopicRecreated):
        extract(ctx, window_at(ctx, COMPLETED_WINDOWS))
    assert (adopt_at(ctx).epoch, adopt_at(ctx).number) == (2, 2)
    run_window(ctx, COMPLETED_WINDOWS)
    assert plan_window(ctx, window_at(ctx, COMPLETED_WINDOWS)).epoch == 2
    assert_verified(ctx)


def test_a_planned_window_whose_topic_is_gone_is_skipped_and_the_next_adopted(
    ctx: ModelContext,
) -> None:
    plan_window(ctx, window_at(ctx, COMPLETED_WINDOWS))
    memory_log(ctx).create_topic(TOPIC, 2)
    produce(ctx, COMPLETED_WINDOWS, COMPLETED_WINDOWS + 3)
    with pytest.raises(TopicRecreated, match=f"--from {window_at(ctx, COMPLETED_WINDOWS + 1)}"):
        extract(ctx, window_at(ctx, COMPLETED_WINDOWS))
    with pytest.raises(OperationNotAllowed, match="tidemill skip"):
        adopt_at(ctx, COMPLETED_WINDOWS + 1)
    skip(ctx, window_at(ctx, COMPLETED_WINDOWS), "ada", "its topic is gone")
    run_window(ctx, COMPLETED_WINDOWS)
    adopt_at(ctx, COMPLETED_WINDOWS + 1)
    run_window(ctx, COMPLETED_WINDOWS + 1)
    assert_verified(ctx)
