"""Killed at any place, twice in a row, also while recovering: run again, as if undisturbed."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import oracle
import tidemill
from model_harness import SPEC, ModelHarness, run_windows
from store_snapshot import define_two_windows, take_snapshot
from tidemill import bootstrap, failpoints
from tidemill.cycle.verify import verify
from worker_processes import (
    KILLED,
    exit_code,
    failpoints_in,
    failpoints_reached,
    run_all,
    run_killed_at,
    run_to_end,
    wait_for_cpu_time,
    wait_for_failpoint,
    window_worker,
)

_LAST = 1


def failpoints_undisturbed(harness: ModelHarness) -> list[str]:
    """Take the bench through its windows; the places that were reached, in order."""
    reached: list[str] = []
    failpoints.on_reached(reached.append)
    with harness.open_model() as ctx:
        run_all(ctx, _LAST)
    failpoints.on_reached(None)
    return reached


_ELSEWHERE = ("mlflow.py", "restore.py", "prune.py", "adopt.py", "produce.py")
_ADOPTION = {"adoption.before", "adoption.after"}
"""Files, and a commit, whose places lie on another way; their own tests kill there."""


def failpoints_in_source() -> set[str]:
    """Every place that a window's way through the four steps can fail at."""
    files = Path(tidemill.__path__[0]).rglob("*.py")
    return failpoints_in([file for file in files if file.name not in _ELSEWHERE]) - _ADOPTION


def kill_repeatedly(harness: ModelHarness, failpoint: str) -> int:
    """Run again and again, killed each time at this place: where that was no step forward, at the
    next time it is reached. Gives the number of kills until there is nothing left to do.

    So each commit is finished by a process that is killed in the next. All but two places, which
    are the most frequent, are killed twice in a row at the same point.
    """
    kills, hit, stored_count = 0, 1, 0
    next_ = 2 if failpoint in ("put.written", "put.synced") else 1
    while kills < 200:
        code = exit_code(harness, _LAST, f"{failpoint}:kill:{hit}")
        if code == 0:
            return kills
        assert code == KILLED
        before, stored_count = (
            stored_count,
            len(list(bootstrap.make_store(harness.settings).names(""))),
        )
        kills, hit = kills + 1, hit + 1 if stored_count == before else next_
    raise AssertionError(f"no end of kills at {failpoint}")


def test_a_run_passes_every_failpoint_there_is(harness: ModelHarness) -> None:
    """Row 1: so that the kills below leave no place out, and none that is new."""
    define_two_windows(harness)
    assert set(failpoints_undisturbed(harness)) == failpoints_in_source()


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_killed_at_every_place_and_again_while_recovering_all_ends_as_if_undisturbed(
    harness: ModelHarness, kafka_folder: Path
) -> None:
    """Row 1, and row 24 as far as the ledger and its copies go."""
    define_two_windows(harness)
    reached = failpoints_undisturbed(harness)
    expected = take_snapshot(harness)
    assert len(expected.entries) == 3
    oracle.assert_consistent(harness)
    oracle.assert_matches_log(harness, kafka_folder)

    def kills_at(place: str) -> int:
        twin = harness.twin(place)
        kills = kill_repeatedly(twin, place)
        # A window's two models are committed at the same time: one kill may end both.
        pairs = _LAST + 1 if place.startswith(("put.", "bundle.")) else 0
        assert kills >= reached.count(place) - pairs, place
        assert take_snapshot(twin) == expected, place
        with twin.open_model() as mill:
            assert verify(mill).findings == []
        assert not [*(twin.settings.store / harness.model / ".tmp").glob("*")]
        return kills

    with ThreadPoolExecutor(2) as pool:
        kills = sum(pool.map(kills_at, sorted(set(reached))))
    print(f"{kills} kills at {len(reached)} points of {len(set(reached))} places")


def test_killed_between_the_entry_and_its_copy_the_ledger_is_copied_and_not_written_again(
    harness: ModelHarness,
) -> None:
    """Row 24, without a server."""
    define_two_windows(harness)
    run_killed_at(harness, _LAST, "append.after")
    with harness.open_model() as mill:
        assert [s.entry.seq for s in mill.chain().entries] == [0]
        assert mill.repository.entry(0) is None
        told = "Ledger entry 0 stands in the topic, but was never copied."
        assert told in verify(mill).findings
        run_windows(mill, 0, _LAST)
        assert mill.repository.entry(0) is not None
        assert [s.entry.seq for s in mill.chain().entries] == [0, 1, 2]
        assert mill.chain().invalid_records == ()
        assert verify(mill).findings == []


@pytest.mark.faults
def test_killed_while_it_trains_a_run_makes_the_same_candidate(harness: ModelHarness) -> None:
    """Row 23: killed from outside, in the midst of LightGBM's work."""
    slow = {"trees": 6000, "rate": 0.01, "leaves": 31, "min_rows": 5}
    harness.define(learner=SPEC["learner"] | {"continue": slow, "max_trees": 20_000})
    harness.produce_windows(-2, 1, rows=400)
    twin = harness.twin("killed")
    with harness.open_model() as mill:
        run_all(mill, 0)
    for times in (2, 3):  # the first was the initial model
        with window_worker(twin, 0) as process:
            wait_for_failpoint(twin, "fit.before", times)
            wait_for_cpu_time(process, 0.2)  # of seconds
            process.kill()
            process.join()
        assert process.exitcode == KILLED
        assert failpoints_reached(twin)[-1] == "fit.before"
    run_to_end(twin, 0)
    assert take_snapshot(twin) == take_snapshot(harness)
    oracle.assert_consistent(twin)
