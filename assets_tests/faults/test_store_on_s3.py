"""With its store on S3-compatible storage, whatever is killed and whoever races: the same bytes."""

import os
import signal
import time

import pytest

import oracle
from bench import Bench
from children import KILLED, child, finished, journey, outcome, places, stopped, woken, words
from kept import Kept, define_two_windows, kept
from s3_hands import S3
from tidemill import failpoints

_LAST = 1


@pytest.fixture
def expected(bench: Bench) -> Kept:
    """What stays of the bench's two windows in a folder, undisturbed."""
    define_two_windows(bench)
    with bench.mill() as mill:
        journey(mill, _LAST)
    return kept(bench)


@pytest.mark.faults
def test_killed_at_every_place_on_s3_all_ends_as_if_undisturbed(
    bench: Bench, expected: Kept, s3: S3
) -> None:
    """Row 1: each place in its order, so that each run mends what the one before left."""
    reached: list[str] = []
    failpoints.on_reached(reached.append)
    with s3.put_under(bench.twin("calm")).mill() as mill:
        journey(mill, _LAST)
    failpoints.on_reached(None)
    assert {"plan.before", "manifest.after", "bundle.before", "append.after"} <= set(reached)
    twin = s3.put_under(bench.twin("killed"))
    places_in_order = list(dict.fromkeys(reached))
    for place in places_in_order:
        assert outcome(twin, _LAST, f"{place}:kill") == KILLED, place
    print(f"{len(places_in_order)} kills")
    finished(twin, _LAST)
    assert kept(twin) == expected
    oracle.check(twin)


@pytest.mark.faults
def test_killed_while_a_put_is_under_way_the_name_is_free_or_holds_all(
    bench: Bench, expected: Kept, s3: S3
) -> None:
    """Row 1: the server is stopped with the request in its queue, and goes on without a writer."""
    twin = s3.put_under(bench.twin("cut-off"))
    for commit in ("plan", "bundle", "manifest"):
        with child(twin, _LAST, f"{commit}.before:stop") as process:
            stopped(process)
            with s3.stopped():
                assert process.pid is not None
                before = len(places(twin))
                _wake(process.pid)
                time.sleep(0.3)
                process.kill()
                process.join()
                assert f"{commit}.after" not in places(twin)[before:]
    finished(twin, _LAST)
    assert kept(twin) == expected
    oracle.check(twin)


@pytest.mark.faults
def test_of_two_writers_on_s3_at_once_the_first_wins_and_the_other_ends_as_already_done(
    bench: Bench, expected: Kept, s3: S3
) -> None:
    """Row 6: two that race, then one that wakes after all was done without it."""
    for name, faults in (("raced", ""), ("woken", "manifest.before:stop")):
        twin = s3.put_under(bench.twin(name))
        with child(twin, _LAST, faults, exclusive=False) as one:
            if faults:
                stopped(one)
            with child(twin, _LAST, exclusive=False) as other:
                other.join(120)
                assert other.exitcode == 0, words(twin)
            if faults:
                assert woken(one) == 0, words(twin)
            one.join(120)
            assert one.exitcode == 0, words(twin)
        found = kept(twin)
        assert (found.files, found.entries) == (expected.files, expected.entries)
        oracle.check(twin)


def _wake(pid: int) -> None:
    """Let a stopped process go on."""

    os.kill(pid, signal.SIGCONT)
