"""Killed at any place, twice in a row, also while recovering: run again, as if undisturbed."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import oracle
import tidemill
from bench import SPEC, Bench, run
from children import (
    KILLED,
    child,
    finished,
    journey,
    killed_at,
    outcome,
    places,
    places_in,
    reaches,
    works,
)
from kept import define_two_windows, kept
from tidemill import bootstrap, failpoints
from tidemill.cycle.verify import verify

_LAST = 1


def undisturbed(bench: Bench) -> list[str]:
    """Take the bench through its windows; the places that were reached, in order."""
    reached: list[str] = []
    failpoints.on_reached(reached.append)
    with bench.mill() as mill:
        journey(mill, _LAST)
    failpoints.on_reached(None)
    return reached


_ELSEWHERE = ("mlflow.py", "restore.py", "prune.py", "adopt.py", "produce.py")
_ADOPTION = {"adoption.before", "adoption.after"}
"""Files, and a commit, whose places lie on another way; their own tests kill there."""


def in_the_source() -> set[str]:
    """Every place that a window's way through the four steps can fail at."""
    files = Path(tidemill.__path__[0]).rglob("*.py")
    return places_in([file for file in files if file.name not in _ELSEWHERE]) - _ADOPTION


def killed_all_along(bench: Bench, place: str) -> int:
    """Run again and again, killed each time at this place: where that was no step forward, at the
    next time it is reached. Gives the number of kills until there is nothing left to do.

    So each commit is finished by a process that is killed in the next. All but two places, which
    are the most frequent, are killed twice in a row at the same point.
    """
    kills, hit, done = 0, 1, 0
    next_ = 2 if place in ("put.written", "put.synced") else 1
    while kills < 200:
        ended = outcome(bench, _LAST, f"{place}:kill:{hit}")
        if ended == 0:
            return kills
        assert ended == KILLED
        before, done = done, len(list(bootstrap.make_store(bench.settings).names("")))
        kills, hit = kills + 1, hit + 1 if done == before else next_
    raise AssertionError(f"no end of kills at {place}")


def test_a_run_passes_every_failpoint_there_is(bench: Bench) -> None:
    """Row 1: so that the kills below leave no place out, and none that is new."""
    define_two_windows(bench)
    assert set(undisturbed(bench)) == in_the_source()


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_killed_at_every_place_and_again_while_recovering_all_ends_as_if_undisturbed(
    bench: Bench, kafka_folder: Path
) -> None:
    """Row 1, and row 24 as far as the ledger and its copies go."""
    define_two_windows(bench)
    reached = undisturbed(bench)
    expected = kept(bench)
    assert len(expected.entries) == 3
    oracle.check(bench)
    oracle.check_against_the_log(bench, kafka_folder)

    def kills_at(place: str) -> int:
        twin = bench.twin(place)
        kills = killed_all_along(twin, place)
        # A window's two models are committed at the same time: one kill may end both.
        pairs = _LAST + 1 if place.startswith(("put.", "bundle.")) else 0
        assert kills >= reached.count(place) - pairs, place
        assert kept(twin) == expected, place
        with twin.mill() as mill:
            assert verify(mill).findings == []
        assert not [*(twin.settings.store / bench.model / ".tmp").glob("*")]
        return kills

    with ThreadPoolExecutor(2) as pool:
        kills = sum(pool.map(kills_at, sorted(set(reached))))
    print(f"{kills} kills at {len(reached)} points of {len(set(reached))} places")


def test_killed_between_the_entry_and_its_copy_the_ledger_is_copied_and_not_written_again(
    bench: Bench,
) -> None:
    """Row 24, without a server."""
    define_two_windows(bench)
    killed_at(bench, _LAST, "append.after")
    with bench.mill() as mill:
        assert [s.entry.seq for s in mill.chain().entries] == [0]
        assert mill.repository.entry(0) is None
        told = "Ledger entry 0 stands in the topic, but was never copied."
        assert told in verify(mill).findings
        run(mill, 0, _LAST)
        assert mill.repository.entry(0) is not None
        assert [s.entry.seq for s in mill.chain().entries] == [0, 1, 2]
        assert mill.chain().invalid_records == ()
        assert verify(mill).findings == []


@pytest.mark.faults
def test_killed_while_it_trains_a_run_makes_the_same_candidate(bench: Bench) -> None:
    """Row 23: killed from outside, in the midst of LightGBM's work."""
    slow = {"trees": 6000, "rate": 0.01, "leaves": 31, "min_rows": 5}
    bench.define(learner=SPEC["learner"] | {"continue": slow, "max_trees": 20_000})
    bench.feed(-2, 1, rows=400)
    twin = bench.twin("killed")
    with bench.mill() as mill:
        journey(mill, 0)
    for times in (2, 3):  # the first was the initial model
        with child(twin, 0) as process:
            reaches(twin, "fit.before", times)
            works(process, 0.2)  # of seconds
            process.kill()
            process.join()
        assert process.exitcode == KILLED
        assert places(twin)[-1] == "fit.before"
    finished(twin, 0)
    assert kept(twin) == kept(bench)
    oracle.check(twin)
