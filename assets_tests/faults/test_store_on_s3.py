"""With the store on S3-compatible storage, kills and races end with the same bytes."""

import os
import signal
import time

import pytest

from support.models import oracle
from support.models.harness import ModelHarness
from support.models.store_snapshot import StoreSnapshot, define_two_windows, take_snapshot
from support.processes.workers import (
    KILLED,
    exit_code,
    failpoints_reached,
    failure_output,
    resume,
    run_all,
    run_to_end,
    wait_until_stopped,
    window_worker,
)
from support.servers.s3 import S3Server
from tidemill import failpoints

_LAST = 1


@pytest.fixture
def expected(harness: ModelHarness) -> StoreSnapshot:
    """The snapshot of the harness's two windows in a folder, undisturbed."""
    define_two_windows(harness)
    with harness.open_model() as ctx:
        run_all(ctx, _LAST)
    return take_snapshot(harness)


@pytest.mark.faults
def test_runs_on_s3_killed_at_every_failpoint_end_as_if_undisturbed(
    harness: ModelHarness, expected: StoreSnapshot, s3: S3Server
) -> None:
    """Fault 1: each failpoint in order, so that each run recovers what the previous one left."""
    reached: list[str] = []
    failpoints.on_reached(reached.append)
    with s3.move_store(harness.twin("undisturbed")).open_model() as ctx:
        run_all(ctx, _LAST)
    failpoints.on_reached(None)
    assert {"plan.before", "manifest.after", "bundle.before", "append.after"} <= set(reached)
    twin = s3.move_store(harness.twin("killed"))
    failpoints_in_order = list(dict.fromkeys(reached))
    for failpoint in failpoints_in_order:
        assert exit_code(twin, _LAST, f"{failpoint}:kill") == KILLED, failpoint
    print(f"{len(failpoints_in_order)} kills")
    run_to_end(twin, _LAST)
    assert take_snapshot(twin) == expected
    oracle.assert_consistent(twin)


@pytest.mark.faults
def test_a_writer_killed_during_a_put_leaves_no_partial_object(
    harness: ModelHarness, expected: StoreSnapshot, s3: S3Server
) -> None:
    """Fault 1: the server is stopped with the request queued, and resumes without the writer."""
    twin = s3.move_store(harness.twin("cut-off"))
    for commit in ("plan", "bundle", "manifest"):
        with window_worker(twin, _LAST, f"{commit}.before:stop") as process:
            wait_until_stopped(process)
            with s3.paused():
                assert process.pid is not None
                before = len(failpoints_reached(twin))
                _resume(process.pid)
                time.sleep(0.3)
                process.kill()
                process.join()
                assert f"{commit}.after" not in failpoints_reached(twin)[before:]
    run_to_end(twin, _LAST)
    assert take_snapshot(twin) == expected
    oracle.assert_consistent(twin)


@pytest.mark.faults
def test_of_two_concurrent_writers_on_s3_the_first_wins_and_the_second_changes_nothing(
    harness: ModelHarness, expected: StoreSnapshot, s3: S3Server
) -> None:
    """Fault 6: two that race, then one that resumes after the other has completed."""
    for name, faults in (("raced", ""), ("woken", "manifest.before:stop")):
        twin = s3.move_store(harness.twin(name))
        with window_worker(twin, _LAST, faults, exclusive=False) as first:
            if faults:
                wait_until_stopped(first)
            with window_worker(twin, _LAST, exclusive=False) as second:
                second.join(120)
                assert second.exitcode == 0, failure_output(twin)
            if faults:
                assert resume(first) == 0, failure_output(twin)
            first.join(120)
            assert first.exitcode == 0, failure_output(twin)
        snapshot = take_snapshot(twin)
        assert (snapshot.files, snapshot.entries) == (expected.files, expected.entries)
        oracle.assert_consistent(twin)


def _resume(pid: int) -> None:
    """Let a stopped process continue."""

    os.kill(pid, signal.SIGCONT)
