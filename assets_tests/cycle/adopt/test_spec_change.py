"""Adoption of a changed spec: the model continues with it, and its past is unchanged."""

import pytest

from cycle.adopt.adoption import (
    COMPLETED_WINDOWS,
    COUPON,
    SEED,
    adopt_at,
    candidate_at,
    coupon,
    valid_entries,
    window_at,
)
from cycle.memory_model import make_memory_model, produce, stored_files, with_changes
from support.models.harness import SPEC, run_window, run_windows
from support.models.oracle import assert_verified
from tidemill.core.errors import (
    LineageChanged,
)
from tidemill.core.parquet import from_parquet
from tidemill.cycle.context import ModelContext
from tidemill.cycle.operations.manual_actions import approve, close, skip
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.initial import initial


def test_a_changed_spec_plans_and_writes_nothing_until_it_is_adopted(ctx: ModelContext) -> None:
    ctx = with_changes(ctx, fields=COUPON)
    before = stored_files(ctx)
    first = window_at(ctx, COMPLETED_WINDOWS)
    message = rf"`fields.coupon`, `fields.visits` differ.*adopt m --from {first} --reason"
    for _ in range(2):
        with pytest.raises(LineageChanged, match=message):
            extract(ctx, first)
    for action in (
        lambda: close(ctx, window_at(ctx, COMPLETED_WINDOWS), "ada"),
        lambda: run_window(ctx, COMPLETED_WINDOWS - 1),
    ):
        with pytest.raises(LineageChanged):
            action()
    assert stored_files(ctx) == before
    # Existing windows are recomputed with the spec of their own lineage.
    assert assert_verified(ctx).recomputed == COMPLETED_WINDOWS


def test_a_new_lineage_starts_with_a_retraining_that_names_the_old_candidate(
    ctx: ModelContext,
) -> None:
    old, head = candidate_at(ctx, COMPLETED_WINDOWS - 1), ctx.chain().head
    assert head is not None
    ctx = with_changes(ctx, fields=COUPON)
    done = adopt_at(ctx)
    assert (done.changed_keys, done.topic_changed, done.epoch) == (
        ("fields.coupon", "fields.visits"),
        False,
        0,
    )
    entry = valid_entries(ctx)[-1]
    assert (entry.kind, entry.digest, entry.seq) == ("adopt", head.entry.digest, done.seq)
    assert (entry.as_of, entry.actor) == (window_at(ctx, COMPLETED_WINDOWS - 1).key, "ada")
    assert not entry.is_manual
    for number in (COMPLETED_WINDOWS, COMPLETED_WINDOWS + 1):
        run_window(ctx, number)
    first, second = candidate_at(ctx, COMPLETED_WINDOWS), candidate_at(ctx, COMPLETED_WINDOWS + 1)
    assert (first.kind, first.parent, first.lineage) == ("retrain", old.digest, done.lineage)
    assert (second.kind, second.parent, second.lineage) == ("continue", first.digest, done.lineage)
    assert old.lineage != done.lineage
    sample = from_parquet(ctx.repository.file(first.sample.snapshot))
    new = set(sample.filter(sample["coupon"].is_not_null())["_timestamp"])
    assert new == {t for t in sample["_timestamp"] if t >= window_at(ctx, COMPLETED_WINDOWS).start}
    assert "visits" not in sample.columns
    assert_verified(ctx)


def test_champion_baseline_and_mode_stay_and_the_pool_is_empty(ctx: ModelContext) -> None:
    # The guard pools the windows of an approved champion, but never has enough rows to decide.
    gate = {"min_rows": 5_000, "policy": "manual"}
    ctx = with_changes(ctx, gate=gate)
    last = ctx.repository.report(window_at(ctx, COMPLETED_WINDOWS - 1).key)
    assert last is not None
    digests = (candidate_at(ctx, number).digest for number in range(COMPLETED_WINDOWS))
    in_use = {last.state.champion, last.state.baseline}
    approve(ctx, next(digest for digest in digests if digest not in in_use), "ada", "a good one")
    run_window(ctx, COMPLETED_WINDOWS)
    before = ctx.repository.report(window_at(ctx, COMPLETED_WINDOWS).key)
    assert before is not None
    assert before.state.pool
    ctx = with_changes(ctx, gate=gate, learner=SEED)
    adopt_at(ctx, COMPLETED_WINDOWS + 1)
    run_window(ctx, COMPLETED_WINDOWS + 1)
    report = ctx.repository.report(window_at(ctx, COMPLETED_WINDOWS + 1).key)
    assert report is not None
    old, new = before.state, report.opening_state
    assert (new.champion, new.baseline, new.mode) == (old.champion, old.baseline, old.mode)
    assert new.pool_size == 0
    assert report.previous_state.pool_size == len(old.pool)


def test_a_field_of_another_type_is_null_for_earlier_models(ctx: ModelContext) -> None:
    for number in (5, 6, 7):
        produce(
            ctx,
            COMPLETED_WINDOWS + number,
            COMPLETED_WINDOWS + number,
            visits=lambda index: f"v{index % 3}",
        )
    for number in range(COMPLETED_WINDOWS, COMPLETED_WINDOWS + 5):
        run_window(ctx, number)
    ctx = with_changes(ctx, fields={**SPEC["fields"], "visits": "category?"})
    adopt_at(ctx, COMPLETED_WINDOWS + 5)
    run_window(ctx, COMPLETED_WINDOWS + 5)
    run_window(ctx, COMPLETED_WINDOWS + 6)
    sample = from_parquet(
        ctx.repository.file(candidate_at(ctx, COMPLETED_WINDOWS + 5).sample.snapshot)
    )
    assert set(sample["visits"]) == {None, "v0", "v1", "v2"}
    assert_verified(ctx)


def test_a_window_without_rows_leaves_the_retraining_to_the_next(ctx: ModelContext) -> None:
    ctx = with_changes(ctx, fields=COUPON)
    adopt_at(ctx)
    skip(ctx, window_at(ctx, COMPLETED_WINDOWS), "ada", "not this one")
    for number in (COMPLETED_WINDOWS, COMPLETED_WINDOWS + 1):
        run_window(ctx, number)
    kinds = [
        candidate_at(ctx, number).kind for number in (COMPLETED_WINDOWS, COMPLETED_WINDOWS + 1)
    ]
    assert kinds == ["carry", "retrain"]
    assert_verified(ctx)


def test_earlier_windows_are_verified_and_rebuilt_with_their_own_spec(ctx: ModelContext) -> None:
    ctx = with_changes(ctx, fields=COUPON)
    adopt_at(ctx)
    run_window(ctx, COMPLETED_WINDOWS)
    before = stored_files(ctx)
    initial(ctx)
    for number in range(COMPLETED_WINDOWS + 1):
        run_window(ctx, number)
    assert stored_files(ctx) == before
    store, old = ctx.repository.store, candidate_at(ctx, 1)
    manifest = ctx.repository.manifest(window_at(ctx, 1).key)
    assert manifest is not None
    assert manifest.rows_file is not None
    for name in (manifest.rows_file.name, f"models/{old.digest}.bundle"):
        store.replace(f"m/{name}", b"damaged")
    fresh = with_changes(ctx, fields=COUPON)
    run_window(fresh, 1)
    assert stored_files(fresh) == before


def test_repeated_adoption_is_a_no_op_and_another_change_starts_another_lineage(
    ctx: ModelContext,
) -> None:
    one = with_changes(ctx, learner=SEED)
    done = adopt_at(one)
    before = stored_files(one)
    assert adopt_at(one).number == adopt_at(one).number == done.number == 1
    assert stored_files(one) == before
    two = with_changes(ctx, fields=COUPON)
    with pytest.raises(LineageChanged):
        extract(two, window_at(two, COMPLETED_WINDOWS))
    assert adopt_at(two).number == 2  # window 4 was not planned under the first one
    run_window(two, COMPLETED_WINDOWS)
    assert (
        candidate_at(two, COMPLETED_WINDOWS).parent
        == candidate_at(two, COMPLETED_WINDOWS - 1).digest
    )
    assert adopt_at(two).number == 2
    assert [entry.kind for entry in valid_entries(two)].count("adopt") == 2
    assert_verified(two)
    back = with_changes(ctx)
    adopt_at(back, COMPLETED_WINDOWS + 1)
    run_window(back, COMPLETED_WINDOWS + 1)
    assert candidate_at(back, COMPLETED_WINDOWS + 1).kind == "retrain"
    assert_verified(back)


def test_a_spec_may_be_adopted_before_the_first_window_is_planned() -> None:
    model = make_memory_model()
    produce(model, -2, 2, coupon=coupon)
    first = initial(model)
    model = with_changes(model, fields=COUPON)
    adopt_at(model, 0)
    run_windows(model, 0, 1)
    assert (candidate_at(model, 0).kind, candidate_at(model, 0).parent) == ("retrain", first.digest)
    assert_verified(model)
