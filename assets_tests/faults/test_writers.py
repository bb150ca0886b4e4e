"""Two writers on one window, concurrent or one delayed: one wins, nothing else changes."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from support.models import oracle
from support.models.harness import ModelHarness
from support.models.store_snapshot import define_two_windows, file_stamps, take_snapshot
from support.processes.workers import (
    exit_code,
    failure_output,
    resume,
    run_all,
    run_to_end,
    wait_until_stopped,
    window_worker,
)
from tidemill import failpoints
from tidemill.cli.backfill import run_backfill
from tidemill.core.errors import AlreadyRunning
from tidemill.core.plans import Plan
from tidemill.cycle.operations.manual_actions import close
from tidemill.cycle.planning.plan import plan_window

_LAST = 1


def run_undisturbed(harness: ModelHarness) -> ModelHarness:
    """A twin that has run its windows undisturbed."""
    define_two_windows(harness)
    twin = harness.twin("undisturbed")
    with twin.open_model() as ctx:
        run_all(ctx, _LAST)
    return twin


@pytest.mark.faults
def test_two_writers_at_once_commit_every_window_once(harness: ModelHarness) -> None:
    """Fault 6: three at a time without the lock, delayed at their commits."""
    expected = take_snapshot(run_undisturbed(harness))
    commits = (
        "plan.before",
        "manifest.before",
        "candidate.before",
        "report.before",
        "append.before",
    )
    with ExitStack() as stack:
        delays = ",".join(f"{name}:sleep=0.3:{hit}" for hit, name in enumerate(commits, 1))
        writers = [
            stack.enter_context(window_worker(harness, _LAST, faults, exclusive=False))
            for faults in ("", delays, "append.before:sleep=0.5")
        ]
        for writer in writers:
            writer.join(120)
        assert [writer.exitcode for writer in writers] == [0, 0, 0], failure_output(harness)
    snapshot = take_snapshot(harness)
    assert (snapshot.files, snapshot.entries) == (expected.files, expected.entries)
    oracle.assert_consistent(harness)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("failpoint", "void_count"),
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
def test_a_stopped_writer_that_resumes_after_its_successor_changes_nothing(
    harness: ModelHarness, failpoint: str, void_count: int
) -> None:
    """Fault 6: if it still appends an entry, that is invalid for every reader."""
    expected = take_snapshot(run_undisturbed(harness))
    with window_worker(
        harness, _LAST, f"{failpoint}:stop:2", exclusive=False, actor="the sleeper"
    ) as sleeper:
        wait_until_stopped(sleeper)
        with window_worker(harness, _LAST, exclusive=False) as successor:
            successor.join(120)
            assert successor.exitcode == 0, failure_output(harness)
        before, ledger = file_stamps(harness), take_snapshot(harness).entries
        assert resume(sleeper) == 0, failure_output(harness)
    assert file_stamps(harness) == before
    snapshot = take_snapshot(harness)
    assert snapshot.files.keys() == expected.files.keys()
    assert {n for n, b in snapshot.files.items() if b != expected.files[n]} <= _ledger_copies(
        harness
    )
    assert (snapshot.entries, snapshot.void_count) == (ledger, void_count)
    oracle.assert_consistent(harness)


def _ledger_copies(harness: ModelHarness) -> set[str]:
    """The copies of ledger entries, which contain the actor."""
    return {f"{harness.model}/ledger/{seq:08d}.json" for seq in range(3)}


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")  # Dagster's
def test_a_second_backfill_names_the_lock_holder_and_a_dead_process_holds_no_lock(
    harness: ModelHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 6: with the lock; the first process is stopped while working, then killed."""
    expected = take_snapshot(run_undisturbed(harness))
    for name, value in harness.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", str(harness.settings.dagster_home))
    first, last = harness.window(0).key, harness.window(_LAST).key
    with window_worker(harness, _LAST, "candidate.before:stop") as holder:
        wait_until_stopped(holder)
        before = file_stamps(harness)
        with pytest.raises(AlreadyRunning, match=rf"by process {holder.pid}\."):
            run_backfill(harness.settings, harness.load_spec(), first, last, quiet=True)
        assert exit_code(harness, _LAST) == 1
        assert "AlreadyRunning" in failure_output(harness)
        assert file_stamps(harness) == before
    run_to_end(harness, _LAST)
    assert take_snapshot(harness) == expected


@contextmanager
def paused_worker(
    failpoint: str,
) -> Iterator[tuple[ThreadPoolExecutor, threading.Event, threading.Event]]:
    """A worker thread that waits at this failpoint: one event reports that, one resumes it."""
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


def test_a_delayed_planner_takes_the_committed_plan(harness: ModelHarness) -> None:
    """Fault 6: the delayed one had seen fewer records and would have ended the window earlier."""
    harness.produce_windows(-2, 1)
    with harness.open_model() as sleeper, harness.open_model() as successor:
        plan_window(sleeper, harness.window(0))
        with paused_worker("plan.before") as (worker, reached, resume):
            delayed: Future[Plan] = worker.submit(close, sleeper, harness.window(1), "ada")
            assert reached.wait(60)
            harness.produce_windows(1, 2, rows=20, seed=1)
            plan = plan_window(successor, harness.window(1))
            resume.set()
            assert delayed.result(60) == plan
    assert plan.closed_by is None
    with harness.open_model() as ctx:
        assert ctx.repository.plan(harness.window(1).key) == plan
