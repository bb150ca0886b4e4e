"""Rows 10 and 38 gone on with: `adopt` over real Kafka, killed wherever it commits anything."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

import oracle
from bench import SPEC, Bench, run, turn
from children import KILLED, outcome_of, places_in, words
from commands import command
from kept import kept
from log_hands import recreate
from tidemill import failpoints
from tidemill.core.errors import LineageChanged, TopicRecreated
from tidemill.core.records import Candidate
from tidemill.cycle import adopt as adopting
from tidemill.cycle.adopt import adopt
from tidemill.cycle.extract import extract
from tidemill.cycle.restore import restore
from tidemill.cycle.update import require_candidate
from tidemill.cycle.verify import verify

NEXT = 3
"""Windows 0 to 2 are done; this is the first that is not planned."""
WHY = ("--why", "the shop was rebuilt", "--by", "ada")
SEED = SPEC["learner"] | {"seed": 7}


def adopted(bench: Bench, *more: str) -> dict[str, object]:
    """What `tidemill adopt` says in a process of its own."""
    words_ = ("adopt", bench.model, "--from", bench.window(NEXT).key, *WHY, "--json", *more)
    done = command(bench.environment, "tidemill", *words_)
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    return told


def made(bench: Bench, number: int) -> Candidate:
    with bench.mill() as mill:
        return require_candidate(mill, bench.window(number))


@pytest.mark.faults
@pytest.mark.parametrize("last", [NEXT + 1, NEXT + 6], ids=["fewer", "more"])
def test_a_recreated_topic_is_gone_on_with_in_another_epoch(
    bench: Bench, kafka_folder: Path, last: int
) -> None:
    """Row 10: the old one held windows -3 to 4; the line goes on."""
    bench.feed(-3, 4)
    with bench.mill() as mill:
        run(mill, 0, NEXT - 1)
    recreate(bench)
    bench.feed(1, last, rows=160, seed=1)
    with bench.mill() as mill, pytest.raises(TopicRecreated, match="tidemill adopt"):
        extract(mill, bench.window(NEXT))
    told = adopted(bench)
    assert (told["epoch"], told["moved"], told["learning"]) == (1, True, [])
    assert adopted(bench)["number"] == told["number"] == 1
    with bench.mill() as mill:
        turn(mill, NEXT)
        planned = mill.repository.plan(bench.window(NEXT).key)
        assert planned is not None
        assert planned.offset_ranges == {0: (160, 240), 1: (160, 240)}
        assert [s.entry.kind for s in mill.chain().entries].count("adopt") == 1
    assert made(bench, NEXT).lineage == made(bench, NEXT - 1).lineage
    found = oracle.check(bench)
    assert len(found.taken_as_archived) == 1 + NEXT  # the old topic's windows, and its history
    assert oracle.check_against_the_log(bench, kafka_folder) == 160


def test_a_changed_spec_and_another_topic_at_once_begin_a_line_and_an_epoch(
    bench: Bench, kafka_folder: Path
) -> None:
    """Rows 10 and 38."""
    bench.feed(-3, 4)
    with bench.mill() as mill:
        run(mill, 0, NEXT - 1)
    recreate(bench)
    bench.feed(NEXT - 1, NEXT + 1)
    bench.define(learner=SEED, fields={"country": "category", "price": "number"})
    with bench.mill() as mill, pytest.raises(LineageChanged, match=r"`fields\.visits`, `learner"):
        extract(mill, bench.window(NEXT))
    told = adopted(bench)
    assert (told["learning"], told["epoch"]) == (["fields.visits", "learner.seed"], 1)
    with bench.mill() as mill:
        run(mill, 0, NEXT)  # and all that is done again is a no-op
    first = made(bench, NEXT)
    assert (first.kind, first.parent) == ("retrain", made(bench, NEXT - 1).digest)
    assert first.lineage == told["line"]
    oracle.check(bench)
    assert oracle.check_against_the_log(bench, kafka_folder) == 200


@pytest.mark.faults
def test_a_wrong_window_or_an_unchanged_model_is_refused_by_the_command(bench: Bench) -> None:
    bench.feed(-1, 1)
    with bench.mill() as mill:
        run(mill, 0, 0)
    before = kept(bench)
    for key, changes, said in (
        (bench.window(1).key, {}, "nothing to adopt"),
        (bench.window(0).key, {"learner": SEED}, f"--from {bench.window(1)} --why"),
        (bench.window(1).key, {"label": "paid"}, "a new name"),
    ):
        bench.define(**changes)
        done = command(bench.environment, "tidemill", "adopt", bench.model, "--from", key, *WHY)
        assert done.returncode == 1
        assert "Refused: " in done.stderr
        assert said in " ".join(done.stderr.split())
    assert kept(bench) == before


def copied(bench: Bench, name: str) -> Bench:
    """A twin with all that the bench has, its ledger brought into a topic of its own."""
    twin = bench.twin(name)
    shutil.copytree(bench.settings.store, twin.settings.store)
    with twin.mill() as mill:
        restore(mill)
    return twin


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_killed_at_any_place_twice_a_repeat_finishes_it_and_it_was_adopted_once(
    bench: Bench,
) -> None:
    bench.feed(-2, 2)
    with bench.mill() as mill:
        run(mill, 0, NEXT - 2)
    recreate(bench)
    bench.feed(0, 4)
    bench.define(learner=SEED)
    undone = copied(bench, "undone")
    window = bench.window(NEXT - 1)
    go_on = partial(adopt, window=window, actor="ada", reason="the shop was rebuilt")
    reached: list[str] = []
    failpoints.on_reached(reached.append)
    with bench.mill() as mill:
        go_on(mill)
    failpoints.on_reached(None)
    expected, kills = kept(bench), 0
    own = places_in([Path(adopting.__file__)]) | {"adoption.before", "adoption.after"}
    assert own | {"append.before", "append.after", "entry.before", "put.linked"} <= set(reached)
    for place in sorted(set(reached)):
        for hit in range(1, reached.count(place) + 1):
            twin = copied(undone, f"{place}.{hit}")
            assert outcome_of(twin, go_on, f"{place}:kill:{hit}") == KILLED
            kills += 1 + (outcome_of(twin, go_on, f"{place}:kill") == KILLED)
            assert outcome_of(twin, go_on) == 0, words(twin)
            assert kept(twin) == expected, place
            with twin.mill() as mill:
                assert verify(mill).findings == []
    assert kills >= len(reached)
    with bench.mill() as mill:
        turn(mill, NEXT - 1)
    oracle.check(bench)
    print(f"{kills} kills at {len(reached)} points of {len(set(reached))} places")
