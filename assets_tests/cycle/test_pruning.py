"""Pruning by `retention_windows`: what goes, what stays, and that nothing else changes."""

import shutil
from functools import partial
from pathlib import Path

import pytest

import oracle
from model_harness import ModelHarness, run_window, run_windows, window
from store_snapshot import file_stamps, take_snapshot
from tidemill import failpoints
from tidemill.adapters.files import FileStore
from tidemill.core.errors import ModelPruned
from tidemill.core.records import Candidate, PruneMarker
from tidemill.cycle import prune as pruning
from tidemill.cycle.context import ModelContext
from tidemill.cycle.manual_actions import approve, rollback
from tidemill.cycle.prune import prune
from tidemill.cycle.update import require_candidate
from tidemill.cycle.verify import verify
from worker_processes import KILLED, exit_code_of, failpoints_in

LAST = 8
KEEP = 3


@pytest.fixture
def trained_harness(harness: ModelHarness) -> ModelHarness:
    """Nine windows, of which 2, 5 and 8 are retrainings; nothing is pruned yet."""
    harness.define(retention_windows=KEEP, gate={"min_rows": 50, "policy": "manual"})
    harness.produce_windows(-2, LAST + 2, rows=160)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, LAST)
        kinds = [candidate_at(ctx, number).kind for number in range(LAST + 1)]
    assert kinds == [*("continue", "continue", "retrain") * 3]
    return harness


def candidate_at(ctx: ModelContext, number: int) -> Candidate:
    return require_candidate(ctx, window(ctx.spec, number))


def prune_last(ctx: ModelContext) -> PruneMarker | None:
    """Prune as after the deployment of the last window."""
    return prune(ctx, window(ctx.spec, LAST))


def stored_names(harness: ModelHarness) -> set[str]:
    return set(FileStore(harness.settings.store).names(f"{harness.model}/"))


def test_what_no_kept_window_needs_goes_and_all_records_stay(trained_harness: ModelHarness) -> None:
    """Windows 6 to 8 are kept. They start from the retraining of window 5, whose batch goes."""
    before = stored_names(trained_harness)
    with trained_harness.open_model() as mill:
        mark = prune_last(mill)
        assert mark is not None
        assert mark.window == trained_harness.window(5).key
        assert verify(mill).findings == []
        assert verify(mill).pruned == mark.window
        start, made = candidate_at(mill, 5), mill.repository.initial_model()
        fallen = [candidate_at(mill, number) for number in range(5)]
        for digest in (start.digest, candidate_at(mill, 6).digest, made.digest if made else ""):
            assert mill.repository.bundle(digest)
        for gone in fallen:
            with pytest.raises(ModelPruned):
                mill.repository.bundle(gone.digest)
        assert mill.repository.file(start.sample.snapshot)
    gone = before - stored_names(trained_harness)
    assert {name.split("/")[1] for name in gone} == {"batches", "models", "samples"}
    assert not any(name.endswith(".json") for name in gone)
    assert len(gone) == 6 + 5 + 6 + 1  # batches, models, holdout fits, window 2's snapshot
    assert stored_names(trained_harness) - before == {f"{trained_harness.model}/pruned.json"}


@pytest.mark.faults
def test_the_stream_goes_on_and_what_is_kept_is_made_again_digest_for_digest(
    trained_harness: ModelHarness,
) -> None:
    twin = trained_harness.twin("unpruned")
    with twin.open_model() as mill:
        run_windows(mill, 0, LAST + 1)
    with trained_harness.open_model() as mill:
        prune_last(mill)
        run_window(mill, LAST + 1)
        assert prune(mill, trained_harness.window(LAST + 1)) == mill.repository.prune_marker()
    found = oracle.assert_consistent(trained_harness)
    assert found.recomputed == 4  # windows 6 to 9
    mine, others = take_snapshot(trained_harness), take_snapshot(twin)
    mine.files.pop(f"{trained_harness.model}/pruned.json")
    assert mine.files.items() <= others.files.items()
    assert mine.entries == others.entries


def test_an_old_window_run_again_is_left_as_it_is(trained_harness: ModelHarness) -> None:
    with trained_harness.open_model() as mill:
        prune_last(mill)
        before = file_stamps(trained_harness)
        for number in (0, 4, 5):
            assert run_window(mill, number).status in ("unchanged", "superseded")
            prune(mill, trained_harness.window(number))
    assert file_stamps(trained_harness) == before


@pytest.mark.faults
def test_what_serves_or_awaits_approval_or_was_deployed_is_never_pruned(
    trained_harness: ModelHarness,
) -> None:
    with trained_harness.open_model(by="ann") as mill:
        deployed, waiting = candidate_at(mill, 1).digest, candidate_at(mill, LAST).digest
        approve(mill, deployed, "ann", "a good one")
        prune_last(mill)
        assert mill.repository.bundle(deployed)
        assert mill.repository.bundle(waiting)
        assert verify(mill).findings == []
        with pytest.raises(ModelPruned, match=trained_harness.window(2).key):
            rollback(mill, candidate_at(mill, 2).digest, "ann", "back")
        with pytest.raises(ModelPruned):
            approve(mill, candidate_at(mill, 2).digest, "ann", "this one")
    oracle.assert_consistent(trained_harness)


@pytest.mark.faults
def test_a_model_spared_for_the_gate_goes_when_the_gate_lets_go(
    trained_harness: ModelHarness,
) -> None:
    """Held is what only the gate needed; the windows that made it are not looked at again."""
    with trained_harness.open_model() as mill:
        first = mill.repository.report(trained_harness.window(LAST).key)
        assert first is not None
        prune_last(mill)
        mark = mill.repository.prune_marker()
        assert mark is not None
        start = f"models/{candidate_at(mill, 5).digest}.bundle"
        assert start in mark.retained
        for number in range(LAST + 1, LAST + 4):
            trained_harness.produce_windows(number + 2, number + 2, rows=160)
            run_window(mill, number)
            prune(mill, trained_harness.window(number))
        after = mill.repository.prune_marker()
        assert after is not None
        assert after.window == trained_harness.window(8).key
        assert start in after.deleted
        assert mill.repository.hash(start) is None
    oracle.assert_consistent(trained_harness)


@pytest.mark.faults
def test_killed_at_any_place_of_pruning_the_next_one_finishes_it(
    trained_harness: ModelHarness,
) -> None:
    twin = trained_harness.twin("killed")
    with twin.open_model() as mill:
        run_windows(mill, 0, LAST)
    reached: list[str] = []
    failpoints.on_reached(reached.append)
    with trained_harness.open_model() as mill:
        prune_last(mill)
    failpoints.on_reached(None)
    assert {place for place in reached if "prune." in place} == failpoints_in(
        [Path(pruning.__file__)]
    )
    assert {"put.written", "put.synced", "put.replaced"} < set(reached)  # the mark
    again, deletes = partial(prune, window=twin.window(LAST)), reached.count("prune.deleted")
    hits = [(place, 1) for place in sorted(set(reached))]
    before = twin.home / "before"
    shutil.copytree(twin.settings.store, before)
    for place, hit in [*hits, ("prune.deleted", deletes // 2), ("prune.deleted", deletes)]:
        shutil.rmtree(twin.settings.store)
        shutil.copytree(before, twin.settings.store)
        assert exit_code_of(twin, again, f"{place}:kill:{hit}") == KILLED
        with twin.open_model() as mill:
            assert verify(mill).findings == [], place
        assert exit_code_of(twin, again) == 0
        assert take_snapshot(twin) == take_snapshot(trained_harness), place
    oracle.assert_consistent(twin)
