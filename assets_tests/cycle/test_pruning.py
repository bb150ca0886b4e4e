"""Pruning by `keep_windows`: what goes, what stays, and that nothing else changes."""

import shutil
from functools import partial
from pathlib import Path

import pytest

import oracle
from bench import Bench, run, turn, window
from children import KILLED, outcome_of, places_in
from kept import kept, stamps
from tidemill import failpoints
from tidemill.adapters.files import FileStore
from tidemill.core.errors import ModelPruned
from tidemill.core.records import Candidate, PruneMarker
from tidemill.cycle import prune as pruning
from tidemill.cycle.intervene import approve, rollback
from tidemill.cycle.mill import ModelContext
from tidemill.cycle.prune import prune
from tidemill.cycle.update import require_candidate
from tidemill.cycle.verify import verify

LAST = 8
KEEP = 3


@pytest.fixture
def turned(bench: Bench) -> Bench:
    """Nine windows, of which 2, 5 and 8 are retrainings; nothing is pruned yet."""
    bench.define(keep_windows=KEEP, gate={"min_rows": 50, "policy": "manual"})
    bench.feed(-2, LAST + 2, rows=160)
    with bench.mill() as mill:
        run(mill, 0, LAST)
        kinds = [candidate(mill, number).kind for number in range(LAST + 1)]
    assert kinds == [*("continue", "continue", "retrain") * 3]
    return bench


def candidate(mill: ModelContext, number: int) -> Candidate:
    return require_candidate(mill, window(mill.spec, number))


def prune_last(mill: ModelContext) -> PruneMarker | None:
    """Prune as after the deployment of the last window."""
    return prune(mill, window(mill.spec, LAST))


def names(bench: Bench) -> set[str]:
    return set(FileStore(bench.settings.store).names(f"{bench.model}/"))


def test_what_no_kept_window_needs_goes_and_all_records_stay(turned: Bench) -> None:
    """Windows 6 to 8 are kept. They start from the retraining of window 5, whose batch goes."""
    before = names(turned)
    with turned.mill() as mill:
        mark = prune_last(mill)
        assert mark is not None
        assert mark.window == turned.window(5).key
        assert verify(mill).findings == []
        assert verify(mill).pruned == mark.window
        start, made = candidate(mill, 5), mill.repository.initial_model()
        fallen = [candidate(mill, number) for number in range(5)]
        for digest in (start.digest, candidate(mill, 6).digest, made.digest if made else ""):
            assert mill.repository.bundle(digest)
        for gone in fallen:
            with pytest.raises(ModelPruned):
                mill.repository.bundle(gone.digest)
        assert mill.repository.file(start.sample.snapshot)
    gone = before - names(turned)
    assert {name.split("/")[1] for name in gone} == {"batches", "models", "samples"}
    assert not any(name.endswith(".json") for name in gone)
    assert len(gone) == 6 + 5 + 6 + 1  # batches, models, holdout fits, window 2's snapshot
    assert names(turned) - before == {f"{turned.model}/pruned.json"}


@pytest.mark.faults
def test_the_stream_goes_on_and_what_is_kept_is_made_again_digest_for_digest(
    turned: Bench,
) -> None:
    twin = turned.twin("unpruned")
    with twin.mill() as mill:
        run(mill, 0, LAST + 1)
    with turned.mill() as mill:
        prune_last(mill)
        turn(mill, LAST + 1)
        assert prune(mill, turned.window(LAST + 1)) == mill.repository.prune_marker()
    found = oracle.check(turned)
    assert found.recomputed == 4  # windows 6 to 9
    mine, others = kept(turned), kept(twin)
    mine.files.pop(f"{turned.model}/pruned.json")
    assert mine.files.items() <= others.files.items()
    assert mine.entries == others.entries


def test_an_old_window_run_again_is_left_as_it_is(turned: Bench) -> None:
    with turned.mill() as mill:
        prune_last(mill)
        before = stamps(turned)
        for number in (0, 4, 5):
            assert turn(mill, number).status in ("unchanged", "superseded")
            prune(mill, turned.window(number))
    assert stamps(turned) == before


@pytest.mark.faults
def test_what_serves_or_awaits_approval_or_was_deployed_is_never_pruned(turned: Bench) -> None:
    with turned.mill(by="ann") as mill:
        deployed, waiting = candidate(mill, 1).digest, candidate(mill, LAST).digest
        approve(mill, deployed, "ann", "a good one")
        prune_last(mill)
        assert mill.repository.bundle(deployed)
        assert mill.repository.bundle(waiting)
        assert verify(mill).findings == []
        with pytest.raises(ModelPruned, match=turned.window(2).key):
            rollback(mill, candidate(mill, 2).digest, "ann", "back")
        with pytest.raises(ModelPruned):
            approve(mill, candidate(mill, 2).digest, "ann", "this one")
    oracle.check(turned)


@pytest.mark.faults
def test_a_model_spared_for_the_gate_goes_when_the_gate_lets_go(turned: Bench) -> None:
    """Held is what only the gate needed; the windows that made it are not looked at again."""
    with turned.mill() as mill:
        first = mill.repository.report(turned.window(LAST).key)
        assert first is not None
        prune_last(mill)
        mark = mill.repository.prune_marker()
        assert mark is not None
        start = f"models/{candidate(mill, 5).digest}.bundle"
        assert start in mark.retained
        for number in range(LAST + 1, LAST + 4):
            turned.feed(number + 2, number + 2, rows=160)
            turn(mill, number)
            prune(mill, turned.window(number))
        after = mill.repository.prune_marker()
        assert after is not None
        assert after.window == turned.window(8).key
        assert start in after.deleted
        assert mill.repository.hash(start) is None
    oracle.check(turned)


@pytest.mark.faults
def test_killed_at_any_place_of_pruning_the_next_one_finishes_it(turned: Bench) -> None:
    twin = turned.twin("killed")
    with twin.mill() as mill:
        run(mill, 0, LAST)
    reached: list[str] = []
    failpoints.on_reached(reached.append)
    with turned.mill() as mill:
        prune_last(mill)
    failpoints.on_reached(None)
    assert {place for place in reached if "prune." in place} == places_in([Path(pruning.__file__)])
    assert {"put.written", "put.synced", "put.replaced"} < set(reached)  # the mark
    again, deletes = partial(prune, window=twin.window(LAST)), reached.count("prune.deleted")
    hits = [(place, 1) for place in sorted(set(reached))]
    before = twin.home / "before"
    shutil.copytree(twin.settings.store, before)
    for place, hit in [*hits, ("prune.deleted", deletes // 2), ("prune.deleted", deletes)]:
        shutil.rmtree(twin.settings.store)
        shutil.copytree(before, twin.settings.store)
        assert outcome_of(twin, again, f"{place}:kill:{hit}") == KILLED
        with twin.mill() as mill:
            assert verify(mill).findings == [], place
        assert outcome_of(twin, again) == 0
        assert kept(twin) == kept(turned), place
    oracle.check(twin)
