"""Other operations on the windows before and after an adoption."""

import pytest

from cycle.adopt.adoption import (
    COMPLETED_WINDOWS,
    COUPON,
    SEED,
    adopt_at,
    memory_log,
    valid_entries,
    window_at,
)
from cycle.memory_model import TOPIC, make_memory_model, produce, with_changes
from support.models.harness import run_window, run_windows
from support.models.oracle import assert_verified
from tidemill.adapters.memory.store import OverlayStore
from tidemill.core.errors import (
    DigestMismatch,
    WindowOpen,
)
from tidemill.cycle.audit.verify import verify
from tidemill.cycle.context import ModelContext
from tidemill.cycle.operations.backtest import backtest, windows_to_backtest
from tidemill.cycle.operations.manual_actions import close, rollback
from tidemill.cycle.operations.prune import prune
from tidemill.cycle.repository import ModelRepository
from tidemill.cycle.steps.evaluate import evaluate
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.update import update


def test_a_manual_rollback_before_an_adoption_is_applied_by_the_first_report_after_it(
    ctx: ModelContext,
) -> None:
    gate = {"min_rows": 50, "policy": "always"}
    ctx = with_changes(ctx, gate=gate)
    run_window(ctx, COMPLETED_WINDOWS)
    entry = rollback(ctx, valid_entries(ctx)[0].digest, "ada", "I liked that one")
    ctx = with_changes(ctx, gate=gate, learner=SEED)
    adopt_at(ctx, COMPLETED_WINDOWS + 1)
    run_window(ctx, COMPLETED_WINDOWS + 1)
    report = ctx.repository.report(window_at(ctx, COMPLETED_WINDOWS + 1).key)
    assert report is not None
    assert [applied.seq for applied in report.entries] == [entry.seq]
    assert run_window(ctx, COMPLETED_WINDOWS).status == "superseded"
    assert_verified(ctx)


def test_pruning_past_an_adoption_keeps_a_store_that_can_be_recomputed(ctx: ModelContext) -> None:
    ctx = with_changes(ctx, fields=COUPON, retention_windows=2)
    adopt_at(ctx)
    for number in range(COMPLETED_WINDOWS, COMPLETED_WINDOWS + 4):
        run_window(ctx, number)
        prune(ctx, window_at(ctx, number))
    marker = ctx.repository.prune_marker()
    assert marker is not None
    assert marker.window == window_at(ctx, COMPLETED_WINDOWS).key
    verification = assert_verified(ctx)
    assert (verification.pruned, verification.recomputed) == (marker.window, 3)


def test_a_backtest_with_the_same_gate_over_both_lineages_makes_the_same_reports(
    ctx: ModelContext,
) -> None:
    ctx = with_changes(ctx, fields=COUPON)
    adopt_at(ctx)
    run_window(ctx, COMPLETED_WINDOWS)
    scratch = ModelRepository(OverlayStore(ctx.repository.store, "m/reports/"), "m")
    result = backtest(ctx, ctx.spec, scratch, windows_to_backtest(ctx, None, None), lambda _: None)
    assert (result.verdict_changes, result.committed) == ((), result.backtested)
    assert result.committed.windows == COMPLETED_WINDOWS + 1


def test_a_stream_that_ended_on_the_new_topic_is_closed(ctx: ModelContext) -> None:
    memory_log(ctx).create_topic(TOPIC, 2)
    produce(ctx, COMPLETED_WINDOWS - 1, COMPLETED_WINDOWS)
    adopt_at(ctx)
    with pytest.raises(WindowOpen, match=f"Window {window_at(ctx, COMPLETED_WINDOWS)} of"):
        extract(ctx, window_at(ctx, COMPLETED_WINDOWS))
    closed = close(ctx, window_at(ctx, COMPLETED_WINDOWS), "ada")
    assert closed.offset_ranges == {0: (80, 160), 1: (80, 160)}
    run_window(ctx, COMPLETED_WINDOWS)
    assert_verified(ctx)


def test_another_gate_keeps_the_lineage_and_reports_are_recomputed_with_their_own_gate() -> None:
    """Also if a field is removed that the earlier gate used for slices."""
    model = with_changes(make_memory_model(), gate={"min_rows": 50, "slices": ["country"]})
    produce(model, -2, 4)
    run_windows(model, 0, 0)
    other = with_changes(
        model, gate={"min_rows": 60, "policy": "manual"}, warn_below_rows=3, retention_windows=9
    )
    run_window(other, 1)
    assert other.records.lineage_id(window_at(other, 1)) == model.records.lineage_id(
        window_at(model, 0)
    )
    assert_verified(other)
    without = with_changes(other, fields={"price": "number", "visits": "number?"})
    adopt_at(without, 2)
    run_window(without, 2)
    assert_verified(without)


def test_a_damaged_or_lost_adoption_is_named(ctx: ModelContext) -> None:
    ctx = with_changes(ctx, learner=SEED)
    adopt_at(ctx)
    run_window(ctx, COMPLETED_WINDOWS)
    store, name = ctx.repository.store, "m/adoptions/1.json"
    original = store.get(name) or b""
    store.replace(name, original.replace(b"ada", b"bob"))
    for step in (update, evaluate):
        with pytest.raises(DigestMismatch, match=name):
            step(ctx, window_at(ctx, COMPLETED_WINDOWS + 1))
    assert any(name in finding for finding in verify(ctx).findings)
    store.delete(name)
    with pytest.raises(DigestMismatch, match=name):
        update(ctx, window_at(ctx, COMPLETED_WINDOWS))
    expected = "was made under adoption 1, which is missing"
    assert any(expected in finding for finding in verify(ctx).findings)
    store.put(name, original)
    assert_verified(ctx)
