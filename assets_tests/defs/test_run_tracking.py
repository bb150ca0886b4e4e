"""An error of MLflow while its parent run starts does not fail the deployment."""

from types import SimpleNamespace
from typing import Any

import dagster as dg
import mlflow
import pytest
from mlflow.exceptions import MlflowException

from tidemill.adapters.mlflow.tracker import MlflowTracker
from tidemill.core.errors import TrackerUnavailable
from tidemill.defs.run_tracking import RunTracker, TrackedRun

MODEL: Any = SimpleNamespace(model="tides")


@dg.job
def anything() -> None:
    """A job, from which a run can be created."""


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> MlflowTracker:
    folder = tmp_path_factory.mktemp("mlflow")
    artifacts = (folder / "artifacts").as_uri()
    return MlflowTracker(f"sqlite:///{folder}/mlflow.db", artifacts, "http://ui", 5)


@pytest.mark.parametrize(
    "error", [MlflowException("it is unavailable"), ValueError("nonsense")], ids=repr
)
@pytest.mark.parametrize("step", ["set_experiment", "search_runs", "start_run", "set_tags"])
def test_an_error_while_the_parent_run_starts_is_only_kept(
    step: str,
    error: Exception,
    tracker: MlflowTracker,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    run_tracker = RunTracker(
        MODEL,
        TrackedRun(instance.create_run_for_job(anything), instance, "http://d"),
        lambda: tracker,
    )
    with monkeypatch.context() as broken:
        broken.setattr(mlflow, step, fail)
        run_tracker.record_deployments()
        run_tracker.close(True)
    assert isinstance(run_tracker.error, TrackerUnavailable)
    assert str(error) in run_tracker.error.message
    assert mlflow.active_run() is None  # else the next Dagster run would be recorded in this one
