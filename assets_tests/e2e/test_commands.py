"""`tidemill backfill` in a process of its own: killed, interrupted, started twice."""

import os
import signal

import psutil
import pytest

from bench import Bench, turn
from commands import at_work_in, begun, command, said, until
from event_log import ASSETS, checked, materialized, runs
from kept import Kept, kept
from oracle import check
from tidemill.cycle.initial import initial

pytestmark = pytest.mark.faults

LAST = 3


@pytest.fixture
def fed(bench: Bench) -> Bench:
    bench.define(gate={"min_rows": 50, "policy": "always"})  # every window has one to deploy
    bench.feed(-3, LAST + 1)
    return bench


def words(bench: Bench) -> tuple[str, ...]:
    first, last = bench.window(0).key, bench.window(LAST).key
    return "tidemill", "backfill", bench.model, "--from", first, "--to", last


def undisturbed(bench: Bench) -> Kept:
    """What is kept where nothing happened: a twin, taken through the steps without Dagster."""
    twin = bench.twin("twin")
    with twin.mill() as mill:
        initial(mill)
        for number in range(LAST + 1):
            turn(mill, number, final=number == LAST)
    return kept(twin)


def cells(bench: Bench, first: int, last: int, assets: tuple[str, ...] = ASSETS) -> set[object]:
    keys = [bench.window(number).key for number in range(first, last + 1)]
    return {(asset, key) for asset in assets for key in keys}


def test_kill_9_keeps_the_windows_done_and_running_again_takes_the_rest(fed: Bench) -> None:
    """FAULTS 1."""
    killed = fed.environment | {"TIDEMILL_FAILPOINTS": "report.before:kill:3"}
    assert command(killed, *words(fed)).returncode == -signal.SIGKILL
    done = cells(fed, 0, 1) | cells(fed, 2, 2, ASSETS[:2])
    assert materialized(fed) == dict.fromkeys(done, 1)
    until(lambda: at_work_in(fed.home) == [])  # the prover's helper follows its master

    again = command(fed.environment, *words(fed))
    assert again.returncode == 0, again.stderr
    told = materialized(fed)
    assert set(told) == cells(fed, 0, LAST)
    assert {cell for cell, times in told.items() if times > 1} <= done  # verified, told once more
    assert max(checked(fed).values()) == 2
    assert runs(fed) == {"SUCCESS": 2, "FAILURE": 1}  # the dead run is not left STARTED
    assert kept(fed) == undisturbed(fed)
    check(fed)


def test_ctrl_c_exits_with_130_and_the_next_run_carries_on(fed: Bench) -> None:
    interrupt(fed, "report.before:stop:2")
    assert runs(fed) == {"SUCCESS": 1, "FAILURE": 1}  # so Dagster takes what nobody asked it for
    assert materialized(fed) == dict.fromkeys(cells(fed, 0, 0) | cells(fed, 1, 1, ASSETS[:2]), 1)

    again = command(fed.environment, *words(fed))
    assert again.returncode == 0, again.stderr
    assert kept(fed) == undisturbed(fed)
    check(fed)


@pytest.mark.parametrize(
    "place", ["fit.before:stop", "plan.before:stop:3", "put.synced:stop:9", "append.after:stop:2"]
)
def test_ctrl_c_inside_a_step_loses_nothing(fed: Bench, place: str) -> None:
    """In the initial model, while planning, while writing, and after an entry was appended."""
    interrupt(fed, place)
    assert "STARTED" not in runs(fed)
    again = command(fed.environment, *words(fed))
    assert again.returncode == 0, again.stderr
    assert kept(fed) == undisturbed(fed)


def interrupt(bench: Bench, place: str) -> None:
    """Ctrl-C while a backfill is at this place: it says so, and leaves no process behind."""
    faulty = bench.environment | {"TIDEMILL_FAILPOINTS": place}
    with begun(faulty, *words(bench)) as process:
        until(lambda: stopped(process.pid), told=lambda: said(faulty))
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGCONT)
        assert process.wait(60) == 130, said(faulty)
    assert "Interrupted." in said(faulty)
    assert "Traceback" not in said(faulty)
    assert at_work_in(bench.home) == []


def stopped(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


def test_a_second_backfill_of_a_model_is_already_running(fed: Bench) -> None:
    """FAULTS 6."""
    halted = fed.environment | {"TIDEMILL_FAILPOINTS": "candidate.before:stop:2"}
    with begun(halted, *words(fed)) as process:
        until(lambda: stopped(process.pid), told=lambda: said(halted))
        second = command(fed.environment, *words(fed))
        os.kill(process.pid, signal.SIGCONT)
        assert second.returncode == 1
        assert f"AlreadyRunning: Model {fed.model}" in second.stderr
        assert str(process.pid) in second.stderr
        assert process.wait(120) == 0, said(halted)
    assert materialized(fed) == dict.fromkeys(cells(fed, 0, LAST), 1)
    assert runs(fed) == {"SUCCESS": 2}
    assert kept(fed) == undisturbed(fed)
    check(fed)
