"""The ledger's topic recreated, cut or set to lose entries: writers stop, and all comes back."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import oracle
from bench import Bench, run, turn
from children import KILLED, outcome_of, places_in
from commands import command
from kept import kept, stamps
from ledger_hands import configure, cut, lose, over, records
from tidemill import bootstrap, failpoints
from tidemill.core.errors import LedgerLost, LedgerMisconfigured, TidemillError
from tidemill.cycle import restore as restoring
from tidemill.cycle.deploy import deploy
from tidemill.cycle.evaluate import evaluate
from tidemill.cycle.extract import extract
from tidemill.cycle.initial import initial
from tidemill.cycle.restore import restore
from tidemill.cycle.update import update
from tidemill.cycle.verify import verify

pytestmark = pytest.mark.faults

LAST = 2
LOSSES: dict[str, tuple[Callable[[Bench], None], int]] = {
    "recreated": (lose, 4),
    "cut in the middle": (lambda bench: cut(bench, records(bench)[2].offset), 4),
    "emptied": (lambda bench: cut(bench, -1), 4),
}
"""How the topic is lost, and how many entries have to be brought back then."""


@pytest.fixture
def four(bench: Bench) -> Bench:
    """A model whose ledger has entries 0 to 3, and that has one more to deploy."""
    bench.define(gate={"policy": "always"})
    bench.feed(-3, LAST + 3)
    with bench.mill() as mill:
        run(mill, 0, LAST)
        assert [s.entry.seq for s in mill.chain().entries] == [0, 1, 2, 3]
        window = bench.window(LAST + 1)
        for step in (extract, update, evaluate):
            step(mill, window)
    return bench


def stands(bench: Bench) -> list[bytes]:
    with bench.mill() as mill:
        return [standing.value for standing in mill.chain().entries]


def refused(bench: Bench, named: type[TidemillError], told: str) -> None:
    """The next deployment ends so, and nothing is written anywhere."""
    before, entries = stamps(bench), None
    with bench.mill() as mill:
        with pytest.raises(named, match=told):
            deploy(mill, bench.window(LAST + 1), True)
        if named is LedgerLost:
            entries = len(records(bench))
    assert stamps(bench) == before
    if entries is not None:
        assert len(records(bench)) == entries


def test_a_lost_ledger_stops_writers_and_is_brought_back_byte_for_byte(four: Bench) -> None:
    """Row 37, each way of losing it after the other, on one topic's name."""
    values = stands(four)
    for way, (harm, missing) in LOSSES.items():
        harm(four)
        refused(four, LedgerLost, f"tidemill ledger restore {four.model}")
        with four.mill() as mill:
            assert verify(mill).findings != [], way
            done = restore(mill)
            assert (done.entries, done.appended) == (4, missing), way
            assert done.moved == (harm is lose), way
            assert verify(mill).findings == [], way
            assert restore(mill).appended == 0, way
        assert stands(four) == values, way
        oracle.check(four)
    with four.mill() as mill:
        turn(mill, LAST + 1)
        assert len(mill.chain().entries) == 5
    oracle.check(four)


@pytest.mark.parametrize(
    ("setting", "value", "right"),
    [
        ("retention.ms", "604800000", "-1"),
        ("retention.bytes", "1000000000", "-1"),
        ("cleanup.policy", "compact", "delete"),
    ],
)
def test_a_ledger_that_may_lose_entries_stops_writers_until_it_is_set_right(
    bench: Bench, setting: str, value: str, right: str
) -> None:
    """Row 37."""
    bench.define(gate={"policy": "always"})
    bench.feed(-2, 1)
    with bench.mill() as mill:
        initial(mill)
        for step in (extract, update, evaluate):
            step(mill, bench.window(0))
    configure(bench, setting, value)
    before = stamps(bench)
    for ask in (lambda mill: deploy(mill, bench.window(0), True), restore):
        with bench.mill() as mill, pytest.raises(LedgerMisconfigured, match=f"{setting}={value}"):
            ask(mill)
    assert stamps(bench) == before
    configure(bench, setting, right)
    with bench.mill() as mill:
        assert deploy(mill, bench.window(0), True).status == "deployed"
    oracle.check(bench)


def test_killed_at_any_place_of_a_restore_the_next_one_finishes_it(four: Bench) -> None:
    """Row 37: no entry is doubled, none is void, and writers wait until it is done."""
    expected, reached = kept(four), []
    lose(four)
    failpoints.on_reached(reached.append)
    with four.mill() as mill:
        restore(mill)
    failpoints.on_reached(None)
    mine = [place for place in reached if place.startswith("restore.")]
    assert set(mine) == places_in([Path(restoring.__file__)])
    hits = [(place, hit) for place in sorted(set(mine)) for hit in {1, mine.count(place)}]
    for place, hit in [*hits, ("put.replaced", 1)]:
        lose(four)
        assert outcome_of(four, restore, f"{place}:kill:{hit}") == KILLED
        if place not in ("restore.moved", "put.replaced"):
            with four.mill() as mill, pytest.raises(LedgerLost):
                deploy(mill, four.window(LAST + 1), True)
        assert outcome_of(four, restore) == 0
        assert kept(four) == expected, place
        with four.mill() as mill:
            assert verify(mill).findings == []
    oracle.check(four)


def test_one_command_brings_every_model_of_a_shared_ledger_back(four: Bench) -> None:
    other = replace(four, model=f"{four.model}x")
    other.define(gate={"policy": "always"})
    other.create_topic()
    other.feed(-2, 0)
    with bootstrap.open_model(other.model, over(four, four.ledger)) as mill:
        initial(mill)
    values = [record.value for record in records(four)]
    assert len(values) == 5
    lose(four)
    done = command(four.environment, "tidemill", "ledger", "restore")
    assert done.returncode == 0, done.stderr
    assert f"{four.model}: 4 entries brought back, 4 stand in topic " in done.stdout
    assert f"{other.model}: 1 entries brought back, 1 stand in topic " in done.stdout
    assert sorted(record.value for record in records(four)) == sorted(values)
    again = command(four.environment, "tidemill", "ledger", "restore", four.model)
    assert again.stdout.strip() == f"{four.model}: nothing was lost, 4 entries stand."
    assert len(records(four)) == 5
