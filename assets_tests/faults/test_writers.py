"""Two writers on one window, at once or one after the other's sleep: one wins, nothing changes."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

import oracle
from bench import Bench
from children import child, finished, journey, outcome, stopped, woken, words
from kept import define_two_windows, kept, stamps
from tidemill import failpoints
from tidemill.cli.backfill import run_backfill
from tidemill.core.errors import AlreadyRunning
from tidemill.core.plans import Plan
from tidemill.cycle.intervene import close
from tidemill.cycle.plan import plan_window

_LAST = 1


def undisturbed(bench: Bench) -> Bench:
    """A twin that has been through its windows alone."""
    define_two_windows(bench)
    twin = bench.twin("undisturbed")
    with twin.mill() as mill:
        journey(mill, _LAST)
    return twin


@pytest.mark.faults
def test_two_writers_at_once_commit_every_window_once(bench: Bench) -> None:
    """Row 6: without the lock, three at a time, held where they would commit."""
    expected = kept(undisturbed(bench))
    waits = ("plan.before", "manifest.before", "candidate.before", "report.before", "append.before")
    with ExitStack() as stack:
        slow = ",".join(f"{place}:sleep=0.3:{hit}" for hit, place in enumerate(waits, 1))
        writers = [
            stack.enter_context(child(bench, _LAST, faults, exclusive=False))
            for faults in ("", slow, "append.before:sleep=0.5")
        ]
        for writer in writers:
            writer.join(120)
        assert [writer.exitcode for writer in writers] == [0, 0, 0], words(bench)
    found = kept(bench)
    assert (found.files, found.entries) == (expected.files, expected.entries)
    oracle.check(bench)


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
    bench: Bench, place: str, void: int
) -> None:
    """Row 6: its own entry, if it still writes one, is void for every reader."""
    expected = kept(undisturbed(bench))
    with child(bench, _LAST, f"{place}:stop:2", exclusive=False, by="the sleeper") as sleeper:
        stopped(sleeper)
        with child(bench, _LAST, exclusive=False) as successor:
            successor.join(120)
            assert successor.exitcode == 0, words(bench)
        before, ledger = stamps(bench), kept(bench).entries
        assert woken(sleeper) == 0, words(bench)
    assert stamps(bench) == before
    found = kept(bench)
    assert found.files.keys() == expected.files.keys()
    assert {n for n, b in found.files.items() if b != expected.files[n]} <= _named(bench)
    assert (found.entries, found.void) == (ledger, void)
    oracle.check(bench)


def _named(bench: Bench) -> set[str]:
    """The ledger's copies: they tell who wrote the entry."""
    return {f"{bench.model}/ledger/{seq:08d}.json" for seq in range(3)}


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")  # Dagster's
def test_a_second_backfill_is_told_who_is_at_work_and_the_dead_hold_no_lock(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 6: with the lock; the first is stopped in the midst of its work, then killed."""
    expected = kept(undisturbed(bench))
    for name, value in bench.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", str(bench.settings.dagster_home))
    first, last = bench.window(0).key, bench.window(_LAST).key
    with child(bench, _LAST, "candidate.before:stop") as holder:
        stopped(holder)
        before = stamps(bench)
        with pytest.raises(AlreadyRunning, match=rf"by process {holder.pid}\."):
            run_backfill(bench.settings, bench.model, bench.spec_of(), first, last, quiet=True)
        assert outcome(bench, _LAST) == 1
        assert "AlreadyRunning" in words(bench)
        assert stamps(bench) == before
    finished(bench, _LAST)
    assert kept(bench) == expected


@contextmanager
def held(place: str) -> Iterator[tuple[ThreadPoolExecutor, threading.Event, threading.Event]]:
    """A worker thread that waits where it reaches this place; told of by the first event, let go
    by the second."""
    here, go = threading.Event(), threading.Event()

    def wait(name: str) -> None:
        if name == place and threading.current_thread().name.startswith("held"):
            here.set()
            assert go.wait(60)

    failpoints.on_reached(wait)
    try:
        with ThreadPoolExecutor(1, "held") as worker:
            yield worker, here, go
            go.set()
    finally:
        go.set()
        failpoints.on_reached(None)


def test_a_planner_that_slept_takes_the_plan_that_stands(bench: Bench) -> None:
    """Row 6: the sleeper had seen fewer records and would have ended the window earlier."""
    bench.feed(-2, 1)
    with bench.mill() as sleeper, bench.mill() as successor:
        plan_window(sleeper, bench.window(0))
        with held("plan.before") as (worker, here, go):
            slept: Future[Plan] = worker.submit(close, sleeper, bench.window(1), "ada")
            assert here.wait(60)
            bench.feed(1, 2, rows=20, seed=1)
            stands = plan_window(successor, bench.window(1))
            go.set()
            assert slept.result(60) == stands
    assert stands.closed_by is None
    with bench.mill() as mill:
        assert mill.repository.plan(bench.window(1).key) == stands
