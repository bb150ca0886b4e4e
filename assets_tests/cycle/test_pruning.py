"""Pruning by `retention_windows`: what is deleted, what is kept, and that nothing else changes."""

import shutil
from functools import partial
from pathlib import Path

import pytest

from support.models import oracle
from support.models.harness import ModelHarness, run_window, run_windows, window
from support.models.store_snapshot import file_stamps, take_snapshot
from support.processes.workers import KILLED, exit_code_of, failpoints_in
from tidemill import failpoints
from tidemill.adapters.files import FileStore
from tidemill.core.errors import ModelPruned
from tidemill.core.records import Candidate, PruneMarker
from tidemill.cycle.audit.verify import verify
from tidemill.cycle.context import ModelContext
from tidemill.cycle.operations import prune as pruning
from tidemill.cycle.operations.manual_actions import approve, rollback
from tidemill.cycle.operations.prune import prune

LAST = 8
KEEP = 3


@pytest.fixture
def trained_harness(harness: ModelHarness) -> ModelHarness:
    """Nine windows, of which 2, 5 and 8 are retrainings; nothing has been pruned."""
    harness.define(retention_windows=KEEP, gate={"min_rows": 50, "policy": "manual"})
    harness.produce_windows(-2, LAST + 2, rows=160)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, LAST)
        kinds = [candidate_at(ctx, number).kind for number in range(LAST + 1)]
    assert kinds == [*("continue", "continue", "retrain") * 3]
    return harness


def candidate_at(ctx: ModelContext, number: int) -> Candidate:
    return ctx.records.require_candidate(window(ctx.spec, number))


def prune_last(ctx: ModelContext) -> PruneMarker | None:
    """Prune as after the deployment of the last window."""
    return prune(ctx, window(ctx.spec, LAST))


def stored_names(harness: ModelHarness) -> set[str]:
    return set(FileStore(harness.settings.store).names(f"{harness.model}/"))


def test_files_that_no_kept_window_needs_are_deleted_and_all_records_are_kept(
    trained_harness: ModelHarness,
) -> None:
    """Windows 6 to 8 are kept. They start from the retraining of window 5; its batch is deleted."""
    before = stored_names(trained_harness)
    with trained_harness.open_model() as ctx:
        marker = prune_last(ctx)
        assert marker is not None
        assert marker.window == trained_harness.window(5).key
        assert verify(ctx).findings == []
        assert verify(ctx).pruned == marker.window
        start, initial_model = candidate_at(ctx, 5), ctx.repository.initial_model()
        assert initial_model is not None
        expired = [candidate_at(ctx, number) for number in range(5)]
        for digest in (start.digest, candidate_at(ctx, 6).digest, initial_model.digest):
            assert ctx.repository.bundle(digest)
        for candidate in expired:
            with pytest.raises(ModelPruned):
                ctx.repository.bundle(candidate.digest)
        assert ctx.repository.file(start.sample.snapshot)
    deleted = before - stored_names(trained_harness)
    assert {name.split("/")[1] for name in deleted} == {"batches", "models", "samples"}
    assert not any(name.endswith(".json") for name in deleted)
    assert len(deleted) == 6 + 5 + 6 + 1  # batches, models, holdout fits, window 2's snapshot
    assert stored_names(trained_harness) - before == {f"{trained_harness.model}/pruned.json"}


@pytest.mark.faults
def test_a_pruned_model_continues_and_is_recomputed_with_the_same_digests(
    trained_harness: ModelHarness,
) -> None:
    twin = trained_harness.twin("unpruned")
    with twin.open_model() as ctx:
        run_windows(ctx, 0, LAST + 1)
    with trained_harness.open_model() as ctx:
        prune_last(ctx)
        run_window(ctx, LAST + 1)
        assert prune(ctx, trained_harness.window(LAST + 1)) == ctx.repository.prune_marker()
    verification = oracle.assert_consistent(trained_harness)
    assert verification.recomputed == 4  # windows 6 to 9
    mine, others = take_snapshot(trained_harness), take_snapshot(twin)
    mine.files.pop(f"{trained_harness.model}/pruned.json")
    assert mine.files.items() <= others.files.items()
    assert mine.entries == others.entries


def test_an_old_window_run_again_is_unchanged(trained_harness: ModelHarness) -> None:
    with trained_harness.open_model() as ctx:
        prune_last(ctx)
        before = file_stamps(trained_harness)
        for number in (0, 4, 5):
            assert run_window(ctx, number).status in ("unchanged", "superseded")
            prune(ctx, trained_harness.window(number))
    assert file_stamps(trained_harness) == before


@pytest.mark.faults
def test_deployed_models_and_a_candidate_awaiting_approval_are_never_pruned(
    trained_harness: ModelHarness,
) -> None:
    with trained_harness.open_model(actor="ann") as ctx:
        deployed, pending = candidate_at(ctx, 1).digest, candidate_at(ctx, LAST).digest
        approve(ctx, deployed, "ann", "a good one")
        prune_last(ctx)
        assert ctx.repository.bundle(deployed)
        assert ctx.repository.bundle(pending)
        assert verify(ctx).findings == []
        with pytest.raises(ModelPruned, match=trained_harness.window(2).key):
            rollback(ctx, candidate_at(ctx, 2).digest, "ann", "back")
        with pytest.raises(ModelPruned):
            approve(ctx, candidate_at(ctx, 2).digest, "ann", "this one")
    oracle.assert_consistent(trained_harness)


@pytest.mark.faults
def test_a_model_retained_for_the_gate_is_deleted_once_the_gate_no_longer_needs_it(
    trained_harness: ModelHarness,
) -> None:
    """The marker's `retained` names it, so its window is not visited again."""
    with trained_harness.open_model() as ctx:
        first = ctx.repository.report(trained_harness.window(LAST).key)
        assert first is not None
        prune_last(ctx)
        marker = ctx.repository.prune_marker()
        assert marker is not None
        start = f"models/{candidate_at(ctx, 5).digest}.bundle"
        assert start in marker.retained
        for number in range(LAST + 1, LAST + 4):
            trained_harness.produce_windows(number + 2, number + 2, rows=160)
            run_window(ctx, number)
            prune(ctx, trained_harness.window(number))
        after = ctx.repository.prune_marker()
        assert after is not None
        assert after.window == trained_harness.window(8).key
        assert start in after.deleted
        assert ctx.repository.hash(start) is None
    oracle.assert_consistent(trained_harness)


@pytest.mark.faults
def test_pruning_killed_at_any_failpoint_is_completed_by_the_next(
    trained_harness: ModelHarness,
) -> None:
    twin = trained_harness.twin("killed")
    with twin.open_model() as ctx:
        run_windows(ctx, 0, LAST)
    reached: list[str] = []
    failpoints.on_reached(reached.append)
    with trained_harness.open_model() as ctx:
        prune_last(ctx)
    failpoints.on_reached(None)
    assert {name for name in reached if "prune." in name} == failpoints_in([Path(pruning.__file__)])
    assert {"put.written", "put.synced", "put.replaced"} < set(reached)  # the marker
    prune_twin, deletes = partial(prune, window=twin.window(LAST)), reached.count("prune.deleted")
    hits = [(name, 1) for name in sorted(set(reached))]
    before = twin.home / "before"
    shutil.copytree(twin.settings.store, before)
    for name, hit in [*hits, ("prune.deleted", deletes // 2), ("prune.deleted", deletes)]:
        shutil.rmtree(twin.settings.store)
        shutil.copytree(before, twin.settings.store)
        assert exit_code_of(twin, prune_twin, f"{name}:kill:{hit}") == KILLED
        with twin.open_model() as ctx:
            assert verify(ctx).findings == [], name
        assert exit_code_of(twin, prune_twin) == 0
        assert take_snapshot(twin) == take_snapshot(trained_harness), name
    oracle.assert_consistent(twin)
