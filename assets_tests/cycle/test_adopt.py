"""Adopt: a model goes on by another spec or on another topic, and its past stays what it was."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bench import SPEC, run, turn, window
from memory_stream import TOPIC, changed, files, flow, flowing, right
from tidemill.adapters.memory.log import MemoryLedger, MemoryLog
from tidemill.adapters.memory.store import OverlayStore
from tidemill.core.errors import (
    DigestMismatch,
    FeatureSkew,
    LineageChanged,
    LogTruncated,
    PredecessorMissing,
    OperationNotAllowed,
    TopicRecreated,
    WindowOpen,
)
from tidemill.core.ledger import Entry
from tidemill.core.records import Candidate
from tidemill.core.tables import from_parquet
from tidemill.core.windows import Window
from tidemill.cycle.adopt import AdoptionResult, adopt
from tidemill.cycle.archive import ModelRepository
from tidemill.cycle.due import compute_backlog
from tidemill.cycle.evaluate import evaluate
from tidemill.cycle.extract import extract
from tidemill.cycle.initial import initial
from tidemill.cycle.intervene import close, rollback, skip
from tidemill.cycle.lines import lineage_id_for
from tidemill.cycle.mill import ModelContext
from tidemill.cycle.plan import plan_window
from tidemill.cycle.prune import prune
from tidemill.cycle.replay_gate import backtest, windows_to_backtest
from tidemill.cycle.update import require_candidate, update
from tidemill.cycle.verify import verify

COUPON = {"country": "category", "price": "number", "coupon": "number?"}
"""`visits` is dropped, `coupon` is new."""
SEED = SPEC["learner"] | {"seed": 7}
DONE = 4
"""Windows 0 to 3 are done under the first line in most tests; this is the first unplanned."""


def coupon(at: int) -> float:
    return float(at % 5)


@pytest.fixture
def mill() -> ModelContext:
    """A model with four windows done, and events of four more."""
    made = flowing()
    flow(made, -2, DONE - 1)
    flow(made, DONE, DONE + 4, coupon=coupon)
    run(made, 0, DONE - 1)
    return made


def at(mill: ModelContext, number: int) -> Window:
    return window(mill.spec, number)


def go_on(mill: ModelContext, number: int = DONE) -> AdoptionResult:
    return adopt(mill, at(mill, number), "ada", "the world changed")


def candidate(mill: ModelContext, number: int) -> Candidate:
    return require_candidate(mill, at(mill, number))


def log_of(mill: ModelContext) -> MemoryLog:
    assert isinstance(mill.event_log, MemoryLog)
    return mill.event_log


def entries(mill: ModelContext) -> list[Entry]:
    return [standing.entry for standing in mill.chain().entries]


# Another learning spec.


def test_a_changed_spec_plans_and_writes_nothing_until_it_is_adopted(mill: ModelContext) -> None:
    mill = changed(mill, fields=COUPON)
    before = files(mill)
    told = rf"`fields.coupon`, `fields.visits` differ.*adopt m --from {at(mill, DONE)} --why"
    for _ in range(2):
        with pytest.raises(LineageChanged, match=told):
            extract(mill, at(mill, DONE))
    for decide in (lambda: close(mill, at(mill, DONE), "ada"), lambda: turn(mill, DONE - 1)):
        with pytest.raises(LineageChanged):
            decide()
    assert files(mill) == before
    assert right(mill).recomputed == DONE  # what stands was made by the spec of its own line


def test_a_new_line_begins_with_a_retraining_that_names_the_old_candidate(mill: ModelContext) -> None:
    old, head = candidate(mill, DONE - 1), mill.chain().head
    assert head is not None
    mill = changed(mill, fields=COUPON)
    done = go_on(mill)
    assert (done.changed_keys, done.topic_changed, done.epoch) == (("fields.coupon", "fields.visits"), False, 0)
    entry = entries(mill)[-1]
    assert (entry.kind, entry.digest, entry.seq) == ("adopt", head.entry.digest, done.seq)
    assert (entry.as_of, entry.actor) == (at(mill, DONE - 1).key, "ada")
    assert not entry.is_manual
    for number in (DONE, DONE + 1):
        turn(mill, number)
    first, second = candidate(mill, DONE), candidate(mill, DONE + 1)
    assert (first.kind, first.parent, first.lineage) == ("retrain", old.digest, done.lineage)
    assert (second.kind, second.parent, second.lineage) == ("continue", first.digest, done.lineage)
    assert old.lineage != done.lineage
    sample = from_parquet(mill.repository.file(first.sample.snapshot))
    new = set(sample.filter(sample["coupon"].is_not_null())["_timestamp"])
    assert new == {t for t in sample["_timestamp"] if t >= at(mill, DONE).start}
    assert "visits" not in sample.columns
    right(mill)


def test_champion_baseline_and_mode_stay_and_the_pool_is_empty(mill: ModelContext) -> None:
    before = mill.repository.report(at(mill, DONE - 1).key)
    assert before is not None
    assert before.state.pool
    mill = changed(mill, learner=SEED)
    go_on(mill)
    turn(mill, DONE)
    report = mill.repository.report(at(mill, DONE).key)
    assert report is not None
    was, judged = before.state, report.opening_state
    assert (judged.champion, judged.baseline, judged.mode) == (was.champion, was.baseline, was.mode)
    assert judged.pool_size == 0
    assert report.previous_state.pool_size == len(was.pool)


def test_a_field_of_another_type_is_null_to_the_models_of_before(mill: ModelContext) -> None:
    for number in (5, 6, 7):
        flow(mill, DONE + number, DONE + number, visits=lambda at: f"v{at % 3}")
    for number in range(DONE, DONE + 5):
        turn(mill, number)
    mill = changed(mill, fields={**SPEC["fields"], "visits": "category?"})
    go_on(mill, DONE + 5)
    turn(mill, DONE + 5)
    turn(mill, DONE + 6)
    sample = from_parquet(mill.repository.file(candidate(mill, DONE + 5).sample.snapshot))
    assert set(sample["visits"]) == {None, "v0", "v1", "v2"}
    right(mill)


def test_a_window_without_rows_leaves_the_retraining_to_the_next(mill: ModelContext) -> None:
    mill = changed(mill, fields=COUPON)
    go_on(mill)
    skip(mill, at(mill, DONE), "ada", "not this one")
    for number in (DONE, DONE + 1):
        turn(mill, number)
    kinds = [candidate(mill, number).kind for number in (DONE, DONE + 1)]
    assert kinds == ["carry", "retrain"]
    right(mill)


def test_windows_of_before_are_verified_and_made_again_by_their_own_spec(mill: ModelContext) -> None:
    mill = changed(mill, fields=COUPON)
    go_on(mill)
    turn(mill, DONE)
    before = files(mill)
    initial(mill)
    for number in range(DONE + 1):
        turn(mill, number)
    assert files(mill) == before
    store, old = mill.repository.store, candidate(mill, 1)
    manifest = mill.repository.manifest(at(mill, 1).key)
    assert manifest is not None
    assert manifest.rows_file is not None
    for name in (manifest.rows_file.name, f"models/{old.digest}.bundle"):
        store.replace(f"m/{name}", b"damaged")
    fresh = changed(mill, fields=COUPON)
    turn(fresh, 1)
    assert files(fresh) == before


def test_adopting_again_is_a_no_op_and_another_change_makes_another_line(mill: ModelContext) -> None:
    one = changed(mill, learner=SEED)
    done = go_on(one)
    before = files(one)
    assert go_on(one).number == go_on(one).number == done.number == 1
    assert files(one) == before
    two = changed(mill, fields=COUPON)
    with pytest.raises(LineageChanged):
        extract(two, at(two, DONE))
    assert go_on(two).number == 2  # nothing of window 4 was made by the other
    turn(two, DONE)
    assert candidate(two, DONE).parent == candidate(two, DONE - 1).digest
    assert go_on(two).number == 2
    assert [entry.kind for entry in entries(two)].count("adopt") == 2
    right(two)
    back = changed(mill)
    go_on(back, DONE + 1)
    turn(back, DONE + 1)
    assert candidate(back, DONE + 1).kind == "retrain"
    right(back)


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "nothing changed": ({"gate": {"min_rows": 60}}, DONE, "nothing to adopt"),
    "another label": ({"label": "paid"}, DONE, "`label` differ.*a new name"),
    "another objective": ({"objective": "regression"}, DONE, "`objective` differ.*a new name"),
    "planned already": ({"learner": SEED}, DONE - 1, "planned already.*--from {first} --why"),
    "too late": ({"learner": SEED}, DONE + 1, "not planned; .*--from {first} --why"),
}


@pytest.mark.parametrize(("changes", "number", "told"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_adopted_is_refused_and_nothing_is_written(
    mill: ModelContext, changes: dict[str, Any], number: int, told: str
) -> None:
    mill = changed(mill, **changes)
    before, known = files(mill), entries(mill)
    with pytest.raises(OperationNotAllowed, match=told.format(first=at(mill, DONE))):
        go_on(mill, number)
    assert (files(mill), entries(mill)) == (before, known)


def test_windows_that_are_planned_must_be_done_first(mill: ModelContext) -> None:
    plan_window(mill, at(mill, DONE + 1))
    other = changed(mill, learner=SEED)
    left = f"Windows {at(mill, DONE)} to {at(mill, DONE + 1)} .*tidemill backfill m"
    with pytest.raises(OperationNotAllowed, match=left):
        go_on(other, DONE + 2)
    turn(mill, DONE)
    for step in (extract, update, evaluate):
        step(mill, at(mill, DONE + 1))
    if mill.repository.report(at(mill, DONE + 1).key).verdict == "promote":  # type: ignore[union-attr]
        with pytest.raises(OperationNotAllowed, match=f"Windows {at(mill, DONE + 1)} to"):
            go_on(other, DONE + 2)
    turn(mill, DONE + 1)
    go_on(other, DONE + 2)
    turn(other, DONE + 2)
    right(other)


def test_without_an_initial_model_there_is_nothing_to_go_on() -> None:
    made = flowing()
    flow(made, -2, 2)
    with pytest.raises(PredecessorMissing, match="no initial model"):
        go_on(made, 0)


def test_a_spec_may_be_adopted_before_the_first_window_is_planned() -> None:
    made = flowing()
    flow(made, -2, 2, coupon=coupon)
    first = initial(made)
    made = changed(made, fields=COUPON)
    go_on(made, 0)
    run(made, 0, 1)
    assert (candidate(made, 0).kind, candidate(made, 0).parent) == ("retrain", first.digest)
    right(made)


# Another topic.


@pytest.mark.parametrize("name", [TOPIC, "other"], ids=["recreated", "renamed"])
@pytest.mark.parametrize("changes", [{}, {"fields": COUPON}], ids=["alone", "with a spec"])
def test_on_another_topic_the_next_window_starts_as_the_first_did(
    mill: ModelContext, name: str, changes: dict[str, Any]
) -> None:
    line = lineage_id_for(mill, at(mill, DONE - 1))
    log_of(mill).create_topic(name, 3)
    flow(mill, DONE - 2, DONE + 2, name, 3, coupon=coupon)
    mill = changed(mill, topic=name, **changes)
    before = files(mill)
    missing = TopicRecreated if not changes else LineageChanged
    with pytest.raises(missing, match=f"tidemill adopt m --from {at(mill, DONE)} --why"):
        extract(mill, at(mill, DONE))
    with pytest.raises(TopicRecreated):
        compute_backlog(mill)
    assert files(mill) == before
    done = go_on(mill)
    assert (done.topic_changed, done.epoch, done.topic) == (True, 1, name)
    assert (done.lineage == line) == (not changes)
    seen = compute_backlog(mill)
    assert (seen.first, seen.closed) == (at(mill, DONE), at(mill, DONE + 1))
    for number in (DONE, DONE + 1):
        turn(mill, number)
    planned = plan_window(mill, at(mill, DONE))
    assert {r.partition: r.start for r in planned.ranges} == {0: 108, 1: 106, 2: 106}
    assert (planned.epoch, planned.topic, planned.adoption) == (1, name, 1)
    manifest = mill.repository.manifest(at(mill, DONE).key)
    assert manifest is not None
    assert (manifest.epoch, manifest.rows) == (1, 160)
    found = right(mill)
    assert found.recomputed == DONE + 2
    assert (len(found.taken_as_archived) > 0) == (name == TOPIC)


def test_rows_of_two_topics_are_told_apart_by_their_epoch(mill: ModelContext) -> None:
    log_of(mill).create_topic(TOPIC, 2)
    flow(mill, DONE - 4, DONE + 3)
    go_on(mill)
    for number in (DONE, DONE + 1):  # window 5 retrains
        turn(mill, number)
    made = candidate(mill, DONE + 1)
    assert made.kind == "retrain"
    sample = from_parquet(mill.repository.file(made.sample.snapshot))
    assert set(sample["_epoch"]) == {0, 1}
    places = ["_partition", "_offset"]
    assert sample.select(places).n_unique() < sample.height  # both topics have these offsets
    assert sample.select("_epoch", *places).n_unique() == sample.height
    right(mill)


def test_a_topic_that_lost_planned_records_is_gone_on_with_in_another_epoch(mill: ModelContext) -> None:
    """Row 9."""
    end = plan_window(mill, at(mill, DONE - 1)).end_offsets
    for partition in end:
        log_of(mill).truncate(TOPIC, partition, end[partition] - 30)
    with pytest.raises(LogTruncated, match=f"tidemill adopt m --from {at(mill, DONE)} --why"):
        extract(mill, at(mill, DONE))
    done = go_on(mill)
    assert (done.topic_changed, done.epoch) == (True, 1)
    with pytest.raises(WindowOpen):
        extract(mill, at(mill, DONE))
    flow(mill, DONE, DONE + 1)
    turn(mill, DONE)
    assert plan_window(mill, at(mill, DONE)).offset_ranges == {p: (e - 30, e + 50) for p, e in end.items()}
    right(mill)


def test_a_topic_recreated_again_before_anything_was_planned_on_it_is_adopted_again(
    mill: ModelContext,
) -> None:
    log_of(mill).create_topic(TOPIC, 2)
    go_on(mill)
    log_of(mill).create_topic(TOPIC, 2)
    flow(mill, DONE - 1, DONE + 1)
    with pytest.raises(TopicRecreated):
        extract(mill, at(mill, DONE))
    assert (go_on(mill).epoch, go_on(mill).number) == (2, 2)
    turn(mill, DONE)
    assert plan_window(mill, at(mill, DONE)).epoch == 2
    right(mill)


def test_a_planned_window_whose_topic_is_gone_is_skipped_and_the_next_adopted(mill: ModelContext) -> None:
    plan_window(mill, at(mill, DONE))
    log_of(mill).create_topic(TOPIC, 2)
    flow(mill, DONE, DONE + 3)
    with pytest.raises(TopicRecreated, match=f"--from {at(mill, DONE + 1)}"):
        extract(mill, at(mill, DONE))
    with pytest.raises(OperationNotAllowed, match="tidemill skip"):
        go_on(mill, DONE + 1)
    skip(mill, at(mill, DONE), "ada", "its topic is gone")
    turn(mill, DONE)
    go_on(mill, DONE + 1)
    turn(mill, DONE + 1)
    right(mill)


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
def shop(modules: Path) -> ModelContext:
    """A model with a feature function, and four windows done."""
    made = changed(flowing(), features="shop_one:features")
    flow(made, -2, DONE + 4)
    run(made, 0, DONE - 1)
    return made


def test_each_model_is_scored_through_its_own_function(shop: ModelContext) -> None:
    mill = changed(shop, features="shop_two:features")
    done = go_on(mill)
    assert done.changed_keys == ("features", "features_source")
    for number in (DONE, DONE + 1):
        turn(mill, number)
    champion, new = entries(mill)[0].digest, candidate(mill, DONE).digest
    told = [mill.load(digest).header.features for digest in (champion, new)]
    assert [reference for reference, _ in filter(None, told)] == [
        "shop_one:features",
        "shop_two:features",
    ]
    right(mill)
    plain = changed(mill)
    go_on(plain, DONE + 2)
    turn(plain, DONE + 2)
    assert plain.load(candidate(plain, DONE + 2).digest).header.features is None
    right(plain)


def test_a_function_edited_in_its_own_module_is_refused_for_its_models_are_scored_yet(
    shop: ModelContext, modules: Path
) -> None:
    file = modules / "shop_one.py"
    was = file.read_text()
    file.write_text(_FUNCTION.format(factor=5))
    edited = changed(shop, features="shop_one:features")
    before, known = files(edited), entries(edited)
    with pytest.raises(LineageChanged, match="`features_source` differ"):
        extract(edited, at(edited, DONE))
    with pytest.raises(FeatureSkew, match=r"shop_one.*a module of another name"):
        go_on(edited)
    assert (files(edited), entries(edited)) == (before, known)
    file.write_text(was)
    moved = changed(shop, features="shop_two:features")
    go_on(moved)
    turn(moved, DONE)
    file.unlink()
    gone = changed(moved, features="shop_two:features")
    with pytest.raises(FeatureSkew, match="shop_one"):
        turn(gone, DONE + 1)


# Others at work, and what else looks at the past.


@dataclass
class Between:
    """A ledger that lets something happen right before the first append is made."""

    real: MemoryLedger
    happens: Any

    def identity(self) -> tuple[str, str]:
        return self.real.identity()

    def read(self) -> Any:
        return self.real.read()

    def append(self, model: str, value: bytes) -> int:
        happens, self.happens = self.happens, lambda: None
        happens()
        return self.real.append(model, value)


def disturbed(mill: ModelContext, happens: Any) -> ModelContext:
    assert isinstance(mill.ledger, MemoryLedger)
    return replace(mill, ledger=Between(mill.ledger, happens))


def test_of_two_who_adopt_the_same_one_decides_and_both_are_told_so(mill: ModelContext) -> None:
    other = changed(mill, learner=SEED)
    mine = disturbed(other, lambda: adopt(other, at(other, DONE), "bob", "me first"))
    done = go_on(mine)
    assert (done.number, done.actor, done.reason) == (1, "bob", "me first")
    assert [entry.kind for entry in entries(other)].count("adopt") == 1
    turn(other, DONE)
    right(other)


def test_of_two_who_adopt_differently_one_is_refused(mill: ModelContext) -> None:
    theirs, mine = changed(mill, fields=COUPON), changed(mill, learner=SEED)
    with pytest.raises(OperationNotAllowed, match="Somebody else adopted"):
        go_on(disturbed(mine, lambda: go_on(theirs)))
    turn(theirs, DONE)
    assert candidate(theirs, DONE).kind == "retrain"
    right(theirs)


def test_an_adoption_that_comes_after_the_plan_of_its_window_never_counts(mill: ModelContext) -> None:
    late = changed(mill, learner=SEED)
    with pytest.raises(OperationNotAllowed, match=r"planned .* at the same time"):
        go_on(disturbed(late, lambda: plan_window(mill, at(mill, DONE))))
    turn(mill, DONE)
    assert lineage_id_for(mill, at(mill, DONE)) == lineage_id_for(mill, at(mill, 0))
    go_on(late, DONE + 1)
    turn(late, DONE + 1)
    assert plan_window(late, at(late, DONE + 1)).adoption == 2
    right(late)


def test_a_person_s_rollback_before_it_is_taken_by_the_first_report_after_it(mill: ModelContext) -> None:
    back = rollback(mill, entries(mill)[0].digest, "ada", "I liked that one")
    mill = changed(mill, learner=SEED)
    go_on(mill)
    turn(mill, DONE)
    report = mill.repository.report(at(mill, DONE).key)
    assert report is not None
    assert [taken.seq for taken in report.entries] == [back.seq]
    assert turn(mill, DONE - 1).status == "superseded"
    right(mill)


def test_pruning_goes_over_it_and_what_is_kept_is_made_again(mill: ModelContext) -> None:
    mill = changed(mill, fields=COUPON, keep_windows=2)
    go_on(mill)
    for number in range(DONE, DONE + 4):
        turn(mill, number)
        prune(mill, at(mill, number))
    mark = mill.repository.prune_marker()
    assert mark is not None
    assert mark.window == at(mill, DONE).key
    found = right(mill)
    assert (found.pruned, found.recomputed) == (mark.window, 3)


def test_the_same_gate_again_over_both_lines_makes_the_same_reports(mill: ModelContext) -> None:
    mill = changed(mill, fields=COUPON)
    go_on(mill)
    turn(mill, DONE)
    scratch = ModelRepository(OverlayStore(mill.repository.store, "m/reports/"), "m")
    told = backtest(mill, mill.spec, scratch, windows_to_backtest(mill, None, None), lambda _: None)
    assert (told.verdict_changes, told.committed) == ((), told.backtested)
    assert told.committed.windows == DONE + 1


def test_a_stream_that_ended_on_the_new_topic_is_closed(mill: ModelContext) -> None:
    log_of(mill).create_topic(TOPIC, 2)
    flow(mill, DONE - 1, DONE)
    go_on(mill)
    with pytest.raises(WindowOpen, match=f"Window {at(mill, DONE)} of"):
        extract(mill, at(mill, DONE))
    closed = close(mill, at(mill, DONE), "ada")
    assert closed.offset_ranges == {0: (80, 160), 1: (80, 160)}
    turn(mill, DONE)
    right(mill)


def test_another_gate_is_no_other_line_and_reports_are_made_again_by_their_own() -> None:
    """Also where a field goes that the gate of before looked at."""
    made = changed(flowing(), gate={"min_rows": 50, "slices": ["country"]})
    flow(made, -2, 4)
    run(made, 0, 0)
    other = changed(made, gate={"min_rows": 60, "policy": "manual"}, min_rows=3, keep_windows=9)
    turn(other, 1)
    assert lineage_id_for(other, at(other, 1)) == lineage_id_for(made, at(made, 0))
    right(other)
    without = changed(other, fields={"price": "number", "visits": "number?"})
    go_on(without, 2)
    turn(without, 2)
    right(without)


def test_a_damaged_or_lost_adoption_is_named(mill: ModelContext) -> None:
    mill = changed(mill, learner=SEED)
    go_on(mill)
    turn(mill, DONE)
    store, name = mill.repository.store, "m/adoptions/1.json"
    whole = store.get(name) or b""
    store.replace(name, whole.replace(b"ada", b"bob"))
    for step in (update, evaluate):
        with pytest.raises(DigestMismatch, match=name):
            step(mill, at(mill, DONE + 1))
    assert any(name in finding for finding in verify(mill).findings)
    store.delete(name)
    with pytest.raises(DigestMismatch, match=name):
        update(mill, at(mill, DONE))
    assert any("goes by adoption 1, which is missing" in told for told in verify(mill).findings)
    store.put(name, whole)
    right(mill)
