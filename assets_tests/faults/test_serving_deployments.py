"""Deployments cut short, an alias moved, a ledger restored, all under the eyes of a server."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import pytest

import oracle
from bundle_mutations import deploy_windows, record_window, require_tracker, run_and_record_window
from ledger_tools import delete_ledger_topic
from load_generator import load_generator_for
from model_harness import ModelHarness, run_window
from prediction_server import PredictionServer, running_server
from processes import run_command, wait_until
from tidemill.adapters import mlflow
from tidemill.adapters.mlflow import MlflowTracker
from tidemill.cycle import deploy
from tidemill.cycle.context import ModelContext
from tidemill.cycle.restore import restore
from tidemill.cycle.tracking import find_drift
from worker_processes import KILLED, exit_code_of, failpoints_in, wait_for_failpoint, worker

pytestmark = pytest.mark.faults


@dataclass
class DeploymentScenario:
    """A model with a record in MLflow, its mill, and a server that follows its ledger."""

    harness: ModelHarness
    ctx: ModelContext
    server: PredictionServer
    tracker: MlflowTracker

    @property
    def head(self) -> str:
        """The digest that the ledger has in service."""
        head = self.ctx.chain().head
        assert head is not None
        return head.entry.digest

    def assert_follows(self) -> None:
        """The server comes to serve what the ledger says."""
        head = self.ctx.chain().head
        assert head is not None
        status = self.server.wait_for_status(version=head.entry.seq, stale=None)
        assert (status["digest"], status["last_failure"]) == (head.entry.digest, None)

    def assert_agreement(self) -> None:
        """Server, ledger and alias name one model, and MLflow has all of the record."""
        self.assert_follows()
        assert self.tracker.champion(self.harness.model) == self.head
        assert list(find_drift(self.ctx, self.tracker).descriptions) == []


@pytest.fixture
def scenario(harness: ModelHarness) -> Iterator[DeploymentScenario]:
    harness = replace(deploy_windows(harness), tracking=None)
    tracker = require_tracker(harness.settings)
    with harness.open_model() as ctx, running_server(harness) as server:
        record_window(ctx, harness.settings, 1)
        new_scenario = DeploymentScenario(harness, ctx, server, tracker)
        new_scenario.assert_agreement()
        yield new_scenario
        assert server.terminate() == 0


def test_killed_between_append_and_alias_all_come_to_agree(scenario: DeploymentScenario) -> None:
    """Row 24: the server follows the ledger at once, whatever else was not done; the next run does
    the rest."""
    places = sorted(
        failpoints_in([deploy.__file__, mlflow.__file__]) | {"entry.before", "entry.after"}
    )
    assert {"append.after", "version.before", "alias.before", "alias.after"} <= set(places)
    scenario.harness.produce_windows(8, 2 + len(places) + 1)
    with load_generator_for(scenario.server).running(4) as clients:
        for number, place in enumerate(places, 2):
            before = scenario.ctx.chain().entries
            does = partial(run_and_record_window, settings=scenario.harness.settings, number=number)
            assert exit_code_of(scenario.harness, does, f"{place}:kill") == KILLED, place
            scenario.assert_follows()
            stood = len(scenario.ctx.chain().entries) - len(before)
            assert stood == (place != "append.before"), place
            run_and_record_window(scenario.ctx, scenario.harness.settings, number)
            scenario.assert_agreement()
            assert len(scenario.ctx.chain().entries) == len(before) + 1, place
            assert scenario.ctx.chain().invalid_records == ()
    clients.assert_all_correct()
    oracle.assert_consistent(scenario.harness)


def test_an_alias_moved_behind_our_back_changes_nothing_that_is_served(
    scenario: DeploymentScenario,
) -> None:
    """Row 25: nor after a restart; `verify` tells it, and mends it on command."""
    bench, head = scenario.harness, scenario.head
    old = scenario.ctx.chain().entries[0].entry.digest
    scenario.tracker.set_champion(bench.model, old)
    with load_generator_for(scenario.server).running(4) as clients:
        told = run_command(bench.env, "tidemill", "verify", bench.model)
        assert told.returncode == 4
        assert f"stands at {old}, the ledger's head is {head}" in told.stderr
        with running_server(bench, name="again") as again:
            assert again.model_status()["digest"] == head
        assert scenario.tracker.champion(bench.model) == old
        told = run_command(bench.env, "tidemill", "verify", bench.model, "--repair")
        assert told.returncode == 0, told.stderr
        scenario.assert_agreement()
    clients.assert_all_correct()
    assert {digest for digest, _ in clients.first_answers.values()} == {head}
    oracle.assert_consistent(bench)


def test_a_server_keeps_its_model_while_the_ledger_is_lost_and_restored(
    harness: ModelHarness,
) -> None:
    """Decision 13: the old champions that come by again are not served, not even for a moment."""
    deploy_windows(harness, last=3)
    with harness.open_model() as mill:
        head = mill.chain().head
        assert head is not None
    served = {"digest": head.entry.digest, "version": head.entry.seq}
    with running_server(harness) as server:
        with load_generator_for(server).running(8, pause=0.01) as clients:
            delete_ledger_topic(harness)
            wait_until(
                lambda: "the ledger was not reached" in str(server.model_status()["stale"]), 60
            )
            with worker(harness, restore, "restore.after:sleep=3:3") as restoring:
                wait_for_failpoint(harness, "restore.after", 3)
                told = server.wait_for_status(ledger_version=2, **served)
                assert told["stale"] == f"the ledger has not reached entry {head.entry.seq} again"
                restoring.join(60)
                assert restoring.exitcode == 0
            server.wait_for_status(stale=None, ledger_version=head.entry.seq, **served)
            clients.assert_all_correct()
            assert clients.first_answers.keys() == {head.entry.seq}
            with harness.open_model() as mill:
                run_window(mill, 4)
            server.wait_for_status(version=head.entry.seq + 1, stale=None, last_failure=None)
        clients.assert_all_correct()
        assert server.metric("tidemill_swaps_total", model=harness.model) == 1
        assert "is another one; models stay as they are" in server.output()
    oracle.assert_consistent(harness)
