"""MLflow away, killed or altered: deployments stand, and the record is made up for."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from dagster_event_log import metadata, open_instance
from model_harness import ModelHarness, run_windows
from processes import clean_env, run_command
from tidemill import bootstrap
from tidemill.adapters import mlflow as adapter
from tidemill.adapters.mlflow import MlflowTracker
from tidemill.cycle.tracking import find_drift
from worker_processes import failpoints_in

pytestmark = pytest.mark.faults

RECORD = """
import sys
from tidemill import bootstrap
from tidemill.cycle.tracking import Recorder
from tidemill.settings import Settings
settings, model = Settings(), sys.argv[1]
with bootstrap.open_mill(model, settings) as mill:
    recorder = Recorder(mill, bootstrap.tracker(settings))
    recorder.window(mill.spec.calendar.after(mill.spec.calendar.first))
    recorder.deployments()
"""


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that has only been made, which takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    MlflowTracker(f"sqlite:///{folder}/mlflow.db", None, "", 10).versions("none")
    return folder / "mlflow.db"


def with_tracking(harness: ModelHarness, empty_database: Path) -> ModelHarness:
    """The same bench, with an empty record in its folder."""
    folder = harness.settings.mlflow_data
    folder.mkdir(exist_ok=True)
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    return replace(harness, tracking=None)


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
    """The windows that MLflow has a run of, however often; each run has ended."""
    experiment = client.get_experiment_by_name(harness.model)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    windows = [run for run in runs if "tidemill.window" in run.data.tags]
    assert {run.info.status for run in windows} == {"FINISHED"}
    return sorted(run.info.run_name for run in windows)


def test_a_backfill_is_one_run_and_its_windows_are_nested_once_with_a_way_there_and_back(
    harness: ModelHarness, empty_database: Path
) -> None:
    harness = with_tracking(harness, empty_database)
    harness.produce_windows(-1, 2)
    done = backfill(harness, 0, 1)
    backfill(harness, 0, 1)
    client = MlflowClient(require_tracker(harness).uri)
    windows = [harness.window(0).key, harness.window(1).key]
    assert recorded_windows(harness, client) == windows
    address = str(metadata(harness, "evaluation_report", windows[1])["mlflow"].value)
    found = client.get_run(address.rsplit("/", 1)[1])
    parent = client.get_run(found.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["dagster_run_id"] == done["run_id"]
    assert parent.info.status == "FINISHED"
    assert found.data.tags["tidemill.window"] == windows[1]
    assert found.data.tags["tidemill.offsets"].startswith("0:")
    with open_instance(harness) as instance:
        assert instance.get_run_by_id(found.data.tags["tidemill.dagster.run_id"]) is not None
    with harness.open_model() as mill:
        assert list(find_drift(mill, require_tracker(harness)).descriptions) == []


def test_mlflow_down_stops_no_deployment_a_check_says_so_and_the_next_run_makes_up_for_it(
    harness: ModelHarness, empty_database: Path
) -> None:
    down = replace(harness, tracking="http://127.0.0.1:1")
    harness.produce_windows(-1, 3)
    backfill(down, 0, 1)
    with harness.open_model() as mill:
        deployed = [standing.entry.digest for standing in mill.chain().entries]
        assert mill.repository.report(harness.window(1).key) is not None
    told = run_command(down.env, "tidemill", "verify", harness.model)
    assert told.returncode == 4
    assert "MLflow at http://127.0.0.1:1 did not" in told.stderr
    up = with_tracking(harness, empty_database)
    backfill(up, 2, 2)
    assert recorded_windows(up, MlflowClient(require_tracker(up).uri)) == [
        harness.window(n).key for n in range(3)
    ]
    assert set(require_tracker(up).versions(harness.model)) >= set(deployed)
    assert run_command(up.env, "tidemill", "verify", harness.model).returncode == 0


def test_an_alias_moved_behind_our_back_is_named_and_mended_on_command(
    harness: ModelHarness, empty_database: Path
) -> None:
    """Row 25, as far as the ledger goes: nobody follows the alias."""
    harness = with_tracking(harness, empty_database)
    harness.define(gate={"policy": "always"})
    harness.produce_windows(-1, 1)
    backfill(harness, 0, 0)
    tracker = require_tracker(harness)
    head = tracker.champion(harness.model)
    with harness.open_model() as mill:
        old = mill.chain().entries[0].entry.digest
        assert old != head
        tracker.set_champion(harness.model, old)
        told = run_command(harness.env, "tidemill", "verify", harness.model)
        assert told.returncode == 4
        assert f"stands at {old}, the ledger's head is {head}" in told.stderr
        assert tracker.champion(harness.model) == old
        told = run_command(harness.env, "tidemill", "verify", harness.model, "--repair")
        assert told.returncode == 0, told.stderr
        assert tracker.champion(harness.model) == head
        assert mill.chain().head is not None


def test_killed_at_any_step_of_the_record_the_next_one_completes_it(
    harness: ModelHarness, empty_database: Path
) -> None:
    """Row 24: between ledger append, version and alias."""
    harness.define(gate={"policy": "always"})
    harness.produce_windows(-1, 2)
    with harness.open_model() as mill:
        run_windows(mill, 0, 1)
    for place in sorted(failpoints_in([adapter.__file__])):
        harness = with_tracking(harness, empty_database)
        ends = [_run_record_script(harness, failpoints) for failpoints in (f"{place}:kill:1", "")]
        assert ends == [-9, 0], place
        tracker = require_tracker(harness)
        with harness.open_model() as mill:
            assert list(find_drift(mill, tracker).descriptions) == [], place
            assert len(tracker.versions(harness.model)) == len(mill.chain().entries)
        windows = [harness.window(0).key, harness.window(1).key]
        assert recorded_windows(harness, MlflowClient(tracker.uri)) == windows, place


def _run_record_script(harness: ModelHarness, failpoints: str) -> int:
    env = clean_env(harness.env | {"TIDEMILL_FAILPOINTS": failpoints})
    command = [sys.executable, "-c", RECORD, harness.model]
    return subprocess.run(command, env=env, timeout=120, check=False).returncode
