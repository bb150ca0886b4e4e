"""The ledger's topic is recreated, truncated or misconfigured: writers stop, all is restored."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from faults.ledgers import delete_records_before, ledger_records, settings_with_ledger
from support.kafka.clients import set_topic_config
from support.kafka.ledgers import delete_ledger_topic
from support.models import oracle
from support.models.harness import ModelHarness, run_window, run_windows
from support.models.store_snapshot import file_stamps, take_snapshot
from support.processes.commands import run_command
from support.processes.workers import KILLED, exit_code_of, failpoints_in
from tidemill import bootstrap, failpoints
from tidemill.core.errors import LedgerLost, LedgerMisconfigured, TidemillError
from tidemill.cycle.audit.verify import verify
from tidemill.cycle.operations import restore as restore_module
from tidemill.cycle.operations.restore import restore
from tidemill.cycle.steps.deploy import deploy
from tidemill.cycle.steps.evaluate import evaluate
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.initial import initial
from tidemill.cycle.steps.update import update

pytestmark = pytest.mark.faults

LAST = 2
LOSSES: dict[str, tuple[Callable[[ModelHarness], None], int]] = {
    "recreated": (delete_ledger_topic, 4),
    "truncated in the middle": (
        lambda harness: delete_records_before(harness, ledger_records(harness)[2].offset),
        4,
    ),
    "emptied": (lambda harness: delete_records_before(harness, -1), 4),
}
"""How the ledger is lost, and how many entries must be restored."""


@pytest.fixture
def four_entries(harness: ModelHarness) -> ModelHarness:
    """A model with ledger entries 0 to 3 and one more window to deploy."""
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
    """Assert that the next deployment fails with this error and writes nothing."""
    before, entries = file_stamps(harness), None
    with harness.open_model() as ctx:
        with pytest.raises(error_type, match=message):
            deploy(ctx, harness.window(LAST + 1), True)
        if error_type is LedgerLost:
            entries = len(ledger_records(harness))
    assert file_stamps(harness) == before
    if entries is not None:
        assert len(ledger_records(harness)) == entries


def test_a_lost_ledger_stops_writers_and_is_restored_byte_for_byte(
    four_entries: ModelHarness,
) -> None:
    """Fault 37: each kind of loss in turn, with the same topic name."""
    values = valid_values(four_entries)
    for loss, (lose_ledger, missing) in LOSSES.items():
        lose_ledger(four_entries)
        assert_deploy_fails(
            four_entries, LedgerLost, f"tidemill ledger restore {four_entries.model}"
        )
        with four_entries.open_model() as ctx:
            assert verify(ctx).findings != [], loss
            result = restore(ctx)
            assert (result.entries, result.appended) == (4, missing), loss
            assert result.moved == (lose_ledger is delete_ledger_topic), loss
            assert verify(ctx).findings == [], loss
            assert restore(ctx).appended == 0, loss
        assert valid_values(four_entries) == values, loss
        oracle.assert_consistent(four_entries)
    with four_entries.open_model() as ctx:
        run_window(ctx, LAST + 1)
        assert len(ctx.chain().entries) == 5
    oracle.assert_consistent(four_entries)


@pytest.mark.parametrize(
    ("setting", "value", "correct"),
    [
        ("retention.ms", "604800000", "-1"),
        ("retention.bytes", "1000000000", "-1"),
        ("cleanup.policy", "compact", "delete"),
    ],
)
def test_a_misconfigured_ledger_topic_stops_writers_until_it_is_corrected(
    harness: ModelHarness, setting: str, value: str, correct: str
) -> None:
    """Fault 37."""
    harness.define(gate={"policy": "always"})
    harness.produce_windows(-2, 1)
    with harness.open_model() as ctx:
        initial(ctx)
        for step in (extract, update, evaluate):
            step(ctx, harness.window(0))
    set_topic_config(harness.bootstrap_servers, harness.ledger, setting, value)
    before = file_stamps(harness)
    for write in (lambda ctx: deploy(ctx, harness.window(0), True), restore):
        with (
            harness.open_model() as ctx,
            pytest.raises(LedgerMisconfigured, match=f"{setting}={value}"),
        ):
            write(ctx)
    assert file_stamps(harness) == before
    set_topic_config(harness.bootstrap_servers, harness.ledger, setting, correct)
    with harness.open_model() as ctx:
        assert deploy(ctx, harness.window(0), True).status == "deployed"
    oracle.assert_consistent(harness)


def test_a_restore_killed_at_any_failpoint_is_finished_by_the_next_one(
    four_entries: ModelHarness,
) -> None:
    """Fault 37: no entry is duplicated or invalid, and writers stop until it is finished."""
    expected, reached = take_snapshot(four_entries), []
    delete_ledger_topic(four_entries)
    failpoints.on_reached(reached.append)
    with four_entries.open_model() as ctx:
        restore(ctx)
    failpoints.on_reached(None)
    own_failpoints = [name for name in reached if name.startswith("restore.")]
    assert set(own_failpoints) == failpoints_in([Path(restore_module.__file__)])
    hits = [
        (name, hit)
        for name in sorted(set(own_failpoints))
        for hit in {1, own_failpoints.count(name)}
    ]
    for name, hit in [*hits, ("put.replaced", 1)]:
        delete_ledger_topic(four_entries)
        assert exit_code_of(four_entries, restore, f"{name}:kill:{hit}") == KILLED
        if name not in ("restore.moved", "put.replaced"):
            with four_entries.open_model() as ctx, pytest.raises(LedgerLost):
                deploy(ctx, four_entries.window(LAST + 1), True)
        assert exit_code_of(four_entries, restore) == 0
        assert take_snapshot(four_entries) == expected, name
        with four_entries.open_model() as ctx:
            assert verify(ctx).findings == []
    oracle.assert_consistent(four_entries)


def test_one_command_restores_every_model_of_a_shared_ledger(four_entries: ModelHarness) -> None:
    other = replace(four_entries, model=f"{four_entries.model}x")
    other.define(gate={"policy": "always"})
    other.create_topic()
    other.produce_windows(-2, 0)
    with bootstrap.open_model(
        other.load_spec(), settings_with_ledger(four_entries, four_entries.ledger)
    ) as ctx:
        initial(ctx)
    values = [record.value for record in ledger_records(four_entries)]
    assert len(values) == 5
    delete_ledger_topic(four_entries)
    result = run_command(four_entries.env, "tidemill", "ledger", "restore")
    assert result.returncode == 0, result.stderr
    assert f"{four_entries.model}: 4 entries restored, 4 valid in topic " in result.stdout
    assert f"{other.model}: 1 entries restored, 1 valid in topic " in result.stdout
    assert sorted(record.value for record in ledger_records(four_entries)) == sorted(values)
    second = run_command(four_entries.env, "tidemill", "ledger", "restore", four_entries.model)
    assert second.stdout.strip() == f"{four_entries.model}: nothing was lost, 4 valid entries."
    assert len(ledger_records(four_entries)) == 5
