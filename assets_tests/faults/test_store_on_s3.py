"""With its store on S3-compatible storage, whatever is killed and whoever races: the same bytes."""

import os
import signal
import time

import pytest

import oracle
from model_harness import ModelHarness
from s3_server import S3Server
from store_snapshot import StoreSnapshot, define_two_windows, take_snapshot
from tidemill import failpoints
from worker_processes import (
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

_LAST = 1


@pytest.fixture
def expected(harness: ModelHarness) -> StoreSnapshot:
    """What stays of the bench's two windows in a folder, undisturbed."""
    define_two_windows(harness)
    with harness.open_model() as ctx:
        run_all(ctx, _LAST)
    return take_snapshot(harness)


@pytest.mark.faults
def test_killed_at_every_place_on_s3_all_ends_as_if_undisturbed(
    harness: ModelHarness, expected: StoreSnapshot, s3: S3Server
) -> None:
    """Row 1: each place in its order, so that each run mends what the one before left."""
    reached: list[str] = []
    failpoints.on_reached(reached.append)
    with s3.move_store(harness.twin("calm")).open_model() as mill:
        run_all(mill, _LAST)
    failpoints.on_reached(None)
    assert {"plan.before", "manifest.after", "bundle.before", "append.after"} <= set(reached)
    twin = s3.move_store(harness.twin("killed"))
    places_in_order = list(dict.fromkeys(reached))
    for place in places_in_order:
        assert exit_code(twin, _LAST, f"{place}:kill") == KILLED, place
    print(f"{len(places_in_order)} kills")
    run_to_end(twin, _LAST)
    assert take_snapshot(twin) == expected
    oracle.assert_consistent(twin)


@pytest.mark.faults
def test_killed_while_a_put_is_under_way_the_name_is_free_or_holds_all(
    harness: ModelHarness, expected: StoreSnapshot, s3: S3Server
) -> None:
    """Row 1: the server is stopped with the request in its queue, and goes on without a writer."""
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
def test_of_two_writers_on_s3_at_once_the_first_wins_and_the_other_ends_as_already_done(
    harness: ModelHarness, expected: StoreSnapshot, s3: S3Server
) -> None:
    """Row 6: two that race, then one that wakes after all was done without it."""
    for name, faults in (("raced", ""), ("woken", "manifest.before:stop")):
        twin = s3.move_store(harness.twin(name))
        with window_worker(twin, _LAST, faults, exclusive=False) as one:
            if faults:
                wait_until_stopped(one)
            with window_worker(twin, _LAST, exclusive=False) as other:
                other.join(120)
                assert other.exitcode == 0, failure_output(twin)
            if faults:
                assert resume(one) == 0, failure_output(twin)
            one.join(120)
            assert one.exitcode == 0, failure_output(twin)
        found = take_snapshot(twin)
        assert (found.files, found.entries) == (expected.files, expected.entries)
        oracle.assert_consistent(twin)


def _resume(pid: int) -> None:
    """Let a stopped process go on."""

    os.kill(pid, signal.SIGCONT)
