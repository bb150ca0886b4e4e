"""Windows without a row: a batch with a schema, and steps that say they have no evidence."""

import json

import pytest

import oracle
from bench import Bench, run, turn
from log_hands import at, begin, spread
from tidemill.core.decoding import Decoder
from tidemill.cycle.extract import extract, load_rows
from tidemill.cycle.initial import initial
from tidemill.cycle.intervene import close
from tidemill.cycle.mill import ModelContext


def nothing_is_learned_or_judged(mill: ModelContext, bench: Bench, number: int) -> None:
    window = bench.window(number)
    made = extract(mill, window)
    assert (made.rows, made.rejected) == (0, 0)
    assert load_rows(mill, made).schema == Decoder(mill.spec).schema
    report = mill.repository.report(window.key)
    assert report is not None
    candidate = mill.repository.candidate(report.lineage, window.key)
    assert candidate is not None
    assert candidate.kind == "carry"
    assert candidate.digest == candidate.parent
    assert (candidate.holdout, candidate.tail_rows) == (None, 0)
    assert report.verdict == "keep"
    assert report.rows == 0
    assert {report.losses[role] for role in ("champion", "challenger", "prior")} == {None}
    assert report.auc is None
    assert report.state.champion == report.previous_state.champion


def test_a_window_of_markers_only_is_an_empty_batch(bench: Bench) -> None:
    """Row 14: all its offsets are aborted records and markers."""
    bench.feed(-3, 0)
    with bench.mill() as mill:
        initial(mill)
        close(mill, bench.window(0), "ada")
        turn(mill, 0)
        begin(bench, {p: spread(10, 5, 6) for p in range(2)})(False)
        close(mill, bench.window(1), "ada")
        turn(mill, 1)
        assert extract(mill, bench.window(1)).gaps == 22
        nothing_is_learned_or_judged(mill, bench, 1)
        bench.feed(2, 3)
        turn(mill, 2)
        assert extract(mill, bench.window(2)).rows == 200
    oracle.check(bench)


def test_windows_in_which_nothing_happened_are_empty_and_the_line_goes_on(bench: Bench) -> None:
    """Row 14: four in a row, over a retraining, which has nothing new to learn from."""
    bench.feed(-3, 0)
    bench.feed(5, 6)
    with bench.mill() as mill:
        run(mill, 0, 5)
        for number in range(1, 5):
            assert extract(mill, bench.window(number)).gaps == 0
            nothing_is_learned_or_judged(mill, bench, number)
        assert extract(mill, bench.window(5)).rows == 200
        first, last = (mill.repository.report(bench.window(n).key) for n in (0, 5))
        assert first is not None
        assert last is not None
        made = [mill.repository.candidate(last.lineage, bench.window(n).key) for n in range(6)]
        assert [one.since_retrain for one in made if one] == [1, 2, 3, 4, 5, 0]
        assert made[5] is not None
        assert made[5].kind == "retrain"
    oracle.check(bench)


@pytest.mark.parametrize("objective", ["regression", "multiclass"])
def test_an_empty_window_is_no_error_for_other_objectives(bench: Bench, objective: str) -> None:
    """Row 14."""
    classes = ["low", "high"] if objective == "multiclass" else []
    bench.define(objective=objective, classes=classes, label="size", fields={"price": "number"})
    labels: list[object] = [*classes] or [1.5, 8.0]
    for number in (-2, -1, 0, 2, 3):
        told = [{"price": i % 7, "size": labels[i % 7 > 3]} for i in range(120)]
        stamps = [stamp for stamp, _ in spread(60, 5 * number, 5 * number + 5)]
        for p in range(2):
            values = [json.dumps(one).encode() for one in told[p::2]]
            bench.put(p, [*zip(stamps, values, strict=True)])
    with bench.mill() as mill:
        run(mill, 0, 2)
        nothing_is_learned_or_judged(mill, bench, 1)
        assert extract(mill, bench.window(2)).rows == 120
    oracle.check(bench)


def test_an_empty_partition_takes_part_in_every_plan_without_offsets(bench: Bench) -> None:
    """Row 14: partition 1 never had a record, and the stream is closed by a person."""
    bench.put(0, spread(300, -10, 10))
    with bench.mill() as mill:
        close(mill, bench.window(1), "ada")
        run(mill, 0, 1)
        for number in range(2):
            made = mill.repository.plan(bench.window(number).key)
            assert made is not None
            assert [(r.partition, r.end - r.start) for r in made.ranges] == [(0, 75), (1, 0)]
            assert extract(mill, bench.window(number)).rows == 75
        assert at(10) == bench.window(1).end
    oracle.check(bench)
