"""`tidemill backfill` in a separate process: killed, interrupted, started twice."""

import os
import signal

import psutil
import pytest

from support.dagster.event_log import (
    ASSETS,
    check_counts,
    materialization_counts,
    run_status_counts,
)
from support.models.harness import ModelHarness, run_window
from support.models.oracle import assert_consistent
from support.models.store_snapshot import StoreSnapshot, take_snapshot
from support.processes.commands import background, output, processes_under, run_command, wait_until
from tidemill.cycle.steps.initial import initial

pytestmark = pytest.mark.faults

LAST = 3


@pytest.fixture
def fed_harness(harness: ModelHarness) -> ModelHarness:
    harness.define(gate={"min_rows": 50, "policy": "always"})  # every window deploys a candidate
    harness.produce_windows(-3, LAST + 1)
    return harness


def backfill_command(harness: ModelHarness) -> tuple[str, ...]:
    first, last = harness.window(0).key, harness.window(LAST).key
    return "tidemill", "backfill", harness.model, "--from", first, "--to", last


def run_undisturbed(harness: ModelHarness) -> StoreSnapshot:
    """The store of a twin that processes the windows undisturbed and without Dagster."""
    twin = harness.twin("twin")
    with twin.open_model() as ctx:
        initial(ctx)
        for number in range(LAST + 1):
            run_window(ctx, number, final=number == LAST)
    return take_snapshot(twin)


def expected_cells(
    harness: ModelHarness, first: int, last: int, assets: tuple[str, ...] = ASSETS
) -> set[object]:
    keys = [harness.window(number).key for number in range(first, last + 1)]
    return {(asset, key) for asset in assets for key in keys}


def test_kill_9_keeps_completed_windows_and_a_rerun_processes_the_rest(
    fed_harness: ModelHarness,
) -> None:
    """Fault 1."""
    killed = fed_harness.env | {"TIDEMILL_FAILPOINTS": "report.before:kill:3"}
    assert run_command(killed, *backfill_command(fed_harness)).returncode == -signal.SIGKILL
    done = expected_cells(fed_harness, 0, 1) | expected_cells(fed_harness, 2, 2, ASSETS[:2])
    assert materialization_counts(fed_harness) == dict.fromkeys(done, 1)
    # The process that validates bundles follows its parent.
    wait_until(lambda: processes_under(fed_harness.home) == [])

    again = run_command(fed_harness.env, *backfill_command(fed_harness))
    assert again.returncode == 0, again.stderr
    counts = materialization_counts(fed_harness)
    assert set(counts) == expected_cells(fed_harness, 0, LAST)
    assert {cell for cell, times in counts.items() if times > 1} <= done  # verified, recorded again
    assert max(check_counts(fed_harness).values()) == 2
    # The dead run is not left STARTED.
    assert run_status_counts(fed_harness) == {"SUCCESS": 2, "FAILURE": 1}
    assert take_snapshot(fed_harness) == run_undisturbed(fed_harness)
    assert_consistent(fed_harness)


def test_ctrl_c_exits_with_130_and_the_next_run_continues(fed_harness: ModelHarness) -> None:
    interrupt(fed_harness, "report.before:stop:2")
    # Dagster records a run that was not canceled through it as failed.
    assert run_status_counts(fed_harness) == {"SUCCESS": 1, "FAILURE": 1}
    assert materialization_counts(fed_harness) == dict.fromkeys(
        expected_cells(fed_harness, 0, 0) | expected_cells(fed_harness, 1, 1, ASSETS[:2]), 1
    )

    again = run_command(fed_harness.env, *backfill_command(fed_harness))
    assert again.returncode == 0, again.stderr
    assert take_snapshot(fed_harness) == run_undisturbed(fed_harness)
    assert_consistent(fed_harness)


@pytest.mark.parametrize(
    "place", ["fit.before:stop", "plan.before:stop:3", "put.synced:stop:9", "append.after:stop:2"]
)
def test_ctrl_c_inside_a_step_loses_nothing(fed_harness: ModelHarness, place: str) -> None:
    """While training the initial model, planning, writing, and after an entry was appended."""
    interrupt(fed_harness, place)
    assert "STARTED" not in run_status_counts(fed_harness)
    again = run_command(fed_harness.env, *backfill_command(fed_harness))
    assert again.returncode == 0, again.stderr
    assert take_snapshot(fed_harness) == run_undisturbed(fed_harness)


def interrupt(harness: ModelHarness, failpoint: str) -> None:
    """Press Ctrl-C while a backfill is at this failpoint; it reports that and leaves no process."""
    env = harness.env | {"TIDEMILL_FAILPOINTS": failpoint}
    with background(env, *backfill_command(harness)) as process:
        wait_until(lambda: is_stopped(process.pid), on_timeout=lambda: output(env))
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGCONT)
        assert process.wait(60) == 130, output(env)
    assert "Interrupted." in output(env)
    assert "Traceback" not in output(env)
    assert processes_under(harness.home) == []


def is_stopped(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


def test_a_second_backfill_of_a_model_is_already_running(fed_harness: ModelHarness) -> None:
    """Fault 6."""
    halted = fed_harness.env | {"TIDEMILL_FAILPOINTS": "candidate.before:stop:2"}
    with background(halted, *backfill_command(fed_harness)) as process:
        wait_until(lambda: is_stopped(process.pid), on_timeout=lambda: output(halted))
        second = run_command(fed_harness.env, *backfill_command(fed_harness))
        os.kill(process.pid, signal.SIGCONT)
        assert second.returncode == 1
        assert f"AlreadyRunning: Model {fed_harness.model}" in second.stderr
        assert str(process.pid) in second.stderr
        assert process.wait(120) == 0, output(halted)
    assert materialization_counts(fed_harness) == dict.fromkeys(
        expected_cells(fed_harness, 0, LAST), 1
    )
    assert run_status_counts(fed_harness) == {"SUCCESS": 2}
    assert take_snapshot(fed_harness) == run_undisturbed(fed_harness)
    assert_consistent(fed_harness)
