"""The ledger's topic recreated, cut or set to lose entries: writers stop, and all comes back."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import oracle
from ledger_tools import (
    delete_ledger_topic,
    delete_records_before,
    ledger_records,
    set_topic_config,
    settings_with_ledger,
)
from model_harness import ModelHarness, run_window, run_windows
from processes import run_command
from store_snapshot import file_stamps, take_snapshot
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
from worker_processes import KILLED, exit_code_of, failpoints_in

pytestmark = pytest.mark.faults

LAST = 2
LOSSES: dict[str, tuple[Callable[[ModelHarness], None], int]] = {
    "recreated": (delete_ledger_topic, 4),
    "cut in the middle": (
        lambda bench: delete_records_before(bench, ledger_records(bench)[2].offset),
        4,
    ),
    "emptied": (lambda bench: delete_records_before(bench, -1), 4),
}
"""How the topic is lost, and how many entries have to be brought back then."""


@pytest.fixture
def four_entries(harness: ModelHarness) -> ModelHarness:
    """A model whose ledger has entries 0 to 3, and that has one more to deploy."""
    harness.define(gate={"policy": "always"})
    harness.produce_windows(-3, LAST + 3)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, LAST)
        assert [s.entry.seq for s in ctx.chain().entries] == [0, 1, 2, 3]
        window = harness.window(LAST + 1)
        for step in (extract, update, evaluate):
            step(ctx, window)
    return harness


def valid_values(harness: ModelHarness) -> list[bytes]:
    with harness.open_model() as ctx:
        return [entry.value for entry in ctx.chain().entries]


def assert_deploy_fails(
    harness: ModelHarness, error_type: type[TidemillError], message: str
) -> None:
    """The next deployment ends so, and nothing is written anywhere."""
    before, entries = file_stamps(harness), None
    with harness.open_model() as ctx:
        with pytest.raises(error_type, match=message):
            deploy(ctx, harness.window(LAST + 1), True)
        if error_type is LedgerLost:
            entries = len(ledger_records(harness))
    assert file_stamps(harness) == before
    if entries is not None:
        assert len(ledger_records(harness)) == entries


def test_a_lost_ledger_stops_writers_and_is_brought_back_byte_for_byte(
    four_entries: ModelHarness,
) -> None:
    """Row 37, each way of losing it after the other, on one topic's name."""
    values = valid_values(four_entries)
    for way, (harm, missing) in LOSSES.items():
        harm(four_entries)
        assert_deploy_fails(
            four_entries, LedgerLost, f"tidemill ledger restore {four_entries.model}"
        )
        with four_entries.open_model() as mill:
            assert verify(mill).findings != [], way
            done = restore(mill)
            assert (done.entries, done.appended) == (4, missing), way
            assert done.moved == (harm is delete_ledger_topic), way
            assert verify(mill).findings == [], way
            assert restore(mill).appended == 0, way
        assert valid_values(four_entries) == values, way
        oracle.assert_consistent(four_entries)
    with four_entries.open_model() as mill:
        run_window(mill, LAST + 1)
        assert len(mill.chain().entries) == 5
    oracle.assert_consistent(four_entries)


@pytest.mark.parametrize(
    ("setting", "value", "right"),
    [
        ("retention.ms", "604800000", "-1"),
        ("retention.bytes", "1000000000", "-1"),
        ("cleanup.policy", "compact", "delete"),
    ],
)
def test_a_ledger_that_may_lose_entries_stops_writers_until_it_is_set_right(
    harness: ModelHarness, setting: str, value: str, right: str
) -> None:
    """Row 37."""
    harness.define(gate={"policy": "always"})
    harness.produce_windows(-2, 1)
    with harness.open_model() as mill:
        initial(mill)
        for step in (extract, update, evaluate):
            step(mill, harness.window(0))
    set_topic_config(harness, setting, value)
    before = file_stamps(harness)
    for ask in (lambda mill: deploy(mill, harness.window(0), True), restore):
        with (
            harness.open_model() as mill,
            pytest.raises(LedgerMisconfigured, match=f"{setting}={value}"),
        ):
            ask(mill)
    assert file_stamps(harness) == before
    set_topic_config(harness, setting, right)
    with harness.open_model() as mill:
        assert deploy(mill, harness.window(0), True).status == "deployed"
    oracle.assert_consistent(harness)


def test_killed_at_any_place_of_a_restore_the_next_one_finishes_it(
    four_entries: ModelHarness,
) -> None:
    """Row 37: no entry is doubled, none is void, and writers wait until it is done."""
    expected, reached = take_snapshot(four_entries), []
    delete_ledger_topic(four_entries)
    failpoints.on_reached(reached.append)
    with four_entries.open_model() as mill:
        restore(mill)
    failpoints.on_reached(None)
    mine = [place for place in reached if place.startswith("restore.")]
    assert set(mine) == failpoints_in([Path(restoring.__file__)])
    hits = [(place, hit) for place in sorted(set(mine)) for hit in {1, mine.count(place)}]
    for place, hit in [*hits, ("put.replaced", 1)]:
        delete_ledger_topic(four_entries)
        assert exit_code_of(four_entries, restore, f"{place}:kill:{hit}") == KILLED
        if place not in ("restore.moved", "put.replaced"):
            with four_entries.open_model() as mill, pytest.raises(LedgerLost):
                deploy(mill, four_entries.window(LAST + 1), True)
        assert exit_code_of(four_entries, restore) == 0
        assert take_snapshot(four_entries) == expected, place
        with four_entries.open_model() as mill:
            assert verify(mill).findings == []
    oracle.assert_consistent(four_entries)


def test_one_command_brings_every_model_of_a_shared_ledger_back(four_entries: ModelHarness) -> None:
    other = replace(four_entries, model=f"{four_entries.model}x")
    other.define(gate={"policy": "always"})
    other.create_topic()
    other.produce_windows(-2, 0)
    with bootstrap.open_model(
        other.model, settings_with_ledger(four_entries, four_entries.ledger)
    ) as mill:
        initial(mill)
    values = [record.value for record in ledger_records(four_entries)]
    assert len(values) == 5
    delete_ledger_topic(four_entries)
    done = run_command(four_entries.env, "tidemill", "ledger", "restore")
    assert done.returncode == 0, done.stderr
    assert f"{four_entries.model}: 4 entries brought back, 4 stand in topic " in done.stdout
    assert f"{other.model}: 1 entries brought back, 1 stand in topic " in done.stdout
    assert sorted(record.value for record in ledger_records(four_entries)) == sorted(values)
    again = run_command(four_entries.env, "tidemill", "ledger", "restore", four_entries.model)
    assert again.stdout.strip() == f"{four_entries.model}: nothing was lost, 4 entries stand."
    assert len(ledger_records(four_entries)) == 5
