"""MLflow unavailable, killed or altered: deployments stay valid, and its record is completed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from support.dagster.event_log import metadata, open_instance
from support.models.harness import ModelHarness, run_windows
from support.processes.commands import clean_env, run_command
from support.processes.workers import failpoints_in
from tidemill import bootstrap
from tidemill.adapters.mlflow import tracker as adapter
from tidemill.adapters.mlflow.tracker import MlflowTracker
from tidemill.cycle.tracking import find_drift

pytestmark = pytest.mark.faults

RECORD_SCRIPT = """
import sys
from tidemill import bootstrap
from tidemill.cycle.tracking import Recorder
from tidemill.settings import Settings
settings = Settings()
with bootstrap.open_model(bootstrap.load_spec(sys.argv[1], settings), settings) as ctx:
    recorder = Recorder(ctx, bootstrap.make_tracker(settings))
    recorder.record_window(ctx.spec.calendar.after(ctx.spec.calendar.first))
    recorder.record_deployments()
"""


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A newly created database; creating it takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    MlflowTracker(f"sqlite:///{folder}/mlflow.db", None, "", 10).versions("none")
    return folder / "mlflow.db"


def with_tracking(harness: ModelHarness, empty_database: Path) -> ModelHarness:
    """The same harness with an empty MLflow database in its folder."""
    folder = harness.settings.mlflow_data
    folder.mkdir(exist_ok=True)
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    return replace(harness, tracking_uri=None)


def require_tracker(harness: ModelHarness) -> MlflowTracker:
    tracker = bootstrap.make_tracker(harness.settings)
    assert tracker is not None
    return tracker


def backfill(harness: ModelHarness, first: int, last: int) -> dict[str, str]:
    keys = harness.window(first).key, harness.window(last).key
    args = ("backfill", harness.model, "--from", keys[0], "--to", keys[1], "--json")
    result = run_command(harness.env, "tidemill", *args)
    assert result.returncode == 0, result.stdout + result.stderr
    output: dict[str, str] = json.loads(result.stdout)
    return output


def recorded_windows(harness: ModelHarness, client: MlflowClient) -> list[str]:
    """The windows of all MLflow runs, including duplicates; each run must have ended."""
    experiment = client.get_experiment_by_name(harness.model)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    windows = [run for run in runs if "tidemill.window" in run.data.tags]
    assert {run.info.status for run in windows} == {"FINISHED"}
    return sorted(run.info.run_name for run in windows)


def test_a_backfill_is_one_run_with_one_nested_run_per_window_linked_both_ways(
    harness: ModelHarness, empty_database: Path
) -> None:
    harness = with_tracking(harness, empty_database)
    harness.produce_windows(-1, 2)
    result = backfill(harness, 0, 1)
    backfill(harness, 0, 1)
    client = MlflowClient(require_tracker(harness).uri)
    windows = [harness.window(0).key, harness.window(1).key]
    assert recorded_windows(harness, client) == windows
    url = str(metadata(harness, "evaluation_report", windows[1])["mlflow"].value)
    run = client.get_run(url.rsplit("/", 1)[1])
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["dagster_run_id"] == result["run_id"]
    assert parent.info.status == "FINISHED"
    assert run.data.tags["tidemill.window"] == windows[1]
    assert run.data.tags["tidemill.offsets"].startswith("0:")
    with open_instance(harness) as instance:
        assert instance.get_run_by_id(run.data.tags["tidemill.dagster.run_id"]) is not None
    with harness.open_model() as ctx:
        assert list(find_drift(ctx, require_tracker(harness)).descriptions) == []


def test_an_mlflow_outage_stops_no_deployment_and_the_next_run_fills_the_gap(
    harness: ModelHarness, empty_database: Path
) -> None:
    down = replace(harness, tracking_uri="http://127.0.0.1:1")
    harness.produce_windows(-1, 3)
    backfill(down, 0, 1)
    with harness.open_model() as ctx:
        deployed = [each.entry.digest for each in ctx.chain().entries]
        assert ctx.repository.report(harness.window(1).key) is not None
    result = run_command(down.env, "tidemill", "verify", harness.model)
    assert result.returncode == 4
    assert "MLflow at http://127.0.0.1:1 could not" in result.stderr
    up = with_tracking(harness, empty_database)
    backfill(up, 2, 2)
    assert recorded_windows(up, MlflowClient(require_tracker(up).uri)) == [
        harness.window(n).key for n in range(3)
    ]
    assert set(require_tracker(up).versions(harness.model)) >= set(deployed)
    assert run_command(up.env, "tidemill", "verify", harness.model).returncode == 0


def test_an_alias_moved_by_hand_is_reported_and_repaired_on_command(
    harness: ModelHarness, empty_database: Path
) -> None:
    """Fault 25, without a server."""
    harness = with_tracking(harness, empty_database)
    harness.define(gate={"policy": "always"})
    harness.produce_windows(-1, 1)
    backfill(harness, 0, 0)
    tracker = require_tracker(harness)
    head = tracker.champion(harness.model)
    with harness.open_model() as ctx:
        old = ctx.chain().entries[0].entry.digest
        assert old != head
        tracker.set_champion(harness.model, old)
        result = run_command(harness.env, "tidemill", "verify", harness.model)
        assert result.returncode == 4
        assert f"points to {old}, but the ledger's head is {head}" in result.stderr
        assert tracker.champion(harness.model) == old
        result = run_command(harness.env, "tidemill", "verify", harness.model, "--repair")
        assert result.returncode == 0, result.stderr
        assert tracker.champion(harness.model) == head
        assert ctx.chain().head is not None


def test_a_recording_killed_at_any_failpoint_is_completed_by_the_next_one(
    harness: ModelHarness, empty_database: Path
) -> None:
    """Fault 24: between ledger append, version and alias."""
    harness.define(gate={"policy": "always"})
    harness.produce_windows(-1, 2)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 1)
    for failpoint in sorted(failpoints_in([adapter.__file__])):
        harness = with_tracking(harness, empty_database)
        exit_codes = [_run_record_script(harness, spec) for spec in (f"{failpoint}:kill:1", "")]
        assert exit_codes == [-9, 0], failpoint
        tracker = require_tracker(harness)
        with harness.open_model() as ctx:
            assert list(find_drift(ctx, tracker).descriptions) == [], failpoint
            assert len(tracker.versions(harness.model)) == len(ctx.chain().entries)
        windows = [harness.window(0).key, harness.window(1).key]
        assert recorded_windows(harness, MlflowClient(tracker.uri)) == windows, failpoint


def _run_record_script(harness: ModelHarness, failpoint_spec: str) -> int:
    env = clean_env(harness.env | {"TIDEMILL_FAILPOINTS": failpoint_spec})
    command = [sys.executable, "-c", RECORD_SCRIPT, harness.model]
    return subprocess.run(command, env=env, timeout=120, check=False).returncode
