"""The topic deleted, recreated, aged out or compacted: named, and nothing written is harmed."""

import re
from pathlib import Path

import pytest

import oracle
from bench import Bench, run, turn
from log_hands import ends, expire, recreate
from tidemill.core.errors import (
    OffsetsExpired,
    OperationNotAllowed,
    TopicCompacted,
    TopicMissing,
    TopicRecreated,
)
from tidemill.cycle.extract import extract
from tidemill.cycle.initial import initial
from tidemill.cycle.intervene import skip
from tidemill.cycle.plan import plan_window


def files(bench: Bench) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in bench.settings.store.rglob("*") if path.is_file()}


def test_a_deleted_topic_is_missing_and_committed_windows_stand(bench: Bench) -> None:
    """Row 10."""
    bench.feed(-3, 3)
    with bench.mill() as mill:
        run(mill, 0, 0)
        plan_window(mill, bench.window(1))
        before = files(bench)
        bench.delete_topic()
        for number in (1, 2):  # planned, and not planned
            with pytest.raises(TopicMissing, match=bench.model):
                extract(mill, bench.window(number))
        assert turn(mill, 0).status == "unchanged"
    assert files(bench) == before
    oracle.check(bench)


@pytest.mark.parametrize("last", [1, 8], ids=["fewer", "more"])
def test_a_recreated_topic_is_known_by_its_id_however_many_records_it_has(
    bench: Bench, last: int
) -> None:
    """Row 10: the old one held windows -3 to 4."""
    bench.feed(-3, 4)
    with bench.mill() as mill:
        run(mill, 0, 0)
        old = plan_window(mill, bench.window(1)).topic_id
        before = files(bench)
        recreate(bench)
        bench.feed(-3, last, rows=300, seed=1)
        for number in (1, 2):  # planned on the old topic, and not planned
            with pytest.raises(
                TopicRecreated, match=rf"{re.escape(old)}.*tidemill adopt {bench.model}"
            ):
                extract(mill, bench.window(number))
        assert turn(mill, 0).status == "unchanged"
    assert files(bench) == before
    oracle.check(bench)


def test_expired_offsets_are_named_exactly_and_skipping_is_recorded(bench: Bench) -> None:
    """Row 11: retention passed the start of a planned window."""
    bench.feed(-3, 5)
    with bench.mill() as mill:
        run(mill, 0, 0)
        planned = plan_window(mill, bench.window(1))
        gone = {r.partition: (r.start, r.end) for r in planned.ranges}
        expire(bench, {0: gone[0][0] + 7, 1: gone[1][0]})
        told = rf"offsets {gone[0][0]} to {gone[0][0] + 6} of partition 0"
        with pytest.raises(OffsetsExpired, match=f"{told}.*tidemill skip"):
            extract(mill, bench.window(1))
        assert mill.repository.manifest(planned.window) is None
        skipped = skip(mill, bench.window(1), "ada", "aged out")
        assert skipped.skipped is not None
        assert (skipped.skipped.actor, skipped.skipped.reason) == ("ada", "aged out")
        assert (skipped.rows, skipped.rejected, skipped.gaps) == (0, 0, planned.offset_count)
        turn(mill, 1)
        assert extract(mill, bench.window(2)).rows == 200
        turn(mill, 2)
        with pytest.raises(OperationNotAllowed, match="Only a window without a batch"):
            skip(mill, bench.window(2), "ada", "aged out")
    oracle.check(bench)


def test_a_window_whose_records_expired_before_it_was_planned_is_expired_too(
    bench: Bench,
) -> None:
    """Row 11: no offset falls between two windows because retention was faster than planning."""
    bench.feed(-3, 5)
    with bench.mill() as mill:
        run(mill, 0, 0)
        before = plan_window(mill, bench.window(0)).end_offsets
        low = {partition: end + 150 for partition, end in before.items()}  # in window 1 + 50 of 2
        expire(bench, low)
        with pytest.raises(
            OffsetsExpired, match=rf"offsets {before[0]} to {before[0] + 149} of partition 0"
        ):
            extract(mill, bench.window(1))
        assert plan_window(mill, bench.window(1)).offset_ranges == {p: (before[p], low[p]) for p in before}
        skip(mill, bench.window(1), "ada", "aged out")
        turn(mill, 1)
        turn(mill, 2)
        turn(mill, 3)
        assert extract(mill, bench.window(2)).rows == 100
        assert ends(bench)[0] == 900
    oracle.check(bench)


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
def test_a_compacted_topic_is_refused_at_attach(bench: Bench, policy: str) -> None:
    """Row 11."""
    other = Bench(bench.servers, bench.home, f"{bench.model}c")
    other.define()
    other.create_topic(**{"cleanup.policy": policy})
    with other.mill() as mill:
        with pytest.raises(TopicCompacted, match=r"is compacted.*cleanup.policy=delete"):
            initial(mill)
        assert list(mill.repository.names("")) == []
