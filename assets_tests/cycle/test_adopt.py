"""Adoption: a model continues with another spec or on another topic, and its past is unchanged."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cycle.memory_model import TOPIC, make_memory_model, produce, stored_files, with_changes
from support.models.harness import SPEC, run_window, run_windows, window
from support.models.oracle import assert_verified
from tidemill.adapters.memory import MemoryLedger, MemoryLog
from tidemill.adapters.memory.store import OverlayStore
from tidemill.core.errors import (
    DigestMismatch,
    FeatureSkew,
    LineageChanged,
    LogTruncated,
    OperationNotAllowed,
    PredecessorMissing,
    TopicRecreated,
    WindowOpen,
)
from tidemill.core.ledger import Entry
from tidemill.core.parquet import from_parquet
from tidemill.core.records import Candidate
from tidemill.core.windows import Window
from tidemill.cycle.audit.verify import verify
from tidemill.cycle.context import ModelContext
from tidemill.cycle.operations.adopt import AdoptionResult, adopt
from tidemill.cycle.operations.backtest import backtest, windows_to_backtest
from tidemill.cycle.operations.manual_actions import approve, close, rollback, skip
from tidemill.cycle.operations.prune import prune
from tidemill.cycle.planning.backlog import compute_backlog
from tidemill.cycle.planning.plan import plan_window
from tidemill.cycle.repository import ModelRepository
from tidemill.cycle.steps.evaluate import evaluate
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.initial import initial
from tidemill.cycle.steps.update import update

COUPON = {"country": "category", "price": "number", "coupon": "number?"}
"""`visits` is removed, `coupon` is new."""
SEED = SPEC["learner"] | {"seed": 7}
COMPLETED_WINDOWS = 4
"""Windows 0 to 3 are completed under the first lineage; this is the first unplanned window."""


def coupon(index: int) -> float:
    return float(index % 5)


@pytest.fixture
def ctx() -> ModelContext:
    """A model with four completed windows, and events of five more."""
    model = make_memory_model()
    produce(model, -2, COMPLETED_WINDOWS - 1)
    produce(model, COMPLETED_WINDOWS, COMPLETED_WINDOWS + 4, coupon=coupon)
    run_windows(model, 0, COMPLETED_WINDOWS - 1)
    return model


def window_at(ctx: ModelContext, number: int) -> Window:
    return window(ctx.spec, number)


def adopt_at(ctx: ModelContext, number: int = COMPLETED_WINDOWS) -> AdoptionResult:
    return adopt(ctx, window_at(ctx, number), "ada", "the world changed")


def candidate_at(ctx: ModelContext, number: int) -> Candidate:
    return ctx.records.require_candidate(window_at(ctx, number))


def memory_log(ctx: ModelContext) -> MemoryLog:
    assert isinstance(ctx.event_log, MemoryLog)
    return ctx.event_log


def valid_entries(ctx: ModelContext) -> list[Entry]:
    return [valid.entry for valid in ctx.chain().entries]


# Another learning spec.


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


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "nothing changed": ({"gate": {"min_rows": 60}}, COMPLETED_WINDOWS, "nothing to adopt"),
    "another label": ({"label": "paid"}, COMPLETED_WINDOWS, "`label` differ.*a new name"),
    "another objective": (
        {"objective": "regression"},
        COMPLETED_WINDOWS,
        "`objective` differ.*a new name",
    ),
    "planned already": (
        {"learner": SEED},
        COMPLETED_WINDOWS - 1,
        "planned already.*--from {first} --reason",
    ),
    "too late": (
        {"learner": SEED},
        COMPLETED_WINDOWS + 1,
        "not planned; .*--from {first} --reason",
    ),
}


@pytest.mark.parametrize(("changes", "number", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_adopted_is_refused_and_nothing_is_written(
    ctx: ModelContext, changes: dict[str, Any], number: int, message: str
) -> None:
    ctx = with_changes(ctx, **changes)
    before, entries = stored_files(ctx), valid_entries(ctx)
    with pytest.raises(
        OperationNotAllowed, match=message.format(first=window_at(ctx, COMPLETED_WINDOWS))
    ):
        adopt_at(ctx, number)
    assert (stored_files(ctx), valid_entries(ctx)) == (before, entries)


def test_windows_that_are_planned_must_be_done_first(ctx: ModelContext) -> None:
    plan_window(ctx, window_at(ctx, COMPLETED_WINDOWS + 1))
    other = with_changes(ctx, learner=SEED)
    first, last = (window_at(ctx, COMPLETED_WINDOWS + number) for number in (0, 1))
    with pytest.raises(OperationNotAllowed, match=f"{first} to {last} .*tidemill backfill m"):
        adopt_at(other, COMPLETED_WINDOWS + 2)
    run_window(ctx, COMPLETED_WINDOWS)
    for step in (extract, update, evaluate):
        step(ctx, window_at(ctx, COMPLETED_WINDOWS + 1))
    if ctx.repository.report(window_at(ctx, COMPLETED_WINDOWS + 1).key).verdict == "promote":  # type: ignore[union-attr]
        with pytest.raises(
            OperationNotAllowed, match=f"Windows {window_at(ctx, COMPLETED_WINDOWS + 1)} to"
        ):
            adopt_at(other, COMPLETED_WINDOWS + 2)
    run_window(ctx, COMPLETED_WINDOWS + 1)
    adopt_at(other, COMPLETED_WINDOWS + 2)
    run_window(other, COMPLETED_WINDOWS + 2)
    assert_verified(other)


def test_adoption_without_an_initial_model_is_refused() -> None:
    model = make_memory_model()
    produce(model, -2, 2)
    with pytest.raises(PredecessorMissing, match="no initial model"):
        adopt_at(model, 0)


def test_a_spec_may_be_adopted_before_the_first_window_is_planned() -> None:
    model = make_memory_model()
    produce(model, -2, 2, coupon=coupon)
    first = initial(model)
    model = with_changes(model, fields=COUPON)
    adopt_at(model, 0)
    run_windows(model, 0, 1)
    assert (candidate_at(model, 0).kind, candidate_at(model, 0).parent) == ("retrain", first.digest)
    assert_verified(model)


# Another topic.


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


# Feature functions.

_FUNCTION = """import polars as pl

def features(rows):
    return rows.with_columns(many=pl.col("price") * {factor})
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of importable modules: `shop_one` and `shop_two`."""
    for name, factor in (("one", 2), ("two", 3)):
        (tmp_path / f"shop_{name}.py").write_text(_FUNCTION.format(factor=factor))
        monkeypatch.delitem(__import__("sys").modules, f"shop_{name}", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def shop_ctx(modules: Path) -> ModelContext:
    """A model with a feature function and four completed windows."""
    model = with_changes(make_memory_model(), features="shop_one:features")
    produce(model, -2, COMPLETED_WINDOWS + 4)
    run_windows(model, 0, COMPLETED_WINDOWS - 1)
    return model


def test_each_model_is_scored_through_its_own_function(shop_ctx: ModelContext) -> None:
    ctx = with_changes(shop_ctx, features="shop_two:features")
    done = adopt_at(ctx)
    assert done.changed_keys == ("features", "features_source")
    for number in (COMPLETED_WINDOWS, COMPLETED_WINDOWS + 1):
        run_window(ctx, number)
    champion, new = valid_entries(ctx)[0].digest, candidate_at(ctx, COMPLETED_WINDOWS).digest
    functions = [ctx.load(digest).header.features for digest in (champion, new)]
    assert [reference for reference, _ in filter(None, functions)] == [
        "shop_one:features",
        "shop_two:features",
    ]
    assert_verified(ctx)
    plain = with_changes(ctx)
    adopt_at(plain, COMPLETED_WINDOWS + 2)
    run_window(plain, COMPLETED_WINDOWS + 2)
    assert plain.load(candidate_at(plain, COMPLETED_WINDOWS + 2).digest).header.features is None
    assert_verified(plain)


def test_a_feature_function_edited_in_place_is_refused_while_its_models_are_scored(
    shop_ctx: ModelContext, modules: Path
) -> None:
    file = modules / "shop_one.py"
    source = file.read_text()
    file.write_text(_FUNCTION.format(factor=5))
    edited = with_changes(shop_ctx, features="shop_one:features")
    before, entries = stored_files(edited), valid_entries(edited)
    with pytest.raises(LineageChanged, match="`features_source` differ"):
        extract(edited, window_at(edited, COMPLETED_WINDOWS))
    with pytest.raises(FeatureSkew, match=r"shop_one.*a module of another name"):
        adopt_at(edited)
    assert (stored_files(edited), valid_entries(edited)) == (before, entries)
    file.write_text(source)
    moved = with_changes(shop_ctx, features="shop_two:features")
    adopt_at(moved)
    run_window(moved, COMPLETED_WINDOWS)
    file.unlink()
    gone = with_changes(moved, features="shop_two:features")
    with pytest.raises(FeatureSkew, match="shop_one"):
        run_window(gone, COMPLETED_WINDOWS + 1)


# Concurrent writers, and other operations on past windows.


@dataclass
class InterposedLedger:
    """A ledger that calls a function right before the first append."""

    real: MemoryLedger
    before_append: Any

    def identity(self) -> tuple[str, str]:
        return self.real.identity()

    def read(self) -> Any:
        return self.real.read()

    def append(self, model: str, value: bytes) -> int:
        before_append, self.before_append = self.before_append, lambda: None
        before_append()
        return self.real.append(model, value)


def with_interposed_append(ctx: ModelContext, before_append: Any) -> ModelContext:
    assert isinstance(ctx.ledger, MemoryLedger)
    return replace(ctx, ledger=InterposedLedger(ctx.ledger, before_append))


def test_concurrent_equal_adoptions_both_report_the_first_writer(ctx: ModelContext) -> None:
    other = with_changes(ctx, learner=SEED)
    mine = with_interposed_append(
        other, lambda: adopt(other, window_at(other, COMPLETED_WINDOWS), "bob", "me first")
    )
    done = adopt_at(mine)
    assert (done.number, done.actor, done.reason) == (1, "bob", "me first")
    assert [entry.kind for entry in valid_entries(other)].count("adopt") == 1
    run_window(other, COMPLETED_WINDOWS)
    assert_verified(other)


def test_one_of_two_concurrent_different_adoptions_is_refused(ctx: ModelContext) -> None:
    theirs, mine = with_changes(ctx, fields=COUPON), with_changes(ctx, learner=SEED)
    with pytest.raises(OperationNotAllowed, match="Another process adopted"):
        adopt_at(with_interposed_append(mine, lambda: adopt_at(theirs)))
    run_window(theirs, COMPLETED_WINDOWS)
    assert candidate_at(theirs, COMPLETED_WINDOWS).kind == "retrain"
    assert_verified(theirs)


def test_an_adoption_after_the_plan_of_its_window_never_takes_effect(ctx: ModelContext) -> None:
    late = with_changes(ctx, learner=SEED)
    with pytest.raises(OperationNotAllowed, match=r"planned .* at the same time"):
        adopt_at(
            with_interposed_append(
                late, lambda: plan_window(ctx, window_at(ctx, COMPLETED_WINDOWS))
            )
        )
    run_window(ctx, COMPLETED_WINDOWS)
    assert ctx.records.lineage_id(window_at(ctx, COMPLETED_WINDOWS)) == ctx.records.lineage_id(
        window_at(ctx, 0)
    )
    adopt_at(late, COMPLETED_WINDOWS + 1)
    run_window(late, COMPLETED_WINDOWS + 1)
    assert plan_window(late, window_at(late, COMPLETED_WINDOWS + 1)).adoption == 2
    assert_verified(late)


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
