"""Runs killed at any failpoint, twice in a row, also while recovering: a rerun completes them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import tidemill
from support.models import oracle
from support.models.harness import SPEC, ModelHarness, run_windows
from support.models.store_snapshot import define_two_windows, take_snapshot
from support.processes.workers import (
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
from tidemill import bootstrap, failpoints
from tidemill.cycle.audit.verify import verify

_LAST = 1


def failpoints_undisturbed(harness: ModelHarness) -> list[str]:
    """Run the windows undisturbed; the failpoints reached, in order."""
    reached: list[str] = []
    failpoints.on_reached(reached.append)
    with harness.open_model() as ctx:
        run_all(ctx, _LAST)
    failpoints.on_reached(None)
    return reached


_OTHER_FILES = ("tracker.py", "restore.py", "prune.py", "adopt.py", "sending.py")
_ADOPTION_FAILPOINTS = {"adoption.before", "adoption.after"}
"""Files and a commit that a run of windows does not reach; other tests kill at their failpoints."""


def failpoints_in_source() -> set[str]:
    """Every failpoint that the four steps of a window can reach."""
    files = Path(tidemill.__path__[0]).rglob("*.py")
    return (
        failpoints_in([file for file in files if file.name not in _OTHER_FILES])
        - _ADOPTION_FAILPOINTS
    )


def kill_repeatedly(harness: ModelHarness, failpoint: str) -> int:
    """Run repeatedly, killed at this failpoint each time, until a run completes; the kills.

    If a run made no progress, the next one is killed one hit later. So each commit is finished by a
    process that is killed in the next commit. At all failpoints but the two most frequent ones the
    runs are killed twice in a row at the same point.
    """
    kills, hit, stored_count = 0, 1, 0
    first_hit = 2 if failpoint in ("put.written", "put.synced") else 1
    while kills < 200:
        code = exit_code(harness, _LAST, f"{failpoint}:kill:{hit}")
        if code == 0:
            return kills
        assert code == KILLED
        before, stored_count = (
            stored_count,
            len(list(bootstrap.make_store(harness.settings).names(""))),
        )
        kills, hit = kills + 1, hit + 1 if stored_count == before else first_hit
    raise AssertionError(f"killed 200 times at {failpoint} without completing")


def test_a_run_passes_every_failpoint_there_is(harness: ModelHarness) -> None:
    """Fault 1: so the kills below miss no failpoint, not even a new one."""
    define_two_windows(harness)
    assert set(failpoints_undisturbed(harness)) == failpoints_in_source()


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_runs_killed_at_every_failpoint_also_while_recovering_end_as_if_undisturbed(
    harness: ModelHarness, kafka_folder: Path
) -> None:
    """Fault 1, and fault 24 for the ledger and its copies."""
    define_two_windows(harness)
    reached = failpoints_undisturbed(harness)
    expected = take_snapshot(harness)
    assert len(expected.entries) == 3
    oracle.assert_consistent(harness)
    oracle.assert_matches_log(harness, kafka_folder)

    def count_kills(failpoint: str) -> int:
        twin = harness.twin(failpoint)
        kills = kill_repeatedly(twin, failpoint)
        # A window's two models are committed concurrently: one kill may end both.
        pairs = _LAST + 1 if failpoint.startswith(("put.", "bundle.")) else 0
        assert kills >= reached.count(failpoint) - pairs, failpoint
        assert take_snapshot(twin) == expected, failpoint
        with twin.open_model() as ctx:
            assert verify(ctx).findings == []
        assert not [*(twin.settings.store / harness.model / ".tmp").glob("*")]
        return kills

    with ThreadPoolExecutor(2) as pool:
        kills = sum(pool.map(count_kills, sorted(set(reached))))
    print(f"{kills} kills at {len(reached)} points of {len(set(reached))} places")


def test_a_run_killed_between_entry_and_copy_is_completed_without_a_second_entry(
    harness: ModelHarness,
) -> None:
    """Fault 24, without a server."""
    define_two_windows(harness)
    run_killed_at(harness, _LAST, "append.after")
    with harness.open_model() as ctx:
        assert [s.entry.seq for s in ctx.chain().entries] == [0]
        assert ctx.repository.entry(0) is None
        finding = "Ledger entry 0 is in the topic, but was never copied."
        assert finding in verify(ctx).findings
        run_windows(ctx, 0, _LAST)
        assert ctx.repository.entry(0) is not None
        assert [s.entry.seq for s in ctx.chain().entries] == [0, 1, 2]
        assert ctx.chain().invalid_records == ()
        assert verify(ctx).findings == []


@pytest.mark.faults
def test_a_run_killed_while_training_gives_the_same_candidate(harness: ModelHarness) -> None:
    """Fault 23: killed from outside while LightGBM trains."""
    slow = {
        "num_iterations": 6000,
        "learning_rate": 0.01,
        "num_leaves": 31,
        "min_data_in_leaf": 5,
    }
    harness.define(learner=SPEC["learner"] | {"continue": slow, "max_iterations": 20_000})
    harness.produce_windows(-2, 1, rows=400)
    twin = harness.twin("killed")
    with harness.open_model() as ctx:
        run_all(ctx, 0)
    for times in (2, 3):  # the first hit is the initial model
        with window_worker(twin, 0) as process:
            wait_for_failpoint(twin, "fit.before", times)
            wait_for_cpu_time(process, cpu_seconds=0.2)
            process.kill()
            process.join()
        assert process.exitcode == KILLED
        assert failpoints_reached(twin)[-1] == "fit.before"
    run_to_end(twin, 0)
    assert take_snapshot(twin) == take_snapshot(harness)
    oracle.assert_consistent(twin)
