"""MLflow away, killed or altered: deployments stand, and the record is made up for."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from bench import Bench, run
from children import places_in
from commands import command, environ
from event_log import instance_of, metadata
from tidemill import bootstrap
from tidemill.adapters import mlflow as adapter
from tidemill.adapters.mlflow import MlflowTracker
from tidemill.cycle.record import find_drift

pytestmark = pytest.mark.faults

RECORD = """
import sys
from tidemill import bootstrap
from tidemill.cycle.record import Recorder
from tidemill.settings import Settings
settings, model = Settings(), sys.argv[1]
with bootstrap.open_mill(model, settings) as mill:
    recorder = Recorder(mill, bootstrap.tracker(settings))
    recorder.window(mill.spec.calendar.after(mill.spec.calendar.first))
    recorder.deployments()
"""


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that has only been made, which takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    MlflowTracker(f"sqlite:///{folder}/mlflow.db", None, "", 10).versions("none")
    return folder / "mlflow.db"


def recorded(bench: Bench, empty: Path) -> Bench:
    """The same bench, with an empty record in its folder."""
    folder = bench.settings.mlflow_data
    folder.mkdir(exist_ok=True)
    (folder / "mlflow.db").write_bytes(empty.read_bytes())
    return replace(bench, tracking=None)


def tracker_of(bench: Bench) -> MlflowTracker:
    made = bootstrap.make_tracker(bench.settings)
    assert made is not None
    return made


def backfill(bench: Bench, first: int, last: int) -> dict[str, str]:
    keys = bench.window(first).key, bench.window(last).key
    words = ("backfill", bench.model, "--from", keys[0], "--to", keys[1], "--json")
    done = command(bench.environment, "tidemill", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, str] = json.loads(done.stdout)
    return told


def nested(bench: Bench, client: MlflowClient) -> list[str]:
    """The windows that MLflow has a run of, however often; each run has ended."""
    experiment = client.get_experiment_by_name(bench.model)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    windows = [run for run in runs if "tidemill.window" in run.data.tags]
    assert {run.info.status for run in windows} == {"FINISHED"}
    return sorted(run.info.run_name for run in windows)


def test_a_backfill_is_one_run_and_its_windows_are_nested_once_with_a_way_there_and_back(
    bench: Bench, empty: Path
) -> None:
    bench = recorded(bench, empty)
    bench.feed(-1, 2)
    done = backfill(bench, 0, 1)
    backfill(bench, 0, 1)
    client = MlflowClient(tracker_of(bench).uri)
    windows = [bench.window(0).key, bench.window(1).key]
    assert nested(bench, client) == windows
    address = str(metadata(bench, "evaluation_report", windows[1])["mlflow"].value)
    found = client.get_run(address.rsplit("/", 1)[1])
    parent = client.get_run(found.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["dagster_run_id"] == done["run_id"]
    assert parent.info.status == "FINISHED"
    assert found.data.tags["tidemill.window"] == windows[1]
    assert found.data.tags["tidemill.offsets"].startswith("0:")
    with instance_of(bench) as instance:
        assert instance.get_run_by_id(found.data.tags["tidemill.dagster.run_id"]) is not None
    with bench.mill() as mill:
        assert list(find_drift(mill, tracker_of(bench)).descriptions) == []


def test_mlflow_down_stops_no_deployment_a_check_says_so_and_the_next_run_makes_up_for_it(
    bench: Bench, empty: Path
) -> None:
    down = replace(bench, tracking="http://127.0.0.1:1")
    bench.feed(-1, 3)
    backfill(down, 0, 1)
    with bench.mill() as mill:
        deployed = [standing.entry.digest for standing in mill.chain().entries]
        assert mill.repository.report(bench.window(1).key) is not None
    told = command(down.environment, "tidemill", "verify", bench.model)
    assert told.returncode == 4
    assert "MLflow at http://127.0.0.1:1 did not" in told.stderr
    up = recorded(bench, empty)
    backfill(up, 2, 2)
    assert nested(up, MlflowClient(tracker_of(up).uri)) == [bench.window(n).key for n in range(3)]
    assert set(tracker_of(up).versions(bench.model)) >= set(deployed)
    assert command(up.environment, "tidemill", "verify", bench.model).returncode == 0


def test_an_alias_moved_behind_our_back_is_named_and_mended_on_command(
    bench: Bench, empty: Path
) -> None:
    """Row 25, as far as the ledger goes: nobody follows the alias."""
    bench = recorded(bench, empty)
    bench.define(gate={"policy": "always"})
    bench.feed(-1, 1)
    backfill(bench, 0, 0)
    tracker = tracker_of(bench)
    head = tracker.champion(bench.model)
    with bench.mill() as mill:
        old = mill.chain().entries[0].entry.digest
        assert old != head
        tracker.set_champion(bench.model, old)
        told = command(bench.environment, "tidemill", "verify", bench.model)
        assert told.returncode == 4
        assert f"stands at {old}, the ledger's head is {head}" in told.stderr
        assert tracker.champion(bench.model) == old
        told = command(bench.environment, "tidemill", "verify", bench.model, "--repair")
        assert told.returncode == 0, told.stderr
        assert tracker.champion(bench.model) == head
        assert mill.chain().head is not None


def test_killed_at_any_step_of_the_record_the_next_one_completes_it(
    bench: Bench, empty: Path
) -> None:
    """Row 24: between ledger append, version and alias."""
    bench.define(gate={"policy": "always"})
    bench.feed(-1, 2)
    with bench.mill() as mill:
        run(mill, 0, 1)
    for place in sorted(places_in([adapter.__file__])):
        bench = recorded(bench, empty)
        ends = [_record(bench, failpoints) for failpoints in (f"{place}:kill:1", "")]
        assert ends == [-9, 0], place
        tracker = tracker_of(bench)
        with bench.mill() as mill:
            assert list(find_drift(mill, tracker).descriptions) == [], place
            assert len(tracker.versions(bench.model)) == len(mill.chain().entries)
        windows = [bench.window(0).key, bench.window(1).key]
        assert nested(bench, MlflowClient(tracker.uri)) == windows, place


def _record(bench: Bench, failpoints: str) -> int:
    environment = environ(bench.environment | {"TIDEMILL_FAILPOINTS": failpoints})
    words = [sys.executable, "-c", RECORD, bench.model]
    return subprocess.run(words, env=environment, timeout=120, check=False).returncode
