"""Interrupted deployments, a moved alias and a restored ledger while a server follows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import pytest

from faults.deployments import deploy_windows, record_window, require_tracker, run_and_record_window
from support.kafka.ledgers import delete_ledger_topic
from support.models import oracle
from support.models.harness import ModelHarness, run_window
from support.processes.commands import run_command, wait_until
from support.processes.workers import (
    KILLED,
    exit_code_of,
    failpoints_in,
    wait_for_failpoint,
    worker,
)
from support.serving.load_generator import load_generator_for
from support.serving.prediction_server import PredictionServer, running_server
from tidemill.adapters.mlflow import tracker as mlflow_tracker
from tidemill.adapters.mlflow.tracker import MlflowTracker
from tidemill.cycle import ledger
from tidemill.cycle.context import ModelContext
from tidemill.cycle.operations.restore import restore
from tidemill.cycle.tracking import find_drift

pytestmark = pytest.mark.faults


@dataclass
class DeploymentScenario:
    """A model recorded in MLflow, its context, and a server that follows its ledger."""

    harness: ModelHarness
    ctx: ModelContext
    server: PredictionServer
    tracker: MlflowTracker

    @property
    def head(self) -> str:
        """The digest of the ledger's head."""
        head = self.ctx.chain().head
        assert head is not None
        return head.entry.digest

    def assert_follows(self) -> None:
        """Wait until the server serves the ledger's head."""
        head = self.ctx.chain().head
        assert head is not None
        status = self.server.wait_for_status(version=head.entry.seq, stale=None)
        assert (status["digest"], status["last_failure"]) == (head.entry.digest, None)

    def assert_agreement(self) -> None:
        """Assert that server, ledger and alias agree, and that MLflow has the complete record."""
        self.assert_follows()
        assert self.tracker.champion(self.harness.model) == self.head
        assert list(find_drift(self.ctx, self.tracker).descriptions) == []


@pytest.fixture
def scenario(harness: ModelHarness) -> Iterator[DeploymentScenario]:
    harness = replace(deploy_windows(harness), tracking_uri=None)
    tracker = require_tracker(harness.settings)
    with harness.open_model() as ctx, running_server(harness) as server:
        record_window(ctx, harness.settings, 1)
        new_scenario = DeploymentScenario(harness, ctx, server, tracker)
        new_scenario.assert_agreement()
        yield new_scenario
        assert server.terminate() == 0


def test_a_deployment_killed_between_append_and_alias_reaches_agreement(
    scenario: DeploymentScenario,
) -> None:
    """Fault 24: the server follows the ledger at once; the next run completes the rest."""
    failpoints = sorted(
        failpoints_in([ledger.__file__, mlflow_tracker.__file__]) | {"entry.before", "entry.after"}
    )
    assert {"append.after", "version.before", "alias.before", "alias.after"} <= set(failpoints)
    scenario.harness.produce_windows(8, 2 + len(failpoints) + 1)
    with load_generator_for(scenario.server).running(4) as clients:
        for number, failpoint in enumerate(failpoints, 2):
            before = scenario.ctx.chain().entries
            target = partial(
                run_and_record_window, settings=scenario.harness.settings, number=number
            )
            assert exit_code_of(scenario.harness, target, f"{failpoint}:kill") == KILLED, failpoint
            scenario.assert_follows()
            appended = len(scenario.ctx.chain().entries) - len(before)
            assert appended == (failpoint != "append.before"), failpoint
            run_and_record_window(scenario.ctx, scenario.harness.settings, number)
            scenario.assert_agreement()
            assert len(scenario.ctx.chain().entries) == len(before) + 1, failpoint
            assert scenario.ctx.chain().invalid_records == ()
    clients.assert_all_correct()
    oracle.assert_consistent(scenario.harness)


def test_an_alias_moved_by_hand_changes_nothing_that_is_served(
    scenario: DeploymentScenario,
) -> None:
    """Fault 25: not even after a restart; `verify` reports it and repairs it on command."""
    harness, head = scenario.harness, scenario.head
    old = scenario.ctx.chain().entries[0].entry.digest
    scenario.tracker.set_champion(harness.model, old)
    with load_generator_for(scenario.server).running(4) as clients:
        result = run_command(harness.env, "tidemill", "verify", harness.model)
        assert result.returncode == 4
        assert f"points to {old}, but the ledger's head is {head}" in result.stderr
        with running_server(harness, name="again") as second:
            assert second.model_status()["digest"] == head
        assert scenario.tracker.champion(harness.model) == old
        result = run_command(harness.env, "tidemill", "verify", harness.model, "--repair")
        assert result.returncode == 0, result.stderr
        scenario.assert_agreement()
    clients.assert_all_correct()
    assert {digest for digest, _ in clients.first_answers.values()} == {head}
    oracle.assert_consistent(harness)


def test_a_server_keeps_its_model_while_the_ledger_is_lost_and_restored(
    harness: ModelHarness,
) -> None:
    """Fault 37: former champions that reappear during the restore are never served."""
    deploy_windows(harness, last=3)
    with harness.open_model() as ctx:
        head = ctx.chain().head
        assert head is not None
    served = {"digest": head.entry.digest, "version": head.entry.seq}
    with running_server(harness) as server:
        with load_generator_for(server).running(8, interval=0.01) as clients:
            delete_ledger_topic(harness)
            wait_until(
                lambda: "the ledger was not reached" in str(server.model_status()["stale"]), 60
            )
            with worker(harness, restore, "restore.after:sleep=3:3") as restoring:
                wait_for_failpoint(harness, "restore.after", 3)
                status = server.wait_for_status(ledger_version=2, **served)
                assert status["stale"] == f"the ledger has not reached entry {head.entry.seq} again"
                restoring.join(60)
                assert restoring.exitcode == 0
            server.wait_for_status(stale=None, ledger_version=head.entry.seq, **served)
            clients.assert_all_correct()
            assert clients.first_answers.keys() == {head.entry.seq}
            with harness.open_model() as ctx:
                run_window(ctx, 4)
            server.wait_for_status(version=head.entry.seq + 1, stale=None, last_failure=None)
        clients.assert_all_correct()
        assert server.metric("tidemill_swaps_total", model=harness.model) == 1
        assert "The ledger topic was replaced; the models in service are kept." in server.output()
    oracle.assert_consistent(harness)
