"""Two writers on one window, at once or one after the other's sleep: one wins, nothing changes."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

import oracle
from model_harness import ModelHarness
from store_snapshot import define_two_windows, file_stamps, take_snapshot
from tidemill import failpoints
from tidemill.cli.backfill import run_backfill
from tidemill.core.errors import AlreadyRunning
from tidemill.core.plans import Plan
from tidemill.cycle.manual_actions import close
from tidemill.cycle.plan import plan_window
from worker_processes import (
    exit_code,
    failure_output,
    resume,
    run_all,
    run_to_end,
    wait_until_stopped,
    window_worker,
)

_LAST = 1


def run_undisturbed(harness: ModelHarness) -> ModelHarness:
    """A twin that has been through its windows alone."""
    define_two_windows(harness)
    twin = harness.twin("undisturbed")
    with twin.open_model() as ctx:
        run_all(ctx, _LAST)
    return twin


@pytest.mark.faults
def test_two_writers_at_once_commit_every_window_once(harness: ModelHarness) -> None:
    """Row 6: without the lock, three at a time, held where they would commit."""
    expected = take_snapshot(run_undisturbed(harness))
    waits = ("plan.before", "manifest.before", "candidate.before", "report.before", "append.before")
    with ExitStack() as stack:
        slow = ",".join(f"{place}:sleep=0.3:{hit}" for hit, place in enumerate(waits, 1))
        writers = [
            stack.enter_context(window_worker(harness, _LAST, faults, exclusive=False))
            for faults in ("", slow, "append.before:sleep=0.5")
        ]
        for writer in writers:
            writer.join(120)
        assert [writer.exitcode for writer in writers] == [0, 0, 0], failure_output(harness)
    found = take_snapshot(harness)
    assert (found.files, found.entries) == (expected.files, expected.entries)
    oracle.assert_consistent(harness)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("place", "void"),
    [
        ("plan.before", 0),
        ("put.synced", 0),
        ("file.before", 0),
        ("manifest.before", 0),
        ("fit.before", 0),
        ("candidate.before", 0),
        ("report.before", 0),
        ("append.before", 1),
    ],
)
def test_a_stopped_writer_that_wakes_after_its_successor_changes_nothing(
    harness: ModelHarness, place: str, void: int
) -> None:
    """Row 6: its own entry, if it still writes one, is void for every reader."""
    expected = take_snapshot(run_undisturbed(harness))
    with window_worker(
        harness, _LAST, f"{place}:stop:2", exclusive=False, by="the sleeper"
    ) as sleeper:
        wait_until_stopped(sleeper)
        with window_worker(harness, _LAST, exclusive=False) as successor:
            successor.join(120)
            assert successor.exitcode == 0, failure_output(harness)
        before, ledger = file_stamps(harness), take_snapshot(harness).entries
        assert resume(sleeper) == 0, failure_output(harness)
    assert file_stamps(harness) == before
    found = take_snapshot(harness)
    assert found.files.keys() == expected.files.keys()
    assert {n for n, b in found.files.items() if b != expected.files[n]} <= _ledger_copies(harness)
    assert (found.entries, found.void_count) == (ledger, void)
    oracle.assert_consistent(harness)


def _ledger_copies(harness: ModelHarness) -> set[str]:
    """The ledger's copies: they tell who wrote the entry."""
    return {f"{harness.model}/ledger/{seq:08d}.json" for seq in range(3)}


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")  # Dagster's
def test_a_second_backfill_is_told_who_is_at_work_and_the_dead_hold_no_lock(
    harness: ModelHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 6: with the lock; the first is stopped in the midst of its work, then killed."""
    expected = take_snapshot(run_undisturbed(harness))
    for name, value in harness.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", str(harness.settings.dagster_home))
    first, last = harness.window(0).key, harness.window(_LAST).key
    with window_worker(harness, _LAST, "candidate.before:stop") as holder:
        wait_until_stopped(holder)
        before = file_stamps(harness)
        with pytest.raises(AlreadyRunning, match=rf"by process {holder.pid}\."):
            run_backfill(
                harness.settings, harness.model, harness.load_spec(), first, last, quiet=True
            )
        assert exit_code(harness, _LAST) == 1
        assert "AlreadyRunning" in failure_output(harness)
        assert file_stamps(harness) == before
    run_to_end(harness, _LAST)
    assert take_snapshot(harness) == expected


@contextmanager
def paused_worker(
    failpoint: str,
) -> Iterator[tuple[ThreadPoolExecutor, threading.Event, threading.Event]]:
    """A worker thread that waits where it reaches this place; told of by the first event, let go
    by the second."""
    reached, resume = threading.Event(), threading.Event()

    def wait(name: str) -> None:
        if name == failpoint and threading.current_thread().name.startswith("held"):
            reached.set()
            assert resume.wait(60)

    failpoints.on_reached(wait)
    try:
        with ThreadPoolExecutor(1, "held") as worker:
            yield worker, reached, resume
            resume.set()
    finally:
        resume.set()
        failpoints.on_reached(None)


def test_a_planner_that_slept_takes_the_plan_that_stands(harness: ModelHarness) -> None:
    """Row 6: the sleeper had seen fewer records and would have ended the window earlier."""
    harness.produce_windows(-2, 1)
    with harness.open_model() as sleeper, harness.open_model() as successor:
        plan_window(sleeper, harness.window(0))
        with paused_worker("plan.before") as (worker, here, go):
            slept: Future[Plan] = worker.submit(close, sleeper, harness.window(1), "ada")
            assert here.wait(60)
            harness.produce_windows(1, 2, rows=20, seed=1)
            stands = plan_window(successor, harness.window(1))
            go.set()
            assert slept.result(60) == stands
    assert stands.closed_by is None
    with harness.open_model() as mill:
        assert mill.repository.plan(harness.window(1).key) == stands
