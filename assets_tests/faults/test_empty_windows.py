"""Windows without rows: a batch with a schema, and steps that report no evidence."""

import json

import pytest

from faults.topics import begin_transaction, spread_events, timestamp_at
from support.models import oracle
from support.models.harness import ModelHarness, run_window, run_windows
from tidemill.core.decoding import Decoder
from tidemill.cycle.context import ModelContext
from tidemill.cycle.operations.manual_actions import close
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.initial import initial


def assert_nothing_learned(ctx: ModelContext, harness: ModelHarness, number: int) -> None:
    window = harness.window(number)
    manifest = extract(ctx, window)
    assert (manifest.rows, manifest.rejected) == (0, 0)
    assert ctx.load_rows(manifest).schema == Decoder(ctx.spec).schema
    report = ctx.repository.report(window.key)
    assert report is not None
    candidate = ctx.repository.candidate(report.lineage, window.key)
    assert candidate is not None
    assert candidate.kind == "carry"
    assert candidate.digest == candidate.parent
    assert (candidate.holdout, candidate.tail_rows) == (None, 0)
    assert report.verdict == "keep"
    assert report.rows == 0
    assert {report.losses[role] for role in ("champion", "challenger", "prior")} == {None}
    assert report.auc is None
    assert report.state.champion == report.previous_state.champion


def test_a_window_of_markers_only_is_an_empty_batch(harness: ModelHarness) -> None:
    """Fault 14: all its offsets are aborted records and markers."""
    harness.produce_windows(-3, 0)
    with harness.open_model() as ctx:
        initial(ctx)
        close(ctx, harness.window(0), "ada")
        run_window(ctx, 0)
        begin_transaction(harness, {p: spread_events(10, 5, 6) for p in range(2)})(False)
        close(ctx, harness.window(1), "ada")
        run_window(ctx, 1)
        assert extract(ctx, harness.window(1)).gaps == 22
        assert_nothing_learned(ctx, harness, 1)
        harness.produce_windows(2, 3)
        run_window(ctx, 2)
        assert extract(ctx, harness.window(2)).rows == 200
    oracle.assert_consistent(harness)


def test_windows_without_any_records_are_empty_and_the_lineage_continues(
    harness: ModelHarness,
) -> None:
    """Fault 14: four in a row, including a retraining without new rows."""
    harness.produce_windows(-3, 0)
    harness.produce_windows(5, 6)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 5)
        for number in range(1, 5):
            assert extract(ctx, harness.window(number)).gaps == 0
            assert_nothing_learned(ctx, harness, number)
        assert extract(ctx, harness.window(5)).rows == 200
        first, last = (ctx.repository.report(harness.window(n).key) for n in (0, 5))
        assert first is not None
        assert last is not None
        candidates = [
            ctx.repository.candidate(last.lineage, harness.window(n).key) for n in range(6)
        ]
        assert [candidate.since_retrain for candidate in candidates if candidate] == [
            1,
            2,
            3,
            4,
            5,
            0,
        ]
        assert candidates[5] is not None
        assert candidates[5].kind == "retrain"
    oracle.assert_consistent(harness)


@pytest.mark.parametrize("objective", ["regression", "multiclass"])
def test_an_empty_window_is_no_error_for_other_objectives(
    harness: ModelHarness, objective: str
) -> None:
    """Fault 14."""
    classes = ["low", "high"] if objective == "multiclass" else []
    harness.define(objective=objective, classes=classes, label="size", fields={"price": "number"})
    labels: list[object] = [*classes] or [1.5, 8.0]
    for number in (-2, -1, 0, 2, 3):
        rows = [{"price": i % 7, "size": labels[i % 7 > 3]} for i in range(120)]
        stamps = [stamp for stamp, _ in spread_events(60, 5 * number, 5 * number + 5)]
        for p in range(2):
            values = [json.dumps(row).encode() for row in rows[p::2]]
            harness.produce(p, [*zip(stamps, values, strict=True)])
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 2)
        assert_nothing_learned(ctx, harness, 1)
        assert extract(ctx, harness.window(2)).rows == 120
    oracle.assert_consistent(harness)


def test_an_empty_partition_is_in_every_plan_without_offsets(harness: ModelHarness) -> None:
    """Fault 14: partition 1 never had a record, and the windows are closed manually."""
    harness.produce(0, spread_events(300, -10, 10))
    with harness.open_model() as ctx:
        close(ctx, harness.window(1), "ada")
        run_windows(ctx, 0, 1)
        for number in range(2):
            plan = ctx.repository.plan(harness.window(number).key)
            assert plan is not None
            assert [(r.partition, r.end - r.start) for r in plan.ranges] == [(0, 75), (1, 0)]
            assert extract(ctx, harness.window(number)).rows == 75
        assert timestamp_at(10) == harness.window(1).end
    oracle.assert_consistent(harness)
